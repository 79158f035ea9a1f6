"""What an experiment leaves in `working/`: results.json, predictions.csv, the model and the figures."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from experiments.experiment_folder import FORMAT_VERSION, results_replaced
from experiments.experiment_run import Outcome
from figures.experiment_figures import draw_experiment
from measures.predictions import plain_metrics
from models.model_files import save_model
from twins_s5.atomic_files import write_json

HEADLINE = {
    "classification": {"accuracy": "accuracy", "kappa": "quadratic kappa"},
    "regression": {"r2": "R²", "spearman": "Spearman"},
}


def results_content(outcome: Outcome) -> dict:
    """The content of results.json: the same for the same dataset, configuration and libraries."""
    config, dataset, split = outcome.config, outcome.dataset, outcome.split
    by_fold = outcome.cross_validation.by_fold
    on_train = plain_metrics(dataset.y[split.train], outcome.final.on_train, dataset.classes)
    return {
        "format_version": FORMAT_VERSION,
        "config": config.as_json(),
        "dataset": {"path": config.dataset, "sha256": dataset.sha256, "metadata": dataset.metadata},
        "split": {
            "method": split.method,
            "n_train": len(split.train),
            "n_test": len(split.test),
            "n_train_groups": len(np.unique(dataset.groups[split.train])),
            "n_test_groups": len(np.unique(dataset.groups[split.test])),
            "test_sentence_index": dataset.sentence_index[split.test],
        },
        "caveats": split.caveats,
        "n_inputs": dataset.X.shape[1],
        "classes": dataset.classes if config.task == "classification" else None,
        "chosen_parameters": outcome.final.chosen_parameters,
        "cv_mean": {name: np.mean([fold[name] for fold in by_fold]) for name in by_fold[0]},
        "cv_std": {name: np.std([fold[name] for fold in by_fold], ddof=1) for name in by_fold[0]},
        **{f"train_{name}": value for name, value in on_train.items()},
        **outcome.test,
        "baselines": outcome.baselines,
        **({"apart": outcome.apart} if outcome.apart else {}),
    }


def prediction_table(outcome: Outcome) -> pd.DataFrame:
    """One row per sentence: out-of-fold predictions in the training part, the final model's in the test."""
    dataset, split = outcome.dataset, outcome.split
    out_of_fold, on_test = outcome.cross_validation, outcome.final.on_test
    blocks = []
    for part, rows, predicted, fold in (
        ("train", split.train, out_of_fold.predicted, out_of_fold.fold_of_row),
        ("test", split.test, on_test, np.full(len(split.test), -1)),
    ):
        block = pd.DataFrame(
            {
                "sentence_index": dataset.sentence_index[rows],
                "group": dataset.groups[rows],
                "part": part,
                "fold": fold,
                "y_true": dataset.y[rows],
                "y_pred": np.asarray(predicted.label).astype(dataset.y.dtype),
            }
        )
        if predicted.probabilities is not None:
            for k, label in enumerate(dataset.classes):
                block[f"p_{label}"] = predicted.probabilities[:, k]
        for column, values in dataset.kinds.items():
            block[column] = values[rows]
        block["sentence"] = dataset.sentences[rows]
        blocks.append(block)
    return pd.concat(blocks).sort_values("sentence_index", ignore_index=True)


def write_results(working: Path, outcome: Outcome, record: dict) -> dict:
    """Replace the results in `working/`, with `record` as run.json; returns the content of results.json."""
    content = results_content(outcome)
    with results_replaced(working, record) as fresh:
        write_json(fresh / "results.json", content)
        prediction_table(outcome).to_csv(fresh / "predictions.csv", index=False)
        save_model(outcome.final.model, fresh / "model.skops")
        draw_experiment(fresh, outcome.dataset.y[outcome.split.test], outcome.final.on_test, content)
    return content


def headline(results: dict) -> str:
    """The closing line: test figures beside the constant guess and TF-IDF."""
    task, baselines = results["config"]["task"], results["baselines"]
    constant = "majority" if task == "classification" else "mean"
    return (
        f"test of {results['config']['model']} on {results['split']['n_test']} sentences: "
        f"{_with_intervals(results, task)}; {constant}: {_without(baselines['majority'], task)}; "
        f"TF-IDF: {_without(baselines['tfidf'], task)}"
    )


def apart_lines(results: dict) -> list[str]:
    """The same for each kind of test sentences; no line where the sentences have no such columns."""
    task = results["config"]["task"]
    return [
        f"{column} {value}, {entry['n']} sentences: {_with_intervals(entry['model'], task)}; "
        f"TF-IDF: {_without(entry['tfidf'], task)}"
        for column, values in results.get("apart", {}).items()
        for value, entry in values.items()
    ]


def _without(figures: dict, task: str) -> str:
    """The headline metrics without their intervals."""
    return ", ".join(f"{title} {_shown(figures, metric)}" for metric, title in HEADLINE[task].items())


def _with_intervals(figures: dict, task: str) -> str:
    return ", ".join(
        f"{title} {_shown(figures, metric)} "
        f"[{figures[f'test_{metric}_low']:.3f}, {figures[f'test_{metric}_high']:.3f}]"
        for metric, title in HEADLINE[task].items()
    )


def _shown(figures: dict, metric: str) -> str:
    value = figures[f"test_{metric}"]
    return "none" if math.isnan(value) else f"{value:.3f}"  # a constant has no correlation
