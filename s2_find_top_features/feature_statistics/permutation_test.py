"""Correlations under permuted labels: the family-wise test over all features, and how wide they spread.

Sentences of one group (a scene, a cluster of near-duplicates) depend on each other, so groups are the unit of
the permutations.
"""

import numpy as np
import scipy.sparse

CHUNK_ELEMENTS = 8_000_000  # float32 elements of one block of permuted correlations: 32 MB
CACHE_ELEMENTS = 2_000_000  # float32 elements of the permuted labels used at a time: 8 MB


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


def largest_permuted_rho(ranks: scipy.sparse.csr_matrix, permuted_ranks: np.ndarray) -> np.ndarray:
    """Largest |rho| over the features for each permutation, [B] float32.

    `ranks` is Z [n_features, n] of `standardised_ranks`, without constant features; `permuted_ranks` [n, B]
    float32 holds `unit_ranks` of permuted labels, so Z @ permuted_ranks are the permuted correlations. They
    are taken in blocks, in float32: the null is compared with a tolerance.
    """
    n_features, n_permutations = ranks.shape[0], permuted_ranks.shape[1]
    largest = np.zeros(n_permutations, dtype=np.float32)
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
    return largest


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


def mean_square_rho(
    ranks: scipy.sparse.csr_matrix, label_ranks: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Mean of rho^2 over all permutations that `permuted_labels` draws from, exactly, [n_features].

    `ranks` is Z [n_features, n] of `standardised_ranks`, `label_ranks` [n] the `unit_ranks` of the labels.
    rho^2 is a quadratic form in the permuted label ranks, so its mean needs only their second moments: of a
    sentence with itself, with another of its group, with one of another group of that size, and with one of a
    group of another size.
    """
    _, group_index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n, n_groups = len(groups), len(sizes)
    in_group = scipy.sparse.csr_matrix((np.ones(n), (np.arange(n), group_index)), shape=(n, n_groups))
    of_size = (sizes[:, None] == np.unique(sizes)).astype(np.float64)  # [n_groups, n_sizes]

    def pairs_of_sums(
        values: scipy.sparse.csr_matrix,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per row and group size: squares of entries, of group sums, of the size's sum, and that sum."""
        by_group = values @ in_group  # sparse [n_rows, n_groups]
        total = by_group @ of_size  # [n_rows, n_sizes]
        return values.power(2) @ (in_group @ of_size), by_group.power(2) @ of_size, total**2, total

    one, group, whole, total = (
        sums[0] for sums in pairs_of_sums(scipy.sparse.csr_matrix(label_ranks[None, :]))
    )  # [n_sizes] each
    size = np.unique(sizes)
    count = of_size.sum(axis=0) * size  # [n_sizes] sentences in groups of that size
    # A kind of pair that does not occur has the sum 0, and its moment, whatever it is, cancels below.
    itself = one / count
    within = (group - one) / np.maximum(count * (size - 1), 1)
    between = (whole - group) / np.maximum(count * (count - size), 1)
    mean = total / count
    one, group, whole, total = pairs_of_sums(ranks)  # [n_features, n_sizes] each
    return (
        one @ (itself - within)
        + group @ (within - between)
        + whole @ (between - mean**2)
        + (total @ mean) ** 2
    )
