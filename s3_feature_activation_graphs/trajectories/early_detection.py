"""From which part of a sentence on features tell label 3 from label 0, beside what the words alone tell."""

from dataclasses import dataclass

import numpy as np
from twins_s3.group_statistics import simultaneous_band, weighted_auroc

from .curve_bands import Curves
from .positions import prefix_peaks
from .text_baseline import text_prefix_scores, text_prefixes

MIN_HELD_OUT = 10  # sentences of label 0 and of label 3, for curves on the confirmation part alone


@dataclass(frozen=True)
class EarlyDetection:
    """How early the features tell label 3 from label 0, and how early the words do."""

    features: Curves  # one curve per feature
    words: Curves | None  # one curve; None where no text model could be fitted
    onset: np.ndarray  # [n_features] share from which the lower bound stays above 0.5, NaN if none
    n_by_label: dict[int, int]  # number of sentences of label 0 and 3 that the curves are about
    sentences: str  # `confirmation`, `all`, or `new`: all, and none of them chose the features


def early_detection(
    activations: np.ndarray,
    offsets: np.ndarray,
    tokens: np.ndarray,
    labels: np.ndarray,
    group: np.ndarray,
    confirmation: np.ndarray | None,
    weights: np.ndarray,
    shares: np.ndarray,
    seed: int,
) -> EarlyDetection:
    """Cumulative AUROC on the sentences of `confirmation` [n] bool, which did not choose the features.

    Where these are fewer than `MIN_HELD_OUT` of label 0 or 3, on all sentences, which flatters features
    that were chosen on them. With `confirmation` None, others chose them: on all sentences.
    Raises ValueError when label 0 or 3 does not occur.
    """
    held_out = confirmation is not None and is_enough(labels[confirmation])
    sentences = "new" if confirmation is None else "confirmation" if held_out else "all"
    rows = confirmation if held_out else np.ones(len(labels), bool)
    prefix = prefix_peaks(activations, offsets, shares)[:, rows]  # [n_shares, n_rows, n_features]
    curves = cumulative_auroc(prefix, labels[rows], weights[:, rows], shares)
    prefixes = text_prefixes(tokens, offsets, shares)
    train = ~confirmation if held_out else None
    scores = text_prefix_scores(prefixes, labels, group, train, seed)[:, rows]  # [n_shares, n_rows]
    extreme = (labels[rows] == 0) | (labels[rows] == 3)
    words = None
    if np.isfinite(scores[:, extreme]).all():
        words = cumulative_auroc(scores[..., None], labels[rows], weights[:, rows], shares)
    n_by_label = {label: int((labels[rows] == label).sum()) for label in (0, 3)}
    return EarlyDetection(curves, words, detectable_from(curves), n_by_label, sentences)


def is_enough(labels: np.ndarray) -> bool:
    """Whether sentences of these labels can be judged by themselves."""
    return min((labels == label).sum() for label in (0, 3)) >= MIN_HELD_OUT


def cumulative_auroc(
    prefix: np.ndarray, labels: np.ndarray, weights: np.ndarray, shares: np.ndarray
) -> Curves:
    """AUROC of label 3 against label 0 for a reader who has read that share of each sentence.

    `prefix` [n_shares, n, n_curves] holds the scores from the text read so far (`prefix_peaks`), `weights`
    [n_boot, n] come from `group_bootstrap`. Raises ValueError when one of the labels does not occur.
    """
    rows = (labels == 0) | (labels == 3)
    positive = labels[rows] == 3  # [n_03] bool
    if positive.all() or not positive.any():
        raise ValueError("cumulative AUROC needs sentences of label 0 and of label 3")
    n_shares, _, n_curves = prefix.shape
    estimate, low, high = np.full((3, n_curves, n_shares), np.nan)
    one = np.ones((1, rows.sum()))
    drawn = weights[:, rows]  # [n_boot, n_03]
    for curve in range(n_curves):
        scores = prefix[:, rows, curve]  # [n_shares, n_03]
        estimate[curve] = [weighted_auroc(row, positive, one)[0] for row in scores]
        replicates = np.array(
            [weighted_auroc(row, positive, drawn) for row in scores]
        ).T  # [n_boot, n_shares]
        low[curve], high[curve] = simultaneous_band(estimate[curve], replicates)
    return Curves(x=shares, estimate=estimate, low=np.clip(low, 0, 1), high=np.clip(high, 0, 1))


def detectable_from(curves: Curves, floor: float = 0.5) -> np.ndarray:
    """First share from which on the lower bound stays above `floor`, [n_curves]; NaN where it does not."""
    above = np.nan_to_num(curves.low, nan=-np.inf) > floor  # [n_curves, n_points]
    stays = np.logical_and.accumulate(above[:, ::-1], axis=1)[:, ::-1]
    first = curves.x[np.argmax(stays, axis=1)]
    return np.where(stays.any(axis=1), first, np.nan)
