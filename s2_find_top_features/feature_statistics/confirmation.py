"""Effect sizes of a few selected features on sentences that took no part in selecting them."""

import numpy as np
import pandas as pd
import scipy.sparse
from twins_s2.group_statistics import group_bootstrap, percentile_interval, weighted_auroc

from .feature_metrics import unit_ranks
from .p_values import holm
from .permutation_test import CHUNK_ELEMENTS, permuted_labels

CONFIRM_COLUMNS = ("confirm_spearman", "confirm_auroc", "confirm_tpr", "confirm_fpr")
COLUMNS = (*(f"{name}{suffix}" for name in CONFIRM_COLUMNS for suffix in ("", "_low", "_high")), "confirm_p")
PERMUTATIONS_PER_FEATURE = 200  # at least, so that Holm's adjustment over the features stays resolvable


def confirm_features(
    pooled: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    thresholds: np.ndarray,
    directions: np.ndarray,
    *,
    n_permutations: int,
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """Effect sizes of selected features on the confirmation sentences: one row per feature, columns COLUMNS.

    `pooled` is [n, k], `labels` and `groups` [n]; `thresholds` [k] come from discovery, so tpr and fpr carry
    over a rule that was fixed before. Intervals are the 2.5 % and 97.5 % points over resampled groups.
    `confirm_p` tests Spearman's rho in the direction [k] (+1 or -1) seen in discovery by group permutation
    and is Holm-adjusted over the k features.
    """
    n_features = pooled.shape[1]
    if n_features == 0:
        return empty_confirmation(pd.RangeIndex(0))
    rng = np.random.default_rng(seed)
    resampled = group_bootstrap(groups, n_bootstrap, rng)  # [n_bootstrap, n]
    observed_and_resampled = np.vstack([np.ones(len(labels)), resampled])
    rows = []
    for k in range(n_features):  # the few selected features, each with all resamples at once
        row = []
        for values in weighted_statistics(pooled[:, k], labels, thresholds[k], observed_and_resampled):
            row += [values[0], *percentile_interval(values[1:])]
        rows.append(row)
    n_permutations = max(n_permutations, PERMUTATIONS_PER_FEATURE * n_features)
    p = directed_p_values(pooled, labels, groups, directions, n_permutations, rng)
    return pd.DataFrame(np.column_stack([rows, holm(p)]), columns=list(COLUMNS))


def empty_confirmation(index: pd.Index) -> pd.DataFrame:
    """The columns of `confirm_features` without values, for features that no sentence was held out for."""
    return pd.DataFrame(np.nan, index=index, columns=list(COLUMNS))


def directed_p_values(
    pooled: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    directions: np.ndarray,
    n_permutations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """One-sided permutation p of Spearman's rho of each column of `pooled` [n, k] in its direction, [k]."""
    ranks = unit_ranks(pooled.T) * directions[:, None]  # [k, n]; NaN for a constant feature
    label_ranks = unit_ranks(labels)
    rho = ranks @ label_ranks
    exceeding = np.zeros(len(rho))
    block = max(1, CHUNK_ELEMENTS // len(labels))
    for start in range(0, n_permutations, block):
        null = ranks @ permuted_labels(label_ranks, groups, min(block, n_permutations - start), rng).T
        # Written so that NaN, a feature that never fires here, counts as exceeding: p is then 1.
        exceeding += (~(null < rho[:, None] - 1e-9)).sum(axis=1)
    return (exceeding + 1) / (n_permutations + 1)


def weighted_statistics(
    activations: np.ndarray, labels: np.ndarray, threshold: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spearman, AUROC (3 against 0), tpr and fpr of one feature per row of `weights`, four [B] arrays.

    `activations` and `labels` are [n], `weights` [B, n] counts. The result equals the plain statistic of the
    sample in which sentence i occurs `weights[b, i]` times; NaN where it has no value.
    """
    pair = (labels == 0) | (labels == 3)
    auroc = weighted_auroc(activations[pair], labels[pair] == 3, weights[:, pair])
    above = activations > threshold  # [n]
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman_corr = weighted_spearman(activations, labels, weights)
        tpr, fpr = (
            weights[:, of_label & above].sum(axis=1) / weights[:, of_label].sum(axis=1)
            for of_label in (labels == 3, labels == 0)
        )
    return spearman_corr, auroc, tpr, fpr


def weighted_spearman(activations: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman correlation of `activations` with `labels` [n] per row of `weights` [B, n]; [B] with NaN."""
    total = weights.sum(axis=1, keepdims=True)  # [B, 1]
    centred = []
    for values in (activations, labels):
        level = np.unique(values, return_inverse=True)[1]
        one_hot = scipy.sparse.csr_matrix((np.ones(len(level)), (np.arange(len(level)), level)))
        counts = weights @ one_hot  # [B, n_levels]
        midrank = np.cumsum(counts, axis=1) - counts / 2 + 0.5
        centred.append(midrank[:, level] - (total + 1) / 2)  # [B, n]; the mean rank is (total + 1) / 2
    a, b = centred
    weighted_a = weights * a
    variances = (weighted_a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    return np.where(variances > 0, (weighted_a * b).sum(axis=1) / np.sqrt(variances), np.nan)
