"""Rank statistics of dense columns: Spearman correlations with their permutation null, and AUROC."""

import numpy as np
import scipy.stats

FEATURES_PER_BLOCK = 1024  # bounds the ranks and permuted correlations held at a time


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks of each row of `values` [k, n] float32, minus their mean, [k, n] float32, exact.

    The bits of a float order like the number once those of negative ones are turned round, so value and place
    in one integer are sorted together, faster than by scipy.stats.rankdata; rows with ties are left to it.
    """
    n = values.shape[1]
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.int32)  # + 0 makes one zero of 0.0 and -0.0
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32 | np.arange(n)
    key.sort(axis=1)
    ranks = np.empty(values.shape, np.float32)
    in_order = np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)
    np.put_along_axis(ranks, key & 0xFFFFFFFF, in_order[None], axis=1)
    key >>= 32
    tied = np.flatnonzero((key[:, 1:] == key[:, :-1]).any(axis=1))
    if tied.size:
        ranks[tied] = scipy.stats.rankdata(values[tied], axis=1) - (n + 1) / 2
    return ranks


def spearman_with_null(
    values: np.ndarray, columns: np.ndarray, labels: np.ndarray, permuted_ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's rho of each of the `columns` [k] of `values` [n, d] float32 with `labels` [n], [k] float64;
    and the largest |rho| over them under each permutation, [B] float32.

    `permuted_ranks` is [n, B] float32, the `unit_ranks` of permuted labels. NaN for a constant column.
    """
    label_ranks = scipy.stats.rankdata(labels) - (len(labels) + 1) / 2  # [n]
    rho = np.full(len(columns), np.nan)
    largest = np.zeros(permuted_ranks.shape[1], dtype=np.float32)
    for start in range(0, len(columns), FEATURES_PER_BLOCK):
        block = slice(start, start + FEATURES_PER_BLOCK)
        ranks = centred_ranks(values[:, columns[block]].T)  # [block, n]
        # Ranks are multiples of one half: in float64 these sums are exact, in whatever order they are taken.
        exact = ranks.astype(np.float64)
        squares = np.einsum("kn,kn->k", exact, exact)
        norm = np.sqrt(squares * (label_ranks @ label_ranks))
        np.divide(exact @ label_ranks, norm, out=rho[block], where=norm > 0)
        scale = np.divide(1, np.sqrt(squares), out=np.zeros(len(squares)), where=squares > 0)
        ranks *= scale[:, None].astype(np.float32)
        null = ranks @ permuted_ranks  # [block, B]
        np.maximum(largest, np.maximum(null.max(axis=0), -null.min(axis=0)), out=largest)
    return rho, largest


def column_auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column of `positive` [n_1, k] against `negative` [n_0, k], [k].

    Ties count one half.
    """
    n_1, n_0 = len(positive), len(negative)
    ranks = scipy.stats.rankdata(np.vstack([positive, negative]), axis=0)  # [n_1 + n_0, k]
    return (ranks[:n_1].sum(axis=0) - n_1 * (n_1 + 1) / 2) / (n_1 * n_0)
