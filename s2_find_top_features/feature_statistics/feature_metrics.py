"""Statistics of every feature of a sparse autoencoder against the concept strength label, on sparse matrices.

The pooled matrix holds one row per sentence and one column per feature. Its nonzero entries are sorted
once by (feature, activation); every statistic is then a sum over runs of that order, so no function here
loops over features and none needs the dense matrix.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.stats

N_LABELS = 4  # concept strength 0, 1, 2, 3
STATISTICS = (
    "interpretability_score",
    "pearson_corr",
    "spearman_corr",
    "separation_score",
    "tpr",
    "fpr",
    "mean_label_0",
    "mean_label_1",
    "mean_label_2",
    "mean_label_3",
    "monotonic",
    "auroc",
    "density",
    "n_firing",
    "threshold",
)


@dataclass(frozen=True)
class SortedActivations:
    """Nonzero entries of a pooled matrix [n_sentences, n_features], ordered by (feature, activation)."""

    n_sentences: int
    indptr: np.ndarray  # [n_features + 1] int64, entries of feature j are indptr[j]:indptr[j + 1]
    sentence: np.ndarray  # [nnz] int32
    activation: np.ndarray  # [nnz] float32, > 0

    @property
    def n_nonzero(self) -> np.ndarray:
        """Number of sentences in which each feature fires, [n_features] int64."""
        return np.diff(self.indptr)

    def where(self, mask: np.ndarray, n_sentences: int) -> "SortedActivations":
        """Only the entries with `mask` [nnz] true, which stem from `n_sentences` sentences."""
        chosen = np.flatnonzero(mask)
        indptr = np.searchsorted(chosen, self.indptr)
        return SortedActivations(n_sentences, indptr, self.sentence[chosen], self.activation[chosen])

    def spread(self, by_feature: np.ndarray) -> np.ndarray:
        """Each feature's value [n_features] repeated for its entries, [nnz]."""
        return np.repeat(by_feature, self.n_nonzero)

    def sum_by_feature(self, values: np.ndarray) -> np.ndarray:
        """Sum of `values` [nnz] over the entries of each feature, [n_features] float64."""
        sums = np.zeros(len(self.indptr) - 1)
        filled = self.n_nonzero > 0  # reduceat has no notion of an empty run
        sums[filled] = np.add.reduceat(values, self.indptr[:-1][filled], dtype=np.float64)
        return sums


def sort_activations(pooled: scipy.sparse.csc_matrix) -> SortedActivations:
    """Sort the entries of a CSC matrix [n, d] float32 without negative values by (feature, activation)."""
    n_sentences, n_features = pooled.shape
    feature = np.repeat(np.arange(n_features, dtype=np.uint64), np.diff(pooled.indptr))  # [nnz]
    # The bits of a positive float32 order like the number, so one integer key sorts columns and values.
    activation = np.ascontiguousarray(pooled.data, dtype=np.float32)
    key = feature << np.uint64(32) | activation.view(np.uint32)
    order = np.argsort(key, kind="stable")  # the merge sort profits from the columns being in order
    entries = SortedActivations(
        n_sentences, pooled.indptr.astype(np.int64), pooled.indices[order].astype(np.int32), activation[order]
    )
    is_stored_zero = entries.activation == 0
    return entries.where(~is_stored_zero, n_sentences) if is_stored_zero.any() else entries


def of_labels(entries: SortedActivations, labels: np.ndarray, wanted: tuple[int, ...]) -> SortedActivations:
    """Only the entries of sentences whose label ([n] int) is among `wanted`."""
    is_wanted = np.isin(labels, wanted)  # [n]
    return entries.where(is_wanted[entries.sentence], int(is_wanted.sum()))


def midranks(entries: SortedActivations) -> tuple[np.ndarray, np.ndarray]:
    """Average ranks (1-based, as scipy.stats.rankdata) within each column, zeros included.

    Returns the ranks of the nonzero entries [nnz] float64 and the rank that a column's n0 zeros share,
    (n0 + 1) / 2, [n_features] float64. A nonzero entry's rank is n0 plus its average rank among nonzeros.
    """
    n_zero = entries.n_sentences - entries.n_nonzero  # [n_features]
    n_entries = len(entries.activation)
    is_start = np.ones(n_entries, dtype=bool)  # first of a run of tied entries
    np.not_equal(entries.activation[1:], entries.activation[:-1], out=is_start[1:])
    is_start[entries.indptr[:-1][entries.n_nonzero > 0]] = True
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=n_entries)
    position = np.repeat(starts + (lengths + 1) / 2, lengths)  # average place, 1-based, in all entries
    return position + entries.spread(n_zero - entries.indptr[:-1]), (n_zero + 1) / 2


def column_moments(entries: SortedActivations) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sum of squared deviations of each column, zeros included, both [n_features] float64.

    A constant column has exactly 0 squared deviation, whatever the rounding of its mean.
    """
    mean = entries.sum_by_feature(entries.activation) / entries.n_sentences
    deviations = entries.sum_by_feature((entries.activation - entries.spread(mean)) ** 2)
    deviations += (entries.n_sentences - entries.n_nonzero) * mean**2
    filled = np.flatnonzero(entries.n_nonzero == entries.n_sentences)  # columns without a zero
    lowest = entries.activation[entries.indptr[filled]]
    highest = entries.activation[entries.indptr[filled + 1] - 1]
    deviations[filled[lowest == highest]] = 0
    return mean, deviations


def pearson(entries: SortedActivations, deviations: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pearson correlation of each feature with `labels` [n], [n_features] float64; NaN where constant.

    `deviations` [n_features] are the sums of squared deviations of `column_moments`.
    """
    centred = labels - labels.mean()  # [n]
    # The labels are centred, so the columns need not be: zeros contribute nothing.
    covariance = entries.sum_by_feature(entries.activation * centred[entries.sentence])
    norm = np.sqrt(deviations * (centred @ centred))  # [n_features]
    corr = np.divide(covariance, norm, out=np.full(len(norm), np.nan), where=norm > 0)
    return np.clip(corr, -1, 1)  # rounding may pass 1 by one unit in the last place


def standardised_ranks(entries: SortedActivations) -> scipy.sparse.csr_matrix:
    """Sparse matrix Z [n_features, n] float64 whose product with unit-length label ranks is Spearman's rho.

    Z holds (rank - rank of the zeros) / sqrt(sum of squared rank deviations). The constant that a dense
    standardised row would carry vanishes in a product with a vector that sums to 0. The entries of a
    constant feature are NaN.
    """
    ranks, zero_rank = midranks(entries)
    mean_rank = (entries.n_sentences + 1) / 2
    deviations = entries.sum_by_feature((ranks - mean_rank) ** 2)  # [n_features]
    deviations += (entries.n_sentences - entries.n_nonzero) * (zero_rank - mean_rank) ** 2
    scale = np.divide(1, np.sqrt(deviations), out=np.full(len(deviations), np.nan), where=deviations > 0)
    values = (ranks - entries.spread(zero_rank)) * entries.spread(scale)  # [nnz]
    # scipy sorts a matrix's indices in place when it needs to, so the matrix must not share them.
    return scipy.sparse.csr_matrix(
        (values, entries.sentence.copy(), entries.indptr),
        shape=(len(entries.indptr) - 1, entries.n_sentences),
    )


def unit_ranks(labels: np.ndarray) -> np.ndarray:
    """Average ranks of `labels` [..., n] along the last axis, centred and of unit length, float64.

    NaN where all are equal.
    """
    ranks = scipy.stats.rankdata(labels, axis=-1) - (labels.shape[-1] + 1) / 2
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)


def spearman(ranks: scipy.sparse.csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Spearman correlation with `labels` [n] of the features of `standardised_ranks`, [n_features] float64.

    NaN where the feature is constant.
    """
    is_silent = np.diff(ranks.indptr) == 0
    return np.where(is_silent, np.nan, np.clip(ranks @ unit_ranks(labels), -1, 1))


def label_means(entries: SortedActivations, labels: np.ndarray) -> np.ndarray:
    """Mean activation per label, zeros included, [4, n_features] float64."""
    one_hot = (labels[:, None] == np.arange(N_LABELS)).astype(np.float64)  # [n, 4]
    activations = scipy.sparse.csr_matrix(
        (entries.activation, entries.sentence, entries.indptr),
        shape=(len(entries.indptr) - 1, entries.n_sentences),
    )
    return (activations @ one_hot).T / one_hot.sum(axis=0)[:, None]


def percentile_95(entries: SortedActivations) -> np.ndarray:
    """95th percentile of each column, zeros included, [n_features] float64.

    Linear interpolation between order statistics, as numpy.percentile does.
    """
    n_zero = entries.n_sentences - entries.n_nonzero
    values = np.append(entries.activation.astype(np.float64), 0)  # the last one serves the zeros

    def order_statistic(k: int) -> np.ndarray:  # k-th smallest, 0-based, of each column
        return values[np.where(k < n_zero, len(values) - 1, entries.indptr[:-1] + k - n_zero)]

    position = 0.95 * (entries.n_sentences - 1)
    below = int(position)
    low, high = order_statistic(below), order_statistic(min(below + 1, entries.n_sentences - 1))
    return low + (high - low) * (position - below)


def share_above(entries: SortedActivations, threshold: np.ndarray) -> np.ndarray:
    """Share of sentences strictly above `threshold` [n_features], which is not negative, [n_features]."""
    above = entries.activation > entries.spread(threshold)
    return entries.sum_by_feature(above) / entries.n_sentences


def auroc(pair: SortedActivations, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of label 3 against label 0, ties one half, [n_features] float64.

    `pair` holds only the sentences of these two labels (see `of_labels`), `labels` [n] all.
    """
    n_0, n_3 = int((labels == 0).sum()), int((labels == 3).sum())
    ranks, zero_rank = midranks(pair)
    is_3 = (labels == 3)[pair.sentence]
    n_zero_3 = n_3 - pair.sum_by_feature(is_3)
    rank_sum = pair.sum_by_feature(ranks * is_3) + n_zero_3 * zero_rank  # of label 3
    return (rank_sum - n_3 * (n_3 + 1) / 2) / (n_0 * n_3)  # Mann-Whitney U over the number of pairs


def feature_statistics(
    entries: SortedActivations, ranks: scipy.sparse.csr_matrix, labels: np.ndarray
) -> pd.DataFrame:
    """All statistics of each feature against `labels` [n] int in 0..3: n_features rows, columns STATISTICS.

    `ranks` are the `standardised_ranks` of `entries`. Every label must occur. Correlations, separation and
    score of a constant feature are NaN.
    """
    means = label_means(entries, labels)  # [4, n_features]
    _, deviations = column_moments(entries)
    spread = np.sqrt(deviations / entries.n_sentences)  # [n_features] population standard deviation
    separation = np.divide(means[3] - means[0], spread, out=np.full(len(spread), np.nan), where=spread > 0)
    pair = of_labels(entries, labels, (0, 3))
    only_0, only_3 = of_labels(pair, labels, (0,)), of_labels(pair, labels, (3,))
    threshold = percentile_95(only_0)
    tpr, fpr = share_above(only_3, threshold), share_above(only_0, threshold)
    pearson_corr = pearson(entries, deviations, labels)
    table = {
        "interpretability_score": 0.4 * pearson_corr + 0.3 * separation + 0.3 * (tpr - fpr),
        "pearson_corr": pearson_corr,
        "spearman_corr": spearman(ranks, labels),
        "separation_score": separation,
        "tpr": tpr,
        "fpr": fpr,
        **{f"mean_label_{label}": means[label] for label in range(N_LABELS)},
        "monotonic": (np.diff(means, axis=0) >= 0).all(axis=0) & (means[3] > means[0]),
        "auroc": auroc(pair, labels),
        "density": entries.n_nonzero / entries.n_sentences,
        "n_firing": entries.n_nonzero,
        "threshold": threshold,
    }
    return pd.DataFrame(table, columns=list(STATISTICS))
