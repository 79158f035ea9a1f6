"""What predictions for new sentences leave behind: a row per sentence, the figures, and lines to read."""

from pathlib import Path

import numpy as np
import pandas as pd
from experiments.experiment_dataset import Dataset
from experiments.experiment_folder import FORMAT_VERSION
from new_sentences.frozen_probe import PROBABILITY, FrozenProbe
from new_sentences.measured_predictions import NewResults, graded_scores
from twins_s5.atomic_files import replaced_together, write_json

TEXT_ONLY = {"length": "length", "stop_words": "stop words", "tfidf": "TF-IDF"}
TITLES = {
    "classification": {"accuracy": "accuracy", "kappa": "quadratic kappa"},
    "regression": {"r2": "R²", "spearman": "Spearman"},
}


def prediction_table(probe: FrozenProbe, new: Dataset, results: NewResults) -> pd.DataFrame:
    """One row per new sentence; `label` and `part` are there where the dataset has them."""
    predicted = results.predicted
    columns = {"sentence_index": new.sentence_index, "sentence": new.sentences, "group": new.groups}
    if (new.part != "").any():
        columns["part"] = new.part
    columns |= new.kinds | {"trained_on": results.trained_on, "prediction": predicted.label}
    if predicted.probabilities is not None:
        columns["expected_label"] = graded_scores(predicted, probe.classes)
        by_class = zip(probe.classes, predicted.probabilities.T)
        columns |= {f"{PROBABILITY}{label}": values for label, values in by_class}
    if new.y is not None:
        columns["label"] = new.y
    return pd.DataFrame(columns)


def results_content(probe: FrozenProbe, new: Dataset, results: NewResults) -> dict:
    """The content of the JSON file, without its record."""
    scope = results.scope
    return {
        "format_version": FORMAT_VERSION,
        "version": {"experiment": probe.folder.parent.name, "name": probe.folder.name},
        "trained_on": {"path": probe.config.dataset, "sha256": probe.results["dataset"]["sha256"]},
        "dataset": {"path": str(new.path), "sha256": new.sha256, "metadata": new.metadata},
        "n_sentences": len(new.sentences),
        "n_trained_on": int(results.trained_on.sum()),
        "said": said(results),
        "ends": scope.ends,
        "new": results.figures or None,
        "held_out": results.held_out or None,
        "apart": results.apart,
    }


def write_predictions(
    probe: FrozenProbe, new: Dataset, results: NewResults, record: dict
) -> tuple[Path, Path]:
    """Replace the CSV and JSON in the experiment's `predictions/` as one; returns their paths."""
    folder, stem = probe.folder.parent / "predictions", f"{probe.folder.name}_{new.path.stem}"
    table, figures = f"{stem}.csv", f"{stem}.json"
    with replaced_together(folder, last=figures) as fresh:
        prediction_table(probe, new, results).to_csv(fresh / table, index=False)
        write_json(fresh / figures, results_content(probe, new, results) | record)
    return folder / table, folder / figures


def said(results: NewResults) -> list[str]:
    """What has to be known to read the figures, a line each."""
    n, n_known = len(results.trained_on), int(results.trained_on.sum())
    lines = [results.scope.said] if results.scope.said else []
    if n_known:
        lines.append(
            f"{n_known} of {n} sentences, or others of their group, were trained on: predicted, not measured"
        )
    return lines


def describe(probe: FrozenProbe, results: NewResults) -> list[str]:
    """The closing lines: what is predicted, and what that is worth on these and on held-out sentences."""
    predicted = results.predicted.label
    if probe.task == "classification":
        spread = ", ".join(f"{label}: {(predicted == label).sum()}" for label in probe.classes)
    else:
        spread = f"{predicted.min():.3g} to {predicted.max():.3g}, median {np.median(predicted):.3g}"
    titles = dict(TITLES[probe.task]) if results.scope.task_metrics else {}
    if results.scope.ends:
        titles["ends_auroc"] = "AUROC of label {1} against {0}:".format(*results.scope.ends)
    blocks = [("new", results.figures), ("held-out", results.held_out)]
    blocks += [pair for values in results.apart.values() for pair in values.items()]
    return [f"{probe.title} predicts {len(predicted)} sentences, {spread}"] + [
        f"on {figures['n']} {which} sentences: {_line(figures, titles)}"
        for which, figures in blocks
        if figures
    ]


def _line(figures: dict, titles: dict[str, str]) -> str:
    parts = []
    for metric, title in titles.items():
        model = figures["model"]
        value, low, high = (_number(model[f"{metric}{end}"]) for end in ("", "_low", "_high"))
        text = ", ".join(f"{name} {_number(figures[key][metric])}" for key, name in TEXT_ONLY.items())
        parts.append(f"{title} {value} [{low}, {high}] ({text})")
    return "; ".join(parts)


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"
