"""Repeats the grid of the original study: logistic regression and an RBF SVM at five depths and two sizes."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from experiments.experiment_dataset import STAGE, Dataset, load_dataset
from models.estimators import fit_model, grouped_folds
from threadpoolctl import threadpool_limits
from tqdm import tqdm

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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "dataset", type=Path, help="NPZ of stage 4: hidden-to-concept --layers all, final token"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=STAGE / "emergence" / "study",
        help="path without suffix for .csv and .md",
    )
    parser.add_argument(
        "--draws", type=int, default=10, help="draws of 100 sentences to average over (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of draws and folds (default: 0)")
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def depths(dataset: Dataset) -> tuple[list[tuple[int, int]], bool]:
    """Pairs (layer of the study, position in the dataset), and whether this is the study's model."""
    layers = dataset.layers.tolist()
    same = STUDY_MODEL in str(dataset.metadata["source"]["model"])
    wanted = {
        layer: layer if same else round(layer / STUDY_LAST_LAYER * layers[-1]) for layer in STUDY_LAYERS
    }
    missing = [str(layer) for layer in wanted.values() if layer not in layers]
    if missing:
        raise ValueError(f"{dataset.path} has no layer {', '.join(missing)}; write it with --layers all")
    return [(layer, layers.index(ours)) for layer, ours in wanted.items()], same


def draw_sentences(dataset: Dataset, size: int, rng: np.random.Generator) -> np.ndarray:
    """Row indices of `size` sentences, the same number of each label."""
    labels = np.unique(dataset.y)
    per_label = [
        rng.permutation(np.flatnonzero(dataset.y == label))[: size // len(labels)] for label in labels
    ]
    return np.sort(np.concatenate(per_label))


def cross_validated_accuracy(
    dataset: Dataset, rows: np.ndarray, position: int, model: str, seed: int
) -> float:
    """Mean accuracy of 5 grouped folds, with scikit-learn's default strength (C = 1) as in the study."""
    block = slice(position * dataset.d_model, (position + 1) * dataset.d_model)
    X, y, groups = dataset.X[rows, block].astype(np.float64), dataset.y[rows], dataset.groups[rows]
    accuracies = []
    for train, test in grouped_folds(y, groups, 5, seed):
        fitted = fit_model(
            model,
            "classification",
            {"C": 1.0},
            {},
            X[train],
            y[train],
            strata=y[train],
            groups=groups[train],
            folds=5,
            seed=seed,
        )
        accuracies.append((fitted.predict(X[test]) == y[test]).mean())
    return float(np.mean(accuracies))


def run_grid(dataset: Dataset, n_draws: int, seed: int) -> tuple[pd.DataFrame, bool]:
    """One row per model, size and layer: our mean accuracy, its spread over draws, the published one."""
    places, same_model = depths(dataset)
    n = len(dataset.y)
    rows = []
    for layer, position in tqdm(places, desc="layers", disable=None):
        for size in (SMALL, n):
            rng = np.random.default_rng(seed)  # every layer and model sees the same draws
            samples = (
                [np.arange(n)] if size == n else [draw_sentences(dataset, size, rng) for _ in range(n_draws)]
            )
            for model in ("logistic", "rbf_svm"):
                found = [
                    cross_validated_accuracy(dataset, sample, position, model, seed + k)
                    for k, sample in enumerate(samples)
                ]
                published = PUBLISHED.get((model, SMALL if size == SMALL else 1020, layer))
                rows.append(
                    {
                        "model": model,
                        "sentences": size,
                        "study_layer": layer,
                        "layer": int(dataset.layers[position]),
                        "accuracy": np.mean(found),
                        "sd_over_draws": np.std(found, ddof=1) if len(found) > 1 else np.nan,
                        "published": published,
                    }
                )
    return pd.DataFrame(rows).sort_values(
        ["model", "sentences", "study_layer"], ignore_index=True
    ), same_model


def as_markdown(table: pd.DataFrame, dataset: Dataset, same_model: bool) -> str:
    """The table for people, saying plainly when it is another model."""
    model = dataset.metadata["source"]["model"]
    note = (
        "the study's model" if same_model else "ANOTHER MODEL than the study's, at the corresponding depths"
    )
    lines = [
        f"Ours: {model} ({note}), {dataset.metadata['trait']}, {dataset.metadata['pool']} pooling. "
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


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        dataset = load_dataset(args.dataset)
        if dataset.task != "classification" or len(dataset.y) < 2 * SMALL:
            raise ValueError(
                f"{args.dataset}: needs a classification dataset of at least {2 * SMALL} sentences"
            )
        with threadpool_limits(1):
            table, same_model = run_grid(dataset, args.draws, args.seed)
        text = as_markdown(table, dataset, same_model)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        partial = args.output.with_name(f".{args.output.name}.{os.getpid()}.tmp")
        table.to_csv(partial, index=False)
        os.replace(partial, f"{args.output}.csv")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, f"{args.output}.md")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    print(f"wrote {args.output}.csv and .md: {len(table)} cells")
    return 0


if __name__ == "__main__":
    sys.exit(main())
