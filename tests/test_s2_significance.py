"""The significance protocol of s2: references, brute force, and false-positive rates over many seeds."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from feature_ranking.contrast import contrast_features
from feature_statistics.confirmation import confirm_features, weighted_statistics
from feature_statistics.feature_families import feature_families
from feature_statistics.feature_metrics import sort_activations, standardised_ranks, unit_ranks
from feature_statistics.p_values import benjamini_hochberg, holm, spearman_p_values
from feature_statistics.permutation_test import (
    largest_permuted_rho,
    maxt_p_values,
    mean_square_rho,
    permuted_labels,
)
from feature_statistics.sentence_split import CONFIRMATION, DISCOVERY, split_groups
from sklearn.metrics import roc_auc_score
from twins_s2.group_statistics import group_bootstrap


def sparse_noise(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return np.where(rng.random((n, d)) < 0.4, rng.exponential(size=(n, d)), 0).astype(np.float32)


def rank_matrix(dense: np.ndarray) -> scipy.sparse.csr_matrix:
    return standardised_ranks(sort_activations(scipy.sparse.csc_matrix(dense)))


def maxt(dense, labels, groups, n_permutations, rng) -> np.ndarray:
    """p_maxt of each column, by the functions that the analysis uses."""
    ranks = rank_matrix(dense)
    permuted = permuted_labels(unit_ranks(labels).astype(np.float32), groups, n_permutations, rng)
    largest = largest_permuted_rho(ranks, np.ascontiguousarray(permuted.T))
    return maxt_p_values(ranks @ unit_ranks(labels), largest)


def two_binomial_errors(rate: float, n: int) -> float:
    """The highest share of n trials that a true rate gives in all but about 1 of 1,000 cases."""
    return scipy.stats.binom.ppf(0.999, n, rate) / n


# Split


def test_split_keeps_groups_whole_and_labels_balanced():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    groups = rng.integers(0, 250, 400)
    parts = split_groups(labels, groups, 0.25, seed=3)
    assert not set(groups[parts == DISCOVERY]) & set(groups[parts == CONFIRMATION])
    counts = np.bincount(labels[parts == CONFIRMATION], minlength=4)
    assert counts.tolist() == pytest.approx([25, 25, 25, 25], abs=4)


@pytest.mark.parametrize("seed", range(3))
def test_scenes_and_sentences_that_stand_alone_have_the_same_shares_in_both_parts(seed):
    """Else discovery and confirmation are of different kinds of sentences."""
    groups = np.concatenate([np.repeat(np.arange(50), 4), np.arange(100, 700)])  # 50 scenes, 600 alone
    labels = np.arange(800) % 4
    parts = split_groups(labels, groups, 0.25, seed)
    held_out = parts == CONFIRMATION
    assert held_out[:200].mean() == pytest.approx(0.25, abs=0.011)
    assert held_out[200:].mean() == pytest.approx(0.25, abs=0.011)
    assert np.bincount(labels[held_out]).tolist() == pytest.approx([50] * 4, abs=2)


def test_split_depends_on_the_seed_only():
    labels, groups = np.arange(80) % 4, np.arange(80) // 2
    assert np.array_equal(split_groups(labels, groups, 0.3, 1), split_groups(labels, groups, 0.3, 1))
    assert not np.array_equal(split_groups(labels, groups, 0.3, 1), split_groups(labels, groups, 0.3, 2))


def test_split_share_zero_holds_nothing_out():
    parts = split_groups(np.arange(8) % 4, np.zeros(8, dtype=int), 0, 0)
    assert set(parts) == {DISCOVERY}


def test_split_names_the_label_that_a_part_lacks():
    labels = np.array([0] * 20 + [1] * 20 + [2] * 20 + [3])
    with pytest.raises(ValueError, match=r"label 3 is missing in the (discovery|confirmation) part"):
        split_groups(labels, np.arange(61), 0.25, 0)


# Permutations


def test_permutations_keep_the_labels_of_equal_sized_groups_together():
    labels = np.array([0, 0, 1, 1, 3, 3, 2, 0, 1, 2, 3])
    groups = np.array([5, 5, 2, 2, 7, 7, 9, 1, 4, 4, 4])
    permuted = permuted_labels(labels, groups, 2000, np.random.default_rng(0))
    assert permuted.shape == (2000, 11)
    assert permuted.dtype == labels.dtype
    for row in permuted:
        assert sorted(row) == sorted(labels)
        assert sorted([row[0] == row[1], row[2] == row[3], row[4] == row[5]]) == [True, True, True]
        assert sorted(row[8:]) == [1, 2, 3]  # the only group of three moves within itself
        assert sorted(row[[6, 7]]) == [0, 2]  # the two single sentences change places
    assert len({tuple(row) for row in permuted}) == 3 * 2 * 6 * 2


def test_permutations_of_single_sentences_are_uniform():
    permuted = permuted_labels(np.arange(3), np.array([4, 8, 6]), 6000, np.random.default_rng(0))
    _, counts = np.unique(permuted, axis=0, return_counts=True)
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_null_and_p_values_equal_brute_force():
    rng = np.random.default_rng(1)
    labels, dense = np.arange(40) % 4, sparse_noise(rng, 40, 7)
    permuted = permuted_labels(labels, np.arange(40), 50, rng)
    rho = np.array([[scipy.stats.spearmanr(x, row).statistic for x in dense.T] for row in permuted])  # [B, d]
    largest = largest_permuted_rho(
        rank_matrix(dense), np.ascontiguousarray(unit_ranks(permuted).T.astype(np.float32))
    )
    np.testing.assert_allclose(largest, np.abs(rho).max(axis=1), atol=1e-6)
    observed = np.array([scipy.stats.spearmanr(x, labels).statistic for x in dense.T])
    exceeding = (np.abs(rho).max(axis=1) >= np.abs(observed)[:, None]).sum(axis=1)
    np.testing.assert_allclose(maxt_p_values(observed, largest), (exceeding + 1) / 51)


def test_p_maxt_of_an_unbeatable_feature_is_the_smallest_possible():
    labels = np.arange(40) % 4
    dense = np.column_stack([labels, np.random.default_rng(0).exponential(size=40)]).astype(np.float32)
    p = maxt(dense, labels, np.arange(40), 99, np.random.default_rng(0))
    assert p[0] == pytest.approx(0.01)
    assert p[1] > 0.01


def test_without_permutations_there_is_no_p_maxt():
    largest = largest_permuted_rho(rank_matrix(np.eye(4)), np.zeros((4, 0), dtype=np.float32))
    assert largest.shape == (0,)
    assert np.isnan(maxt_p_values(np.array([0.5]), largest)).all()


def clustered_noise(rng: np.random.Generator, n_groups: int, size: int, d: int):
    """Sentences of a group share their label and most of their activation, which are unrelated."""
    groups = np.repeat(np.arange(n_groups), size)
    labels = rng.permutation(np.arange(n_groups) % 4)[groups]
    scene = np.repeat(sparse_noise(rng, n_groups, d), size, axis=0)
    own = rng.exponential(0.05, size=scene.shape) * (scene > 0)
    return groups, labels, (scene + own).astype(np.float32)


def test_maxt_false_positive_rate_is_nominal_under_dependence_within_groups():
    n_seeds, by_group, freely = 300, 0, 0
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        groups, labels, dense = clustered_noise(rng, 20, 4, 15)
        by_group += maxt(dense, labels, groups, 99, rng).min() <= 0.05
        freely += maxt(dense, labels, np.arange(len(labels)), 99, rng).min() <= 0.05
    assert by_group / n_seeds <= two_binomial_errors(0.05, n_seeds)
    assert by_group / n_seeds >= 0.01  # and the test is not empty of power
    assert freely / n_seeds > 0.5  # ignoring the groups would be wrong


def test_maxt_false_positive_rate_is_nominal_when_groups_mix_labels_and_sizes():
    n_seeds, hits = 300, 0
    for seed in range(n_seeds):
        rng = np.random.default_rng(1000 + seed)
        sizes = np.array([1] * 20 + [2] * 10 + [4] * 10)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        labels = rng.permutation(np.arange(len(groups)) % 4)
        scene = sparse_noise(rng, len(sizes), 15)[groups]
        dense = scene + rng.exponential(0.3, size=scene.shape).astype(np.float32) * (
            rng.random(scene.shape) < 0.3
        )
        hits += maxt(dense, labels, groups, 99, rng).min() <= 0.05
    assert 0.01 <= hits / n_seeds <= two_binomial_errors(0.05, n_seeds)


# Analytic p values and adjustments


def test_analytic_p_equals_scipy():
    rng = np.random.default_rng(0)
    labels, dense = np.arange(60) % 4, sparse_noise(rng, 60, 10)
    expected = [scipy.stats.spearmanr(x, labels) for x in dense.T]
    p = spearman_p_values(np.array([e.statistic for e in expected]), 60)
    np.testing.assert_allclose(p, [e.pvalue for e in expected], rtol=1e-9)
    assert spearman_p_values(np.array([1.0, -1.0]), 60).tolist() == [0, 0]


@pytest.mark.parametrize(
    "groups", [[5, 5, 2, 2, 7, 9, 1], [0, 1, 2, 3, 4], [0, 0, 0, 1, 2, 2], [3, 3, 3, 3], [1, 2, 1, 2, 8, 8]]
)
def test_mean_square_rho_is_the_mean_over_every_permutation(groups):
    """The oracle lists each way to exchange groups of a size as wholes, and sentences within groups."""
    rng = np.random.default_rng(0)
    groups, labels = np.array(groups), rng.integers(0, 4, len(groups)) + np.arange(len(groups)) % 2
    dense = rng.choice([0, 0, 1, 2, 5], size=(len(groups), 30)).astype(np.float32)
    dense = dense[:, dense.std(axis=0) > 0]
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    by_size = [[m for m in members if len(m) == size] for size in sorted({len(m) for m in members})]
    rho_squared = []
    for orders in itertools.product(*(itertools.permutations(blocks) for blocks in by_size)):
        donors = [donor for order in orders for donor in order]
        receivers = [block for blocks in by_size for block in blocks]
        for within in itertools.product(*(itertools.permutations(donor) for donor in donors)):
            permuted = labels.copy()
            for receiver, sentences in zip(receivers, within):
                permuted[receiver] = labels[list(sentences)]
            rho_squared.append((unit_ranks(dense.T) @ unit_ranks(permuted)) ** 2)
    expected = np.mean(rho_squared, axis=0)
    assert expected.max() > 0
    np.testing.assert_allclose(
        mean_square_rho(rank_matrix(dense), unit_ranks(labels), groups), expected, atol=1e-12
    )


def test_analytic_p_accounts_for_dependence_within_groups():
    n_seeds, corrected, naive = 200, [], []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        groups, labels, dense = clustered_noise(rng, 24, 4, 5)
        ranks = rank_matrix(dense)
        mean_square = mean_square_rho(ranks, unit_ranks(labels), groups)
        rho = ranks @ unit_ranks(labels)
        corrected.append(spearman_p_values(rho, len(labels), mean_square) <= 0.05)
        naive.append(spearman_p_values(rho, len(labels)) <= 0.05)
    assert 0.02 < np.mean(corrected) < 0.08
    assert np.mean(naive) > 0.2


def test_benjamini_hochberg_and_holm_follow_their_definitions():
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(30), rng.random(5) * 0.01, [0.02, 0.02, 0, 1]])
    m, order = len(p), np.argsort(p)
    for i, (q, adjusted) in enumerate(zip(benjamini_hochberg(p)[order], holm(p)[order])):
        assert q == pytest.approx(min(1, min(m * p[order[j]] / (j + 1) for j in range(i, m))))
        assert adjusted == pytest.approx(min(1, max((m - j) * p[order[j]] for j in range(i + 1))))
    assert len(benjamini_hochberg(np.zeros(0))) == len(holm(np.zeros(0))) == 0


# Confirmation


def test_weighted_statistics_equal_those_of_the_resampled_sentences():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    groups = np.arange(40) // 2
    activations = rng.choice([0, 0, 0, 1, 1, 2.5, 4], size=40).astype(np.float32)
    weights = group_bootstrap(groups, 25, rng)
    spearman_corr, auroc, tpr, fpr = weighted_statistics(activations, labels, 1, weights)
    for b in range(25):
        drawn = np.repeat(np.arange(40), weights[b].astype(int))
        x, y = activations[drawn], labels[drawn]
        assert spearman_corr[b] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        pair = (y == 0) | (y == 3)
        assert auroc[b] == pytest.approx(roc_auc_score(y[pair] == 3, x[pair]))
        assert tpr[b] == pytest.approx((x[y == 3] > 1).mean())
        assert fpr[b] == pytest.approx((x[y == 0] > 1).mean())


def confirm(pooled, labels, groups, directions, seed=0, n_permutations=199, n_bootstrap=100):
    return confirm_features(
        pooled,
        labels,
        groups,
        np.zeros(pooled.shape[1]),
        np.array(directions, dtype=float),
        n_permutations=n_permutations,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )


def test_confirmation_finds_a_real_feature_in_its_direction_only():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 4
    signal = labels + rng.normal(0, 0.5, 60) + 2
    pooled = np.column_stack([signal, 10 - signal, signal, np.zeros(60)]).astype(np.float32)
    table = confirm(pooled, labels, np.arange(60), [1, -1, -1, 1])
    assert table["p"].tolist() == pytest.approx([4 / 801, 4 / 801, 1, 1])
    assert table["spearman"][0] == pytest.approx(scipy.stats.spearmanr(signal, labels).statistic)
    assert np.isnan(table["spearman"][3])  # silent on these sentences
    low, middle, high = table.loc[0, ["spearman_low", "spearman", "spearman_high"]]
    assert low < middle < high


def test_confirmation_of_no_feature_is_an_empty_table():
    assert len(confirm(np.zeros((8, 0), dtype=np.float32), np.arange(8) % 4, np.arange(8), [])) == 0


def test_bootstrap_interval_covers_the_true_auroc():
    """Label 3 is drawn one standard deviation above label 0, so the true AUROC is Phi(1 / sqrt 2)."""
    truth, covered = scipy.stats.norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = np.arange(120) % 4
        pooled = (rng.normal(size=120) + (labels == 3) + 10)[:, None].astype(np.float32)
        row = confirm(pooled, labels, np.arange(120), [1], seed=seed, n_permutations=1).iloc[0]
        covered += row["auroc_low"] <= truth <= row["auroc_high"]
    assert covered >= 85


def test_noise_selected_on_discovery_is_confirmed_at_the_nominal_rate_at_most():
    """The whole protocol on labels without meaning: split, choose the best of many, confirm, adjust."""
    n_seeds, false_alarms = 200, 0
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        groups, labels, dense = clustered_noise(rng, 48, 2, 60)
        parts = split_groups(labels, groups, 0.25, seed)
        found, held = parts == DISCOVERY, parts == CONFIRMATION
        rho = rank_matrix(dense[found]) @ unit_ranks(labels[found])
        best = np.argsort(-rho)[:5]
        assert rho[best[0]] > 0.2  # chance looks like a finding where it was chosen
        table = confirm(dense[held][:, best], labels[held], groups[held], [1] * 5, seed, n_bootstrap=1)
        false_alarms += (table["p"] <= 0.05).any()
    assert false_alarms / n_seeds <= two_binomial_errors(0.05, n_seeds)


# Families and contrast


def test_copies_of_a_feature_form_one_family_numbered_by_rank():
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 50))
    silent = np.zeros(50)
    pooled = np.column_stack([b, a, 3 * a, b + rng.normal(0, 0.05, 50), -a, silent, silent])
    assert feature_families(pooled, 0.9).tolist() == [1, 2, 2, 1, 3, 4, 5]
    assert feature_families(pooled[:, 1:3], 1).tolist() == [1, 1]
    assert feature_families(pooled[:, :0], 0.9).tolist() == []


def test_family_joins_features_linked_through_another():
    rng = np.random.default_rng(0)
    x, y = scipy.linalg.orth(rng.normal(size=(50, 2)) - 0).T
    x, y = x - x.mean(), y - y.mean()
    pooled = np.column_stack([x, np.cos(0.4) * x + np.sin(0.4) * y, np.cos(0.8) * x + np.sin(0.8) * y])
    corr = np.corrcoef(pooled.T)
    assert corr[0, 2] < 0.9 < min(corr[0, 1], corr[1, 2])
    assert feature_families(pooled, 0.9).tolist() == [1, 1, 1]


def test_contrast_equals_sklearn():
    rng = np.random.default_rng(0)
    own, other = rng.integers(0, 4, (30, 3)).astype(float), rng.integers(0, 3, (20, 3)).astype(float)
    table = contrast_features(own, other, np.array([0.0, 1, 2]))
    for k in range(3):
        truth = np.repeat([1, 0], [30, 20])
        assert table["auroc"][k] == pytest.approx(roc_auc_score(truth, np.r_[own[:, k], other[:, k]]))
        assert table["share_above"][k] == (other[:, k] > k).mean()
