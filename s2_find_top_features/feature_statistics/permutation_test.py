"""Which of the best features are real: split, permutation null, held-out confirmation, families, contrast.

Sentences of one group (a scene, a cluster of near-duplicates) depend on each other, so groups are the
unit of the split, of the permutations and of the bootstrap.
"""

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.stats
from feature_statistics.feature_metrics import N_LABELS, unit_ranks
from scipy.sparse.csgraph import connected_components

DISCOVERY, CONFIRMATION = "discovery", "confirmation"
CHUNK_ELEMENTS = 8_000_000  # float32 elements of one block of permuted correlations: 32 MB
CACHE_ELEMENTS = 2_000_000  # float32 elements of the permuted labels used at a time: 8 MB
CONFIRM_COLUMNS = ("confirm_spearman", "confirm_auroc", "confirm_tpr", "confirm_fpr")


def split_groups(labels: np.ndarray, groups: np.ndarray, confirm_share: float, seed: int) -> np.ndarray:
    """Assign whole groups to discovery or confirmation, keeping each label's share, [n] str.

    Groups are visited in random order, large ones first, and each goes where it leaves the label counts
    of both parts nearest their targets, relative to the targets. Raises ValueError naming the label that a
    part is left without.
    """
    if confirm_share == 0:
        return np.full(len(labels), DISCOVERY)
    _, group_index = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_index.max() + 1, N_LABELS))  # [n_groups, 4]
    np.add.at(counts, (group_index, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    shares = np.array([1 - confirm_share, confirm_share])
    target = shares[:, None] * np.maximum(counts.sum(axis=0), 1)  # [2, 4]
    filled = np.zeros_like(target)  # [2, 4] share of the target reached
    to_confirmation = np.zeros(len(counts), dtype=bool)
    for group in order:
        after = filled + counts[group] / target  # [2, 4] if the group went to that part
        cost = ((after - 1) ** 2 - (filled - 1) ** 2).sum(axis=1)
        part = int(cost[1] < cost[0])
        filled[part] = after[part]
        to_confirmation[group] = part
    parts = np.where(to_confirmation[group_index], CONFIRMATION, DISCOVERY)
    for part in (DISCOVERY, CONFIRMATION):
        missing = np.flatnonzero(np.bincount(labels[parts == part], minlength=N_LABELS) == 0)
        if missing.size:
            raise ValueError(
                f"label {missing[0]} is missing in the {part} part of the split ({(parts == part).sum()} of "
                f"{len(labels)} sentences); give more sentences or groups of that label, change "
                "--confirm-share, or set it to 0 for no held-out part"
            )
    return parts


def permuted_labels(
    labels: np.ndarray, groups: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Labels permuted under the null that respects groups, [n_permutations, n] of the dtype of `labels`.

    `labels` [n] may hold any value per sentence, such as the label's rank, which moves along with it.
    The label blocks of groups of equal size change places as wholes, and labels change places within each
    group (whole-block plus within-block exchangeability of Winkler et al. 2015, NeuroImage 123:253). If
    groups are independent and the sentences of a group exchangeable, activations that do not depend on the
    labels have the same joint distribution under each of these, whatever the dependence within groups and
    however labels cluster in groups. With groups of one sentence it is the ordinary free permutation.
    """
    _, group_index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.argsort(group_index, kind="stable")  # [n] sentences, group after group
    size_of_sentence = sizes[group_index[by_group]]
    permuted = np.empty((n_permutations, len(labels)), dtype=labels.dtype)
    for size in np.unique(sizes):
        members = by_group[size_of_sentence == size].reshape(-1, size)  # [n_groups of this size, size]
        block_order = np.tile(np.arange(len(members)), (n_permutations, 1))
        blocks = labels[members][rng.permuted(block_order, axis=1)]  # [B, n_groups, size]
        permuted[:, members] = rng.permuted(blocks, axis=2) if size > 1 else blocks
    return permuted


def permutation_null(
    ranks: scipy.sparse.csr_matrix, permuted_ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest |rho| over the features for each permutation [B], and mean rho^2 per feature [n_features].

    `ranks` is Z [n_features, n] of `standardised_ranks`, without constant features; `permuted_ranks` [n, B]
    float32 holds `unit_ranks` of permuted labels, so Z @ permuted_ranks are the permuted correlations. They
    are taken in blocks, in float32: the null is compared with a tolerance.
    """
    n_features, n_permutations = ranks.shape[0], permuted_ranks.shape[1]
    if n_permutations == 0:
        return np.zeros(0, dtype=np.float32), np.zeros(n_features)
    largest = np.zeros(n_permutations, dtype=np.float32)
    sum_square = np.zeros(n_features)
    # Every nonzero of Z reads a row of the dense factor, which therefore should stay in the cache.
    width = max(64, CACHE_ELEMENTS // permuted_ranks.shape[0])
    slices = [slice(start, start + width) for start in range(0, n_permutations, width)]
    dense = [np.ascontiguousarray(permuted_ranks[:, part]) for part in slices]
    block = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, n_features, block):
        rows = ranks[start : start + block]
        rows.data = rows.data.astype(np.float32)
        for part, columns in zip(slices, dense):
            rho = rows @ columns  # [block, width] float32
            np.maximum(largest[part], np.maximum(rho.max(axis=0), -rho.min(axis=0)), out=largest[part])
            sum_square[start : start + block] += np.einsum("fb,fb->f", rho, rho)
    return largest, sum_square / n_permutations


def maxt_p_values(rho: np.ndarray, null_largest: np.ndarray) -> np.ndarray:
    """Family-wise p of each |rho| against the null of the largest, (b + 1) / (B + 1), shape of `rho`.

    Westfall & Young 1993, single-step maxT, two-sided. The null is float32, hence the tolerance, which errs
    to larger p. NaN without permutations.
    """
    n_permutations = len(null_largest)
    if n_permutations == 0:
        return np.full(len(rho), np.nan)
    below = np.searchsorted(np.sort(null_largest), np.abs(rho) - 1e-5, side="left")
    return (n_permutations - below + 1) / (n_permutations + 1)


def spearman_p_values(rho: np.ndarray, n_sentences: int, mean_square: np.ndarray | None = None) -> np.ndarray:
    """Two-sided analytic p of each rho: Student's t, n - 2 degrees of freedom, as scipy.stats.spearmanr.

    Sentences that depend on each other within groups count for less. `mean_square` is each feature's mean
    rho^2 under permutation by group: where it exceeds the 1 / (n - 1) of independent sentences, the number
    of sentences is divided by their ratio.
    """
    n_effective = np.full(len(rho), float(n_sentences))
    if mean_square is not None:
        n_effective = 1 + (n_sentences - 1) / np.maximum(1, (n_sentences - 1) * mean_square)
    freedom = np.maximum(n_effective - 2, 1)
    with np.errstate(divide="ignore"):  # |rho| of 1 has t infinite and p 0
        t = np.abs(rho) * np.sqrt(freedom / (1 - rho**2))
    return 2 * scipy.stats.t.sf(t, freedom)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """False-discovery-rate-adjusted p values (q), shape of `p`."""
    return scipy.stats.false_discovery_control(p, method="bh") if len(p) else p


def holm(p: np.ndarray) -> np.ndarray:
    """Family-wise-error-adjusted p values by Holm's step-down rule, shape of `p`."""
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


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
    """Effect sizes of selected features on the confirmation sentences, one row per feature.

    `pooled` is [n, k], `labels` and `groups` [n]; `thresholds` [k] come from discovery, so tpr and fpr carry
    over a rule that was fixed before. Intervals are the 2.5 % and 97.5 % points over resampled groups.
    `confirm_p` tests Spearman's rho in the direction [k] (+1 or -1) seen in discovery by group permutation
    and is Holm-adjusted over the k features; at least 200 k permutations keep the adjustment resolvable.
    """
    n_features = pooled.shape[1]
    rng = np.random.default_rng(seed)
    columns = [f"{name}{suffix}" for name in CONFIRM_COLUMNS for suffix in ("", "_low", "_high")]
    table = pd.DataFrame(np.nan, index=range(n_features), columns=[*columns, "confirm_p"])
    if n_features == 0:
        return table
    weights = bootstrap_weights(groups, n_bootstrap, rng)  # [n, n_bootstrap]
    observed_and_resampled = np.column_stack([np.ones(len(labels)), weights])
    for k in range(n_features):  # the few selected features, each with all resamples at once
        statistics = weighted_statistics(pooled[:, k], labels, thresholds[k], observed_and_resampled)
        for name, values in zip(CONFIRM_COLUMNS, statistics):
            resampled = values[1:][np.isfinite(values[1:])]
            interval = np.quantile(resampled, [0.025, 0.975]) if resampled.size else (np.nan, np.nan)
            table.loc[k, [name, f"{name}_low", f"{name}_high"]] = [values[0], *interval]
    ranks = unit_ranks(pooled.T) * directions[:, None]  # [k, n]; NaN for a constant feature
    label_ranks = unit_ranks(labels)
    rho = ranks @ label_ranks
    exceeding = np.zeros(n_features)
    n_permutations = max(n_permutations, 200 * n_features)
    block = max(1, CHUNK_ELEMENTS // len(labels))
    for start in range(0, n_permutations, block):
        null = ranks @ permuted_labels(label_ranks, groups, min(block, n_permutations - start), rng).T
        # Written so that NaN, a feature that never fires here, counts as exceeding: p is then 1.
        exceeding += (~(null < rho[:, None] - 1e-9)).sum(axis=1)
    table["confirm_p"] = holm((exceeding + 1) / (n_permutations + 1))
    return table


def bootstrap_weights(groups: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """How often each sentence occurs when groups are drawn with replacement, [n, n_bootstrap] float64."""
    _, group_index = np.unique(groups, return_inverse=True)
    n_groups = group_index.max() + 1
    times = rng.multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap
    )  # [n_bootstrap, n_groups]
    return times.T[group_index].astype(np.float64)


def weighted_statistics(
    activations: np.ndarray, labels: np.ndarray, threshold: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spearman, AUROC (3 against 0), tpr and fpr of one feature per column of `weights`, four [B] arrays.

    `activations` and `labels` are [n], `weights` [n, B] counts. The result equals the plain statistic of the
    sample in which sentence i occurs `weights[i, b]` times; NaN where it has no value.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman_corr = _weighted_spearman(activations, labels, weights)
        w_0, w_3 = (weights * (labels == label)[:, None] for label in (0, 3))  # [n, B]
        total_0, total_3 = w_0.sum(axis=0), w_3.sum(axis=0)
        level = np.unique(activations, return_inverse=True)[1]
        level_0, level_3 = _sum_by_level(w_0, level), _sum_by_level(w_3, level)  # [n_levels, B]
        below_0 = np.cumsum(level_0, axis=0) - level_0
        auroc = (level_3 * (below_0 + level_0 / 2)).sum(axis=0) / (total_0 * total_3)
        above = activations > threshold  # [n]
        return spearman_corr, auroc, w_3[above].sum(axis=0) / total_3, w_0[above].sum(axis=0) / total_0


def _weighted_spearman(activations: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=0)  # [B]
    centred = []
    for values in (activations, labels):
        level = np.unique(values, return_inverse=True)[1]
        counts = _sum_by_level(weights, level)  # [n_levels, B]
        midrank = np.cumsum(counts, axis=0) - counts / 2 + 0.5
        centred.append(midrank[level] - (total + 1) / 2)  # [n, B]; the mean rank is (total + 1) / 2
    a, b = centred
    weighted_a = weights * a
    variances = (weighted_a * a).sum(axis=0) * (weights * b * b).sum(axis=0)
    return np.where(variances > 0, (weighted_a * b).sum(axis=0) / np.sqrt(variances), np.nan)


def _sum_by_level(weights: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Sum rows of `weights` [n, B] that share a level [n], [n_levels, B]."""
    one_hot = scipy.sparse.csr_matrix((np.ones(len(level)), (level, np.arange(len(level)))))
    return one_hot @ weights


def feature_families(pooled: np.ndarray, min_correlation: float) -> np.ndarray:
    """Family of each column of `pooled` [n, k], numbered from 1 in order of first appearance, [k] int64.

    Features whose activations correlate (Pearson) at least `min_correlation`, directly or through others,
    form one family.
    """
    if pooled.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    centred = pooled - pooled.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    # The tolerance keeps exact copies in one family at a threshold of 1.
    _, component = connected_components(unit.T @ unit >= min_correlation - 1e-9, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse] + 1


def contrast_features(
    own_label_3: np.ndarray, other_label_3: np.ndarray, thresholds: np.ndarray
) -> pd.DataFrame:
    """Specificity of k features against another trait: columns `share_above` and `auroc`, k rows.

    `own_label_3` is [n_own, k] and `other_label_3` [n_other, k], pooled activations of label-3 sentences.
    `share_above` is the share of the other trait's sentences above the feature's threshold [k]; `auroc` is
    that of own against other sentences, ties one half.
    """
    n_own, n_other = len(own_label_3), len(other_label_3)
    ranks = scipy.stats.rankdata(np.vstack([own_label_3, other_label_3]), axis=0)  # [n_own + n_other, k]
    u = ranks[:n_own].sum(axis=0) - n_own * (n_own + 1) / 2
    return pd.DataFrame(
        {"share_above": (other_label_3 > thresholds).mean(axis=0), "auroc": u / (n_own * n_other)}
    )
