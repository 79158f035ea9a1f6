"""Builds `trajectories.html`: the sentences with their tokens shaded by a feature, in one file."""

import json
from pathlib import Path

import jinja2
import numpy as np
from activation_trajectories import LABELS
from plotting_utils import LABEL_NAMES, feature_style
from trajectory_inputs import Feature, Sentences

TEMPLATE = Path(__file__).with_name("trajectories_template.html")


def page_data(
    sentences: Sentences, features: list[Feature], activations: np.ndarray, rows: np.ndarray
) -> dict:
    """What the page shows, ready for JSON.

    `activations` [T, n_features]; `rows` are the sentences to show, in order. `largest` is over the whole
    run, so that a shade means the same whatever part of it is shown. Of each feature only the tokens are
    listed on which it fires: `at` counts tokens through all sentences of the page.
    """
    tokens = np.concatenate([np.arange(sentences.offsets[r], sentences.offsets[r + 1]) for r in rows])
    shown = activations[tokens]  # [n_shown_tokens, n_features]
    entries = []
    for i, (feature, column) in enumerate(zip(features, shown.T)):
        at = np.flatnonzero(column)
        entries.append(
            {
                "name": feature.name,
                "key": feature.short_name,
                "score": feature.score,
                "url": feature.neuronpedia_url,
                "largest": _rounded(activations[:, i].max()),
                "colour": feature_style(i)["color"],
                "at": at.tolist(),
                "values": [_rounded(value) for value in column[at]],
            }
        )
    return {
        "features": entries,
        "sentences": [
            {
                "index": int(sentences.index[r]),
                "label": int(sentences.labels[r]),
                "tokens": sentences.tokens[sentences.offsets[r] : sentences.offsets[r + 1]].tolist(),
            }
            for r in rows
        ],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def build_page(
    model: str, sentences: Sentences, features: list[Feature], activations: np.ndarray, rows: np.ndarray
) -> str:
    """Return the page's HTML."""
    data = json.dumps(
        page_data(sentences, features, activations, rows), ensure_ascii=False, separators=(",", ":")
    )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        model=model,
        features=features,
        n_sentences=len(rows),
        labels=[(label, LABEL_NAMES[label]) for label in LABELS],
        # Inside a script element only "<" could end it: a token may well be "</script>".
        data=jinja2.utils.markupsafe.Markup(data.replace("<", "\\u003c")),
    )
