"""Where in a sentence features fire, and how strongly: by token, by share of the sentence, by what is read.

Activations are `[n_tokens, n_features]` with the sentences one after another, and `offsets[i]:offsets[i + 1]`
are the rows of sentence i; they are not negative (post-JumpReLU). This holds for all modules beside this one.
"""

import numpy as np


def peak_values(activations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Largest activation of each feature in each sentence, [n_sentences, n_features]."""
    return np.maximum.reduceat(activations, offsets[:-1], axis=0)


def _first_true(condition: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Index within each sentence of the first true row, [n_sentences, n_features] int64; -1 if none."""
    lengths = np.diff(offsets)  # [n]
    position = np.arange(offsets[-1]) - np.repeat(
        offsets[:-1], lengths
    )  # [T] index of the token in its sentence
    never = np.iinfo(np.int64).max
    first = np.minimum.reduceat(np.where(condition, position[:, None], never), offsets[:-1], axis=0)
    return np.where(first == never, -1, first)


def peak_positions(activations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Token index of each feature's first peak, [n_sentences, n_features] int64; -1 where it never fires."""
    peaks = np.repeat(peak_values(activations, offsets), np.diff(offsets), axis=0)  # [T, n_features]
    return _first_true((activations == peaks) & (activations > 0), offsets)


def first_firing_positions(activations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Token index of each feature's first firing, [n_sentences, n_features] int64; -1 if it never fires."""
    return _first_true(activations > 0, offsets)


def relative_positions(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Centre of token p of m tokens as a share of the sentence, (p + 0.5) / m; NaN where p is -1.

    The centre, so that a feature that fires at random has the mean 0.5 for every sentence length.
    """
    share = (positions + 0.5) / np.diff(offsets)[:, None]
    return np.where(positions < 0, np.nan, share)


def bin_means(activations: np.ndarray, offsets: np.ndarray, n_bins: int) -> np.ndarray:
    """Mean activation in each of `n_bins` equal parts of a sentence, [n_sentences, n_bins, n_features].

    A token is taken as constant over its share of the sentence and counts in each part by the share of it
    that lies there: no token is left out of a long sentence, and nothing is interpolated in a short one.
    """
    # The integral from the start of the run to any point is linear between the ends of tokens.
    integral = np.zeros((len(activations) + 1, activations.shape[1]))  # [T + 1, n_features] float64
    np.cumsum(activations, axis=0, out=integral[1:])
    edges = offsets[:-1, None] + np.arange(n_bins + 1) / n_bins * np.diff(offsets)[:, None]  # [n, n_bins + 1]
    token = np.minimum(np.floor(edges).astype(np.int64), len(activations) - 1)
    part = (edges - token)[..., None]
    at_edges = (1 - part) * integral[token] + part * integral[token + 1]  # [n, n_bins + 1, n_features]
    return np.diff(at_edges, axis=1) * (n_bins / np.diff(offsets))[:, None, None]


def prefix_peaks(activations: np.ndarray, offsets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Largest activation in the first share of each sentence, [n_shares, n_sentences, n_features].

    Share s of m tokens is its first ceil(s * m) tokens, one at least: what is known to a reader who has
    read that far.
    """
    starts = offsets[:-1]
    # reduceat takes pairs (start, stop) when the starts are interleaved with the stops; the last stop may
    # be T, hence the row of zeros appended.
    padded = np.concatenate([activations, np.zeros_like(activations[:1])])  # [T + 1, n_features]
    peaks = np.empty((len(shares), len(starts), activations.shape[1]), activations.dtype)
    for i, length in enumerate(prefix_lengths(offsets, shares)):
        bounds = np.stack([starts, starts + length], axis=1).ravel()  # [2 n]
        peaks[i] = np.maximum.reduceat(padded, bounds, axis=0)[::2]
    return peaks


def prefix_lengths(offsets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Number of tokens in the first share of each sentence, [n_shares, n_sentences] int64."""
    # Rounding keeps 0.7 * 10 = 7.000000000000001 from becoming eight tokens.
    lengths = np.ceil(np.round(shares[:, None] * np.diff(offsets), 9)).astype(np.int64)
    return np.maximum(lengths, 1)
