"""Builds `trajectories.html`: the sentences with their tokens shaded by a feature, in one file."""

import json
from pathlib import Path

import jinja2
import numpy as np
from drawing_inputs.drawn_run import DrawnRun
from drawing_inputs.feature import Feature
from drawing_inputs.quoted_pages import QuotedPage, QuotedPages
from drawing_inputs.sentence_labels import LABEL_NAMES
from plotting_utils import feature_style

TEMPLATE = Path(__file__).with_name("trajectories_template.html")


def build_page(run: DrawnRun, rows: np.ndarray, pages: QuotedPages | None = None) -> str:
    """Return the HTML of a page that shows the sentences `rows`, in order, and quotes Neuronpedia."""
    data = json.dumps(page_data(run, rows, pages), ensure_ascii=False, separators=(",", ":"))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        model=run.s1.run["model"],
        features=run.features,
        n_sentences=len(rows),
        has_attribution=run.attribution is not None,
        labelled=run.labelled,
        framed=pages.origin if pages else None,
        labels=list(enumerate(LABEL_NAMES)),
        # Inside a script element only "<" could end it: a token may well be "</script>".
        data=jinja2.utils.markupsafe.Markup(data.replace("<", "\\u003c")),
    )


def page_data(run: DrawnRun, rows: np.ndarray, pages: QuotedPages | None = None) -> dict:
    """What the page shows, ready for JSON; `largest` of a feature is over the whole run.

    So a shade means the same whatever part of the run is shown.
    """
    tokens = np.concatenate([np.arange(len(run.s1.tokens))[run.tokens_of(row)] for row in rows])
    return {
        "features": [
            feature_entry(i, feature, run.activations[:, i], tokens)
            | ({} if run.attribution is None else attribution_entry(run.attribution[:, i], tokens))
            | quoted_entry(pages.of(feature.neuronpedia_url) if pages else None)
            for i, feature in enumerate(run.features)
        ],
        "sentences": [sentence_entry(run, row) for row in rows.tolist()],
    }


def feature_entry(i: int, feature: Feature, activations: np.ndarray, tokens: np.ndarray) -> dict:
    """Of the activations [T], those at `tokens` (rows of the page's tokens) that are not 0."""
    values = activations[tokens]
    at = np.flatnonzero(values)
    return {
        "name": feature.name,
        "key": feature.short_name,
        "score": feature.score,
        "url": feature.neuronpedia_url,
        "largest": rounded(activations.max()),
        "colour": feature_style(i)["color"],
        "at": at.tolist(),
        "values": [rounded(value) for value in values[at]],
    }


def attribution_entry(attribution: np.ndarray, tokens: np.ndarray) -> dict:
    """Of the attribution [T], in nats, what the page shows; `strongest` is over the whole run."""
    values = attribution[tokens]
    at = np.flatnonzero(values)
    return {
        "effect_at": at.tolist(),
        "effects": [rounded(value) for value in values[at]],
        "strongest": rounded(np.abs(attribution).max()),
    }


def quoted_entry(page: QuotedPage | None) -> dict:
    """What others say of a feature, where it was fetched."""
    return {} if page is None else {"quotes": page.quotes, "dashboard": page.dashboard}


def sentence_entry(run: DrawnRun, row: int) -> dict:
    return {
        "index": row,
        "label": int(run.labels[row]) if run.labelled else None,
        "tokens": run.s1.tokens[run.tokens_of(row)].tolist(),
    }


def rounded(value: float) -> float:
    return float(f"{value:.4g}")
