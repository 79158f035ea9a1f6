"""The original study's grid on a dataset of ours, beside its published accuracies."""

from pathlib import Path

import numpy as np
import pandas as pd
from experiments.experiment_dataset import Dataset, load_dataset
from measures.grouped_rows import grouped_folds
from models.fitting import fit_model
from models.model_choice import Recipe
from twins_s5.progress import progress

STUDY_MODEL, STUDY_LAYERS, STUDY_LAST_LAYER = "gemma-2-2b", (0, 5, 10, 15, 19), 25
SMALL = 100
# (model, sentences, layer of Gemma 2 2B): published accuracy, 5-fold cross-validation, final token
PUBLISHED = {
    ("rbf_svm", 100, 0): 0.40,
    ("rbf_svm", 100, 5): 0.5625,
    ("rbf_svm", 100, 10): 0.6875,
    ("rbf_svm", 100, 15): 0.70,
    ("rbf_svm", 100, 19): 0.6875,
    ("rbf_svm", 1020, 15): 0.858,
    ("logistic", 1020, 15): 0.836,
}


def load_for_grid(path: Path) -> Dataset:
    """A classification dataset that is large enough for both sizes."""
    dataset = load_dataset(path)
    if dataset.task != "classification" or len(dataset.y) < 2 * SMALL:
        raise ValueError(f"{path}: needs a classification dataset of at least {2 * SMALL} sentences")
    return dataset


def is_study_model(dataset: Dataset) -> bool:
    return STUDY_MODEL in str(dataset.source["model"])


def depths(dataset: Dataset) -> list[tuple[int, int]]:
    """Pairs (layer of the study, position in the dataset): on another model, the corresponding depth."""
    layers = dataset.layers.tolist()
    wanted = {
        layer: layer if is_study_model(dataset) else round(layer / STUDY_LAST_LAYER * layers[-1])
        for layer in STUDY_LAYERS
    }
    missing = [str(layer) for layer in wanted.values() if layer not in layers]
    if missing:
        raise ValueError(f"{dataset.path} has no layer {', '.join(missing)}; write it with --layers all")
    return [(layer, layers.index(ours)) for layer, ours in wanted.items()]


def draw_sentences(dataset: Dataset, size: int, rng: np.random.Generator) -> np.ndarray:
    """Row indices of `size` sentences, the same number of each label."""
    per_label = [
        rng.permutation(np.flatnonzero(dataset.y == label))[: size // len(dataset.classes)]
        for label in dataset.classes
    ]
    return np.sort(np.concatenate(per_label))


def cross_validated_accuracy(
    dataset: Dataset, rows: np.ndarray, position: int, model: str, seed: int
) -> float:
    """Mean accuracy of 5 grouped folds, with scikit-learn's default strength (C = 1) as in the study."""
    X = dataset.layer_inputs(position)[rows].astype(np.float64)  # [n_rows, d_model]
    y, groups = dataset.y[rows], dataset.groups[rows]
    recipe = Recipe(model, "classification", {"C": 1.0}, seed=seed)
    accuracies = []
    for train, test in grouped_folds(y, groups, 5, seed):
        fitted = fit_model(recipe, X[train], y[train], groups[train])
        accuracies.append((fitted.predict(X[test]) == y[test]).mean())
    return float(np.mean(accuracies))


def run_grid(dataset: Dataset, n_draws: int, seed: int) -> pd.DataFrame:
    """One row per model, size and layer: our mean accuracy, its spread over draws, the published one."""
    n, rows = len(dataset.y), []
    rng = np.random.default_rng(seed)  # every layer and model sees the same draws
    samples = {SMALL: [draw_sentences(dataset, SMALL, rng) for _ in range(n_draws)], n: [np.arange(n)]}
    cells = [(layer, position, size) for layer, position in depths(dataset) for size in samples]
    with progress(total=2 * len(cells), unit="cell", description="study's grid") as bar:
        for layer, position, size in cells:
            for model in ("logistic", "rbf_svm"):
                found = [
                    cross_validated_accuracy(dataset, sample, position, model, seed + k)
                    for k, sample in enumerate(samples[size])
                ]
                rows.append(
                    {
                        "model": model,
                        "sentences": size,
                        "study_layer": layer,
                        "layer": int(dataset.layers[position]),
                        "accuracy": np.mean(found),
                        "sd_over_draws": np.std(found, ddof=1) if len(found) > 1 else np.nan,
                        "published": PUBLISHED.get((model, SMALL if size == SMALL else 1020, layer)),
                    }
                )
                bar.update()
    return pd.DataFrame(rows).sort_values(["model", "sentences", "study_layer"], ignore_index=True)


def as_markdown(table: pd.DataFrame, dataset: Dataset) -> str:
    """The table for people, saying plainly when it is another model."""
    model = dataset.source["model"]
    note = (
        "the study's model"
        if is_study_model(dataset)
        else "ANOTHER MODEL than the study's, at the corresponding depths"
    )
    lines = [
        f"Ours: {model} ({note}), {dataset.trait}, {dataset.metadata['pool']} pooling. "
        "Published: Gemma 2 2B.",
        "",
        "| model | sentences | layer (study's) | accuracy, 5-fold | sd over draws | published |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        spread, published = ("" if pd.isna(v) else f"{v:.3f}" for v in (row.sd_over_draws, row.published))
        where = f"{row.layer} ({row.study_layer})"
        lines.append(
            f"| {row.model} | {row.sentences} | {where} | {row.accuracy:.3f} | {spread} | {published} |"
        )
    return "\n".join([*lines, "", "Published figures for all sentences are from 1,020 of them."]) + "\n"
