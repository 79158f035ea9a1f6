"""Trains one experiment: cross-validation on the training part, then one look at the held-out test part."""

import argparse
import math
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from experiments.experiment_dataset import (
    Dataset,
    Split,
    apply_overrides,
    library_versions,
    load_dataset,
    read_json,
    replaced_together,
    resolve_experiment,
    save_model,
    sha256_of,
    split_rows,
    strata_of,
    validate_config,
    write_json,
)
from figures import experiment_figures
from measures.metrics import (
    bootstrap_weights,
    classification_metrics,
    percentile_interval,
    regression_metrics,
)
from models.estimators import chosen_parameters, fit_model, grouped_folds
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

HEADLINE = {
    "classification": {"accuracy": "accuracy", "kappa": "quadratic kappa"},
    "regression": {"r2": "R²", "spearman": "Spearman"},
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiment", help="experiment folder, e.g. d3_hidden_to_concept; reads its working/config.json"
    )
    changes = parser.add_argument_group("changes to the configuration, for this run")
    changes.add_argument("--dataset", type=Path, help="NPZ of stage 4 to use instead")
    changes.add_argument("--model", help="model to use instead, with its default parameters and no grid")
    changes.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="set a configuration key, e.g. seed=1 or parameters.C=0.01; may be repeated",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of the linear algebra (default: 1; other numbers can change the last digits)",
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def effective_config(experiment: Path, args: argparse.Namespace) -> tuple[dict, Path]:
    """The validated configuration with the command line's changes, and the dataset's path."""
    path = experiment / "working" / "config.json"
    config = read_json(path, "start from another experiment's config.json")
    if args.model is not None:
        config |= {"model": args.model, "parameters": {}, "grid": {}}
    if args.dataset is not None:
        # The command line is relative to the shell's folder, config.json to the folder of the experiments.
        config["dataset"] = os.path.relpath(args.dataset.resolve(), experiment.parent)
    config = validate_config(apply_overrides(config, args.settings), str(path))
    return config, experiment.parent / config["dataset"]


def predict(fitted: object, X: np.ndarray, task: str) -> dict[str, np.ndarray]:
    """`label` [n] and, for classification, `probabilities` [n, K]."""
    predicted = {"label": fitted.predict(X)}
    if task == "classification":
        predicted["probabilities"] = fitted.predict_proba(X)
    return predicted


def measure(
    y: np.ndarray, predicted: dict[str, np.ndarray], classes: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The task's metrics under each row of weights, each [B]."""
    if "probabilities" in predicted:
        return classification_metrics(y, predicted["label"], predicted["probabilities"], classes, weights)
    return regression_metrics(y, predicted["label"], weights)


def point_and_interval(
    y: np.ndarray, predicted: dict[str, np.ndarray], classes: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """`test_<metric>`, `test_<metric>_low` and `_high` (bootstrap 95 % interval over groups)."""
    points, resampled = measure(y, predicted, classes), measure(y, predicted, classes, weights)
    figures = {}
    for name, value in points.items():
        figures[f"test_{name}"] = float(value[0])
        figures[f"test_{name}_low"], figures[f"test_{name}_high"] = percentile_interval(resampled[name])
    return figures


def text_lengths(sentences: np.ndarray) -> np.ndarray:
    """Number of words and of characters of each sentence, float64 [n, 2]."""
    return np.array([[len(str(text).split()), len(str(text))] for text in sentences], np.float64)


def baseline_predictions(dataset: Dataset, split: Split, config: dict) -> dict[str, dict[str, np.ndarray]]:
    """Predictions on the test rows of everything a probe has to beat, fitted on the same training rows.

    `majority` (regression: the mean), `length` (words and characters), `tfidf` (words and word pairs,
    strength of the penalty chosen by grouped cross-validation), `diff_means` on the probe's own inputs.
    """
    y, task, seed = dataset.y[split.train], dataset.task, config["seed"]
    strata, groups = strata_of(y, task), dataset.groups[split.train]
    folds = grouped_folds(strata, groups, config["folds"], seed)
    is_classes = task == "classification"
    constant = DummyClassifier(strategy="prior") if is_classes else DummyRegressor()
    on_length = Pipeline(
        [("scale", StandardScaler()), ("model", LogisticRegression() if is_classes else LinearRegression())]
    )
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    linear, name = (LogisticRegression(max_iter=2000), "C") if is_classes else (Ridge(), "alpha")
    on_words = GridSearchCV(
        Pipeline([("words", words), ("model", linear)]), {f"model__{name}": [0.1, 1, 10, 100]}, cv=folds
    )
    lengths = text_lengths(dataset.sentences)
    inputs = {"majority": lengths, "length": lengths, "tfidf": dataset.sentences}
    fitted = {"majority": constant, "length": on_length, "tfidf": on_words}
    predictions = {
        key: predict(fitted[key].fit(inputs[key][split.train], y), inputs[key][split.test], task)
        for key in fitted
    }
    direction = fit_model(
        "diff_means",
        task,
        {},
        {},
        dataset.X[split.train],
        y,
        strata=strata,
        groups=groups,
        folds=2,
        seed=seed,
    )
    predictions["diff_means"] = predict(direction, dataset.X[split.test], task)
    return predictions


def run_experiment(dataset: Dataset, config: dict) -> dict:
    """Everything that is measured: split, cross-validation, final fit, baselines, shuffled labels."""
    if config["first_inputs"] is not None and config["first_inputs"] > dataset.X.shape[1]:
        raise ValueError(
            f"first_inputs is {config['first_inputs']}, the dataset has {dataset.X.shape[1]} inputs"
        )
    X = dataset.X[:, : config["first_inputs"]].astype(np.float64)  # [n, d]
    if config["select_k"] is not None and config["select_k"] > X.shape[1]:
        raise ValueError(f"select_k is {config['select_k']}, there are {X.shape[1]} inputs")
    split = split_rows(dataset, config)
    task, classes = dataset.task, np.unique(dataset.y)
    strata = strata_of(dataset.y, task)

    def fit(rows: np.ndarray, y: np.ndarray, parameters: dict, grid: dict) -> object:
        return fit_model(
            config["model"],
            task,
            parameters,
            grid,
            X[rows],
            y,
            strata=strata_of(y, task),
            groups=dataset.groups[rows],
            folds=config["folds"],
            seed=config["seed"],
            select_k=config["select_k"],
        )

    folds = grouped_folds(strata[split.train], dataset.groups[split.train], config["folds"], config["seed"])
    out_of_fold = {"label": np.full(len(split.train), np.nan)}
    if task == "classification":
        out_of_fold["probabilities"] = np.full((len(split.train), len(classes)), np.nan)
    fold_of_row = np.full(len(split.train), -1)
    fold_metrics = []
    for fold, (inside, outside) in enumerate(tqdm(folds, desc="folds", disable=None)):
        rows, held_out = split.train[inside], split.train[outside]
        fitted = fit(rows, dataset.y[rows], config["parameters"], config["grid"])
        predicted = predict(fitted, X[held_out], task)
        fold_metrics.append({k: v[0] for k, v in measure(dataset.y[held_out], predicted, classes).items()})
        fold_of_row[outside] = fold
        for key, values in predicted.items():
            out_of_fold[key][outside] = values

    final = fit(split.train, dataset.y[split.train], config["parameters"], config["grid"])
    on_test = predict(final, X[split.test], task)
    weights = bootstrap_weights(
        dataset.groups[split.test], config["bootstrap"], np.random.default_rng(config["seed"])
    )
    baselines = baseline_predictions(dataset, split, config)
    compared = {
        name: point_and_interval(dataset.y[split.test], predicted, classes, weights)
        for name, predicted in baselines.items()
    }

    chosen = {name: chosen_parameters(final)[name] for name in (*config["parameters"], *config["grid"])}
    rng = np.random.default_rng([config["seed"], 1])
    shuffled = []
    for _ in tqdm(range(config["shuffles"]), desc="shuffled labels", disable=None):
        permuted = rng.permutation(dataset.y[split.train])
        predicted = predict(fit(split.train, permuted, chosen, {}), X[split.test], task)
        shuffled.append({k: v[0] for k, v in measure(dataset.y[split.test], predicted, classes).items()})
    compared["shuffled"] = {
        f"test_{name}{suffix}": float(reduce([run[name] for run in shuffled]))
        for name in shuffled[0]
        for suffix, reduce in (("", np.mean), ("_low", np.min), ("_high", np.max))
    }

    on_train = measure(dataset.y[split.train], predict(final, X[split.train], task), classes)
    results = {
        "format_version": 1,
        "config": config,
        "dataset": {"path": config["dataset"], "sha256": dataset.sha256, "metadata": dataset.metadata},
        "split": {
            "method": split.method,
            "n_train": len(split.train),
            "n_test": len(split.test),
            "n_train_groups": len(np.unique(dataset.groups[split.train])),
            "n_test_groups": len(np.unique(dataset.groups[split.test])),
            "test_sentence_index": dataset.sentence_index[split.test],
        },
        "n_inputs": X.shape[1],
        "classes": classes if task == "classification" else None,
        "chosen_parameters": chosen,
        "cv_mean": {name: np.mean([fold[name] for fold in fold_metrics]) for name in fold_metrics[0]},
        "cv_std": {name: np.std([fold[name] for fold in fold_metrics], ddof=1) for name in fold_metrics[0]},
        **{f"train_{name}": value[0] for name, value in on_train.items()},
        **point_and_interval(dataset.y[split.test], on_test, classes, weights),
        "baselines": compared,
    }
    return {
        "results": results,
        "model": final,
        "split": split,
        "on_test": on_test,
        "out_of_fold": out_of_fold,
        "fold_of_row": fold_of_row,
        "classes": classes,
    }


def prediction_table(dataset: Dataset, outcome: dict) -> pd.DataFrame:
    """One row per sentence: out-of-fold predictions of the training part, the final model's of the test
    part.
    """
    split: Split = outcome["split"]
    blocks = []
    for part, rows, predicted, fold in (
        ("train", split.train, outcome["out_of_fold"], outcome["fold_of_row"]),
        ("test", split.test, outcome["on_test"], np.full(len(split.test), -1)),
    ):
        block = pd.DataFrame(
            {
                "sentence_index": dataset.sentence_index[rows],
                "group": dataset.groups[rows],
                "part": part,
                "fold": fold,
                "y_true": dataset.y[rows],
                "y_pred": np.asarray(predicted["label"]).astype(dataset.y.dtype),
            }
        )
        for k, label in enumerate(outcome["classes"] if "probabilities" in predicted else []):
            block[f"p_{label}"] = predicted["probabilities"][:, k]
        block["sentence"] = dataset.sentences[rows]
        blocks.append(block)
    return pd.concat(blocks).sort_values("sentence_index", ignore_index=True)


def headline(results: dict) -> str:
    """The closing line: test figures beside the constant guess and TF-IDF."""
    task, baselines = results["config"]["task"], results["baselines"]

    def shown(source: dict, metric: str) -> str:
        value = source[f"test_{metric}"]
        return "none" if math.isnan(value) else f"{value:.3f}"  # a constant has no correlation

    def figures(source: dict) -> str:
        return ", ".join(f"{title} {shown(source, metric)}" for metric, title in HEADLINE[task].items())

    own = ", ".join(
        f"{title} {shown(results, metric)} "
        f"[{results[f'test_{metric}_low']:.3f}, {results[f'test_{metric}_high']:.3f}]"
        for metric, title in HEADLINE[task].items()
    )
    constant = "majority" if task == "classification" else "mean"
    return (
        f"test of {results['config']['model']} on {results['split']['n_test']} sentences: {own}; "
        f"{constant}: {figures(baselines['majority'])}; TF-IDF: {figures(baselines['tfidf'])}"
    )


def write_results(working: Path, dataset: Dataset, outcome: dict, provenance: dict) -> None:
    """Replace the results in working/: all of them, or none."""
    with replaced_together(working, last="run.json") as fresh:
        write_json(fresh / "results.json", outcome["results"])
        prediction_table(dataset, outcome).to_csv(fresh / "predictions.csv", index=False)
        save_model(outcome["model"], fresh / "model.skops")
        experiment_figures.draw_all(fresh, dataset, outcome)
        files = {path.name: sha256_of(path) for path in sorted(fresh.iterdir())}
        write_json(fresh / "run.json", {"format_version": 1, **provenance, "files": files})


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    started = time.monotonic()
    try:
        experiment = resolve_experiment(args.experiment)
        config, dataset_path = effective_config(experiment, args)
        dataset = load_dataset(dataset_path)
        if dataset.task != config["task"]:
            raise ValueError(
                f"{dataset_path} is a {dataset.task} dataset, config.json says task {config['task']!r}"
            )
        n, n_inputs = dataset.X.shape
        print(f"{experiment.name}: {config['model']} on {n} rows × {n_inputs:,} inputs from {dataset_path}")
        with threadpool_limits(args.threads), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            outcome = run_experiment(dataset, config)
        for message in sorted({str(warning.message).splitlines()[0] for warning in caught}):
            print(f"warning: {message}", file=sys.stderr)
        provenance = {
            "arguments": vars(args),
            "config": config,
            "seed": config["seed"],
            "dataset_sha256": dataset.sha256,
            "libraries": library_versions(),
            "seconds": round(time.monotonic() - started, 2),
        }
        write_results(experiment / "working", dataset, outcome, provenance)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {experiment.name}/working: results.json, predictions.csv, model.skops and figures")
    print(headline(outcome["results"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
