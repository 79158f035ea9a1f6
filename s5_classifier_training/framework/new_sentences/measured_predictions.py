"""What a frozen probe says of new sentences and is worth on them, beside what their words alone tell."""

from dataclasses import dataclass

import numpy as np
from experiments.experiment_dataset import Dataset, rows_in_known_groups
from measures.grouped_rows import grouped_folds, strata_of
from measures.metrics import ends_auroc
from measures.predictions import Prediction, metrics_with_intervals
from measures.sentence_kinds import measured_apart
from models.text_baselines import length_prediction, stop_words_prediction, tfidf_prediction
from new_sentences.frozen_probe import FrozenProbe
from new_sentences.measurable_rows import Scope, measurable
from twins_s5.group_statistics import group_bootstrap, percentile_interval


@dataclass(frozen=True)
class Judged:
    """Rows with a known target, and all that is predicted of them."""

    y: np.ndarray  # [m]
    groups: np.ndarray  # [m]
    predicted: dict[str, Prediction]  # by `model` and text-only baseline

    def of_rows(self, rows: np.ndarray) -> "Judged":
        predicted = {name: prediction.of_rows(rows) for name, prediction in self.predicted.items()}
        return Judged(self.y[rows], self.groups[rows], predicted)


@dataclass(frozen=True)
class NewResults:
    """Predictions for n new sentences, and figures where their targets allow some."""

    predicted: Prediction
    trained_on: np.ndarray  # [n] bool: the sentence, or one of its group, was trained on
    scope: Scope
    figures: dict  # `n`, `n_groups`, and the metrics by `model` and text-only baseline; or nothing
    held_out: dict  # the same on the version's own test sentences
    apart: dict[str, dict[str, dict]]  # the same by column of the new sentences and its value


def measure_probe(probe: FrozenProbe, new: Dataset) -> NewResults:
    """Predict new sentences and measure what can be; ValueError where they have other inputs."""
    predicted = probe.predict(new)
    train = probe.part("train")
    known = train["sentence"].to_numpy(str), train["group"].to_numpy()
    trained_on = rows_in_known_groups(new, *known, probe.metadata["source"])
    scope = measurable(probe, new, ~trained_on)
    if not len(scope.rows):
        return NewResults(predicted, trained_on, scope, {}, {}, {})
    text_on_test, text_on_new = text_only_predictions(probe, new)
    judged = Judged(new.y, new.groups, {"model": predicted} | text_on_new).of_rows(scope.rows)
    kinds = {column: values[scope.rows] for column, values in new.kinds.items()}
    return NewResults(
        predicted,
        trained_on,
        scope,
        figures=figures_of(judged, probe, scope),
        held_out=held_out_figures(probe, scope, text_on_test),
        apart=measured_apart(kinds, lambda rows: figures_of(judged.of_rows(rows), probe, scope)),
    )


def text_only_predictions(
    probe: FrozenProbe, new: Dataset
) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
    """What length, stop words, and words and word pairs say of the version's test sentences and of the new
    ones, fitted on the sentences that it was trained on, as in training.
    """
    config, train, test = probe.config, probe.part("train"), probe.part("test")
    y, groups = train["y_true"].to_numpy(), train["group"].to_numpy()
    folds = grouped_folds(strata_of(y, config.task), groups, config.folds, config.seed)
    texts = [rows["sentence"].to_numpy(str) for rows in (train, test)]
    sentences = np.concatenate([*texts, new.sentences])
    fitted_on, rest = np.split(np.arange(len(sentences)), [len(train)])
    data = (config.task, sentences, y, fitted_on, rest)
    predicted = {
        "length": length_prediction(*data),
        "stop_words": stop_words_prediction(*data, folds),
        "tfidf": tfidf_prediction(*data, folds),
    }
    return tuple(
        {name: prediction.of_rows(rows) for name, prediction in predicted.items()}
        for rows in np.split(np.arange(len(rest)), [len(test)])
    )


def held_out_figures(probe: FrozenProbe, scope: Scope, text_only: dict[str, Prediction]) -> dict:
    """The same figures on the version's own test sentences; none where the labels of these are unknown."""
    if probe.task == "regression" and not scope.task_metrics:
        return {}
    test = probe.part("test")
    predicted = {"model": probe.test_prediction()} | text_only
    judged = Judged(test["y_true"].to_numpy(), test["group"].to_numpy(), predicted)
    if not scope.task_metrics:
        judged = judged.of_rows(np.flatnonzero(np.isin(judged.y, scope.ends)))
    return figures_of(judged, probe, scope)


def figures_of(judged: Judged, probe: FrozenProbe, scope: Scope) -> dict:
    """Counts, and each predictor's metrics with 95 % bootstrap intervals over groups."""
    rng = np.random.default_rng(probe.config.seed)
    weights = group_bootstrap(judged.groups, probe.config.bootstrap, rng)
    metrics = {
        name: _metrics(judged.y, prediction, probe, scope, weights)
        for name, prediction in judged.predicted.items()
    }
    return {"n": len(judged.y), "n_groups": len(np.unique(judged.groups)), **metrics}


def _metrics(
    y: np.ndarray, predicted: Prediction, probe: FrozenProbe, scope: Scope, weights: np.ndarray
) -> dict[str, float]:
    metrics = {}
    if scope.task_metrics:
        as_in_training = metrics_with_intervals(y, predicted, probe.classes, weights)
        metrics = {name.removeprefix("test_"): value for name, value in as_in_training.items()}
    if scope.ends:
        scores = graded_scores(predicted, probe.classes)
        (value,) = ends_auroc(y, scores, scope.ends, np.ones((1, len(y))))
        low, high = percentile_interval(ends_auroc(y, scores, scope.ends, weights))
        metrics |= {"ends_auroc": float(value), "ends_auroc_low": low, "ends_auroc_high": high}
    return metrics


def graded_scores(predicted: Prediction, classes: np.ndarray) -> np.ndarray:
    """One number a row, [n]: the expected label, or the predicted activation."""
    return predicted.label if predicted.probabilities is None else predicted.probabilities @ classes
