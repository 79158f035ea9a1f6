"""Curves along the sentence, one per feature: mean activation with a simultaneous band, share that fired."""

from dataclasses import dataclass

import numpy as np
from twins_s3.group_statistics import simultaneous_band

from .positions import bin_means, prefix_peaks


@dataclass(frozen=True)
class Curves:
    """Curves with simultaneous 95 % bands; NaN where nothing could be estimated."""

    x: np.ndarray  # [n_points] float64
    estimate: np.ndarray  # [n_curves, n_points] float64
    low: np.ndarray  # [n_curves, n_points] float64
    high: np.ndarray  # [n_curves, n_points] float64


def mean_trajectories(
    activations: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    n_bins: int = 20,
) -> dict[int, Curves]:
    """For each label that occurs, the mean activation of every feature along the sentence.

    `weights` [n_boot, n_sentences] come from `group_bootstrap`. One curve per feature.
    """
    values = bin_means(activations, offsets, n_bins)  # [n, n_bins, n_features]
    n_features = activations.shape[1]
    trajectories = {}
    for label in np.unique(labels).tolist():
        rows = labels == label
        flat = values[rows].reshape(rows.sum(), -1).astype(np.float64)  # [n_label, n_bins * n_features]
        drawn = weights[:, rows]  # [n_boot, n_label]
        drawn = drawn[drawn.sum(axis=1) > 0]
        replicates = (drawn @ flat / drawn.sum(axis=1, keepdims=True)).reshape(-1, n_bins, n_features)
        estimate = flat.mean(axis=0).reshape(n_bins, n_features).T  # [n_features, n_bins]
        bands = [simultaneous_band(estimate[f], replicates[:, :, f]) for f in range(n_features)]
        trajectories[label] = Curves(
            x=(np.arange(n_bins) + 0.5) / n_bins,
            estimate=estimate,
            low=np.maximum(np.array([low for low, _ in bands]), 0),  # an activation is never negative
            high=np.array([high for _, high in bands]),
        )
    return trajectories


def firing_curves(
    activations: np.ndarray, offsets: np.ndarray, labels: np.ndarray, shares: np.ndarray
) -> dict[int, np.ndarray]:
    """For each label that occurs, the share of its sentences in which a feature has fired by then.

    [n_features, n_shares] float64: the distribution of the first-firing position, whose last value is the
    share of sentences that fire at all.
    """
    fired = prefix_peaks(activations, offsets, shares) > 0  # [n_shares, n, n_features]
    return {label: fired[:, labels == label].mean(axis=1).T for label in np.unique(labels).tolist()}
