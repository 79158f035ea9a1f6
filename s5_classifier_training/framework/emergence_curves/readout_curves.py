"""Curves over layers from what probes and floors read: metrics, plain and in every resample of the groups."""

from dataclasses import dataclass

import numpy as np
from emergence_curves.emergence_landmarks import LEVEL, Curve
from measures.metrics import accuracy, confusion_counts, ends_auroc, quadratic_kappa
from measures.predictions import Prediction
from twins_s5.group_statistics import group_bootstrap

METRICS = ("kappa", "accuracy", "auroc")


@dataclass(frozen=True)
class Readout:
    """Out-of-fold codes and scores, each [n, R], of one probe or floor in R repeats."""

    codes: np.ndarray
    scores: np.ndarray

    @classmethod
    def unfilled(cls, n: int, n_repeats: int) -> "Readout":
        return cls(np.full((n, n_repeats), -1), np.full((n, n_repeats), np.nan))

    @classmethod
    def of_prediction(cls, predicted: Prediction) -> "Readout":
        """Of a classification of codes: its label and the expected one, R = 1."""
        expected = predicted.probabilities @ np.arange(predicted.probabilities.shape[1])  # [n]
        return cls(predicted.label[:, None], expected[:, None])

    def of_rows(self, rows: np.ndarray) -> "Readout":
        return Readout(self.codes[rows], self.scores[rows])


@dataclass(frozen=True)
class ResampledLabels:
    """The classes of n sentences, and resamples of their groups."""

    codes: np.ndarray  # [n], 0 to n_classes - 1; a class may be without a sentence
    n_classes: int
    weights: np.ndarray  # [B, n]

    @classmethod
    def drawn(
        cls,
        codes: np.ndarray,
        n_classes: int,
        groups: np.ndarray,
        n_resamples: int,
        rng: np.random.Generator,
    ) -> "ResampledLabels":
        return cls(codes, n_classes, complete_resamples(codes, groups, n_resamples, rng))

    def curves(
        self, readouts: dict[str, list[Readout]], metrics: tuple[str, ...] = METRICS
    ) -> dict[tuple[str, str], Curve]:
        """By (name, metric) the curve of each list of readouts, one a layer."""
        return {
            (name, metric): self._curve(metric, by_layer)
            for metric in metrics
            for name, by_layer in readouts.items()
        }

    def _curve(self, metric: str, by_layer: list[Readout]) -> Curve:
        once = np.ones((1, len(self.codes)))
        plain, resampled = (
            [resampled_metric(metric, self.codes, self.n_classes, readout, weights) for readout in by_layer]
            for weights in (once, self.weights)
        )
        return Curve(np.concatenate(plain), np.stack(resampled, axis=1))


@dataclass(frozen=True)
class SentenceCurves:
    """What the probes read in some sentences, beside what the text alone tells of these."""

    n_sentences: int
    n_groups: int
    metrics: tuple[str, ...]  # those that these sentences allow
    floors: dict[tuple[str, str], Curve]  # (floor, metric)
    probes: dict[tuple[str, str], Curve]  # (probe, metric)


def sentence_curves(
    labels: ResampledLabels,
    groups: np.ndarray,
    probes: dict[str, list[Readout]],
    floors: dict[str, Readout],
    metrics: tuple[str, ...] = METRICS,
) -> SentenceCurves:
    """The curves of probes and floors on the sentences that have these labels and groups [n]."""
    return SentenceCurves(
        n_sentences=len(groups),
        n_groups=len(np.unique(groups)),
        metrics=metrics,
        floors=labels.curves({name: [readout] for name, readout in floors.items()}, metrics),
        probes=labels.curves(probes, metrics),
    )


def complete_resamples(
    codes: np.ndarray, groups: np.ndarray, n_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Group resamples [B, n] in which each class of `codes` [n] occurs: one without it is drawn again."""
    weights = group_bootstrap(groups, n_resamples, rng)
    occurring, places = np.unique(codes, return_inverse=True)
    onehot = np.eye(len(occurring))[places]  # [n, classes that occur]
    while (lacking := (weights @ onehot == 0).any(axis=1)).any():
        weights[lacking] = group_bootstrap(groups, int(lacking.sum()), rng)
    return weights


def null_curves(metric: str, shuffled: np.ndarray, readouts: list[Readout]) -> np.ndarray:
    """The metric by layer for each of the shuffled label sets [n, P], [P, N]."""
    once, n_classes = np.ones((1, len(shuffled))), int(shuffled.max()) + 1
    curves = np.empty((shuffled.shape[1], len(readouts)))
    for p, position in np.ndindex(curves.shape):
        readout = readouts[position]
        column = Readout(readout.codes[:, [p]], readout.scores[:, [p]])
        curves[p, position] = resampled_metric(metric, shuffled[:, p], n_classes, column, once)[0]
    return curves


def upper_of_null(shuffled: np.ndarray) -> float:
    """What the largest value over the layers exceeds in no more than 5 % of the shuffled label sets."""
    return float(np.quantile(shuffled.max(axis=1), LEVEL, method="higher"))


def resampled_metric(
    metric: str, codes: np.ndarray, n_classes: int, readout: Readout, weights: np.ndarray
) -> np.ndarray:
    """A metric under each row of weights, [B], averaged over the repeats.

    `auroc` sets the top class against the bottom class and leaves the others out.
    """
    by_repeat = []
    for found, scores in zip(readout.codes.T, readout.scores.T):
        if metric == "auroc":
            by_repeat.append(ends_auroc(codes, scores, (0, n_classes - 1), weights))
        else:
            confusion = confusion_counts(codes, found, n_classes, weights)
            by_repeat.append(accuracy(confusion) if metric == "accuracy" else quadratic_kappa(confusion))
    return np.mean(by_repeat, axis=0)
