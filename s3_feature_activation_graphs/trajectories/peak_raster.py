"""Sentences aligned at the peak of a feature."""

from dataclasses import dataclass

import numpy as np

from .positions import peak_positions, peak_values


@dataclass(frozen=True)
class Raster:
    """One feature in every sentence in which it fires, aligned at its peak."""

    values: np.ndarray  # [n_firing, 2 * reach + 1] float32, NaN outside the sentence
    sentence: np.ndarray  # [n_firing] row of the sentence, by falling label and then falling peak
    labels: np.ndarray  # [n_firing] int64
    reach: int  # tokens shown on either side of the peak

    @property
    def tokens_from_peak(self) -> np.ndarray:
        return np.arange(-self.reach, self.reach + 1)  # [2 * reach + 1] int64

    def profile(self, label: int) -> np.ndarray:
        """Mean activation around the peak, [2 * reach + 1]; NaN where fewer than 5 sentences have a token."""
        values = self.values[self.labels == label]
        n_tokens = np.isfinite(values).sum(axis=0)  # [2 reach + 1]
        return np.where(n_tokens >= 5, np.nansum(values, axis=0) / np.maximum(n_tokens, 1), np.nan)


def peak_aligned_raster(
    activations: np.ndarray, offsets: np.ndarray, labels: np.ndarray, reach: int = 15
) -> Raster:
    """Align the sentences of one feature, `activations` [T], at their peaks; without a peak, left out."""
    column = activations[:, None]
    peaks, position = peak_values(column, offsets)[:, 0], peak_positions(column, offsets)[:, 0]  # [n], [n]
    order = np.lexsort((np.arange(len(peaks)), -peaks, -labels))
    rows = order[position[order] >= 0]  # [n_firing]
    within = position[rows, None] + np.arange(
        -reach, reach + 1
    )  # [n_firing, 2 reach + 1] index in the sentence
    inside = (within >= 0) & (within < np.diff(offsets)[rows, None])
    index = np.where(inside, offsets[rows, None] + within, 0)
    values = np.where(inside, activations[index], np.nan).astype(np.float32)
    return Raster(values=values, sentence=rows, labels=labels[rows], reach=reach)
