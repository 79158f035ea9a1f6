"""Every statistic of s2 against SciPy, scikit-learn and NumPy, column by column, on sparse data with ties."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from feature_statistics.feature_metrics import (
    STATISTICS,
    feature_statistics,
    sort_activations,
    standardised_ranks,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from twins_s2.sentence_pooling import pool_dense, pool_sparse


def tied_activations(n: int, d: int, seed: int) -> np.ndarray:
    """[n, d] float32, mostly zeros, few distinct values, with an empty, a constant and a zero-free column."""
    rng = np.random.default_rng(seed)
    values = rng.choice([0.25, 1, 1.5, 7, 1e-20, 3e10], size=(n, d)) * rng.choice([1, 1.1], size=(n, d))
    dense = np.where(rng.random((n, d)) < rng.choice([0.1, 0.5, 0.95], size=d), values, 0)
    dense[:, 0] = 0
    dense[:, 1] = 0.1
    dense[:, 2] = rng.choice([1, 2], size=n)
    return dense.astype(np.float32)


def all_statistics(dense: np.ndarray, labels: np.ndarray):
    entries = sort_activations(scipy.sparse.csc_matrix(dense))
    return feature_statistics(entries, standardised_ranks(entries), labels)


@pytest.mark.parametrize("seed", range(6))
def test_statistics_equal_reference_libraries(seed):
    rng = np.random.default_rng(100 + seed)
    labels = rng.permutation(np.concatenate([np.arange(4), rng.integers(0, 4, 57)]))
    dense = tied_activations(len(labels), 40, seed)
    table = all_statistics(dense, labels)
    assert tuple(table.columns) == STATISTICS
    pair = (labels == 0) | (labels == 3)
    for j, got in table.iterrows():
        x = dense[:, j].astype(np.float64)
        means = [x[labels == k].mean() for k in range(4)]
        threshold = np.percentile(x[labels == 0], 95)
        expected = {
            "separation_score": (means[3] - means[0]) / x.std() if np.ptp(x) else np.nan,
            "tpr": (x[labels == 3] > threshold).mean(),
            "fpr": (x[labels == 0] > threshold).mean(),
            **{f"mean_label_{k}": means[k] for k in range(4)},
            "auroc": roc_auc_score(labels[pair] == 3, x[pair]),
            "density": (x > 0).mean(),
            "n_firing": (x > 0).sum(),
            "threshold": threshold,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of constant columns and returns NaN, as we do
            expected["pearson_corr"] = scipy.stats.pearsonr(x, labels).statistic
            expected["spearman_corr"] = scipy.stats.spearmanr(x, labels).statistic
        if np.ptp(x):
            shares = expected["tpr"] - expected["fpr"]
            expected["interpretability_score"] = (
                0.4 * expected["pearson_corr"] + 0.3 * expected["separation_score"] + 0.3 * shares
            )
        else:
            expected["interpretability_score"] = np.nan
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), (j, name)


def test_constant_features_have_no_correlation():
    labels = np.arange(40) % 4
    table = all_statistics(tied_activations(40, 5, 0), labels)
    undefined = ["pearson_corr", "spearman_corr", "separation_score", "interpretability_score"]
    assert table.loc[[0, 1], undefined].isna().all(axis=None)
    assert table.loc[[2, 3, 4], undefined].notna().all(axis=None)
    assert table.loc[[0, 1], "auroc"].tolist() == [0.5, 0.5]


def test_monotonic_allows_equal_means_but_needs_a_rise():
    labels = np.repeat(np.arange(4), 2)
    columns = [
        [0, 0, 1, 1, 1, 1, 2, 2],  # a plateau
        [1, 1, 1, 1, 1, 1, 1, 1],  # no rise
        [0, 0, 2, 2, 1, 1, 3, 3],  # a fall between 1 and 2
        [0, 1, 1, 0, 2, 3, 3, 3],  # equal means at 0 and 1
        [3, 3, 2, 2, 1, 1, 0, 0],
    ]
    table = all_statistics(np.array(columns, dtype=np.float32).T, labels)
    assert table["monotonic"].tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("n_label_0", [1, 2, 3, 19, 20, 21, 41])
def test_threshold_and_rates_follow_the_percentile_on_tiny_label_sets(n_label_0):
    labels = np.concatenate([np.zeros(n_label_0, dtype=int), np.arange(1, 4), [3, 3]])
    dense = tied_activations(len(labels), 60, n_label_0)
    table = all_statistics(dense, labels)
    thresholds = np.percentile(dense[labels == 0].astype(np.float64), 95, axis=0)
    np.testing.assert_allclose(table["threshold"], thresholds, rtol=1e-12)
    np.testing.assert_array_equal(table["tpr"], (dense[labels == 3] > thresholds).mean(axis=0))
    np.testing.assert_array_equal(table["fpr"], (dense[labels == 0] > thresholds).mean(axis=0))


def test_statistics_of_no_feature_are_an_empty_table():
    table = all_statistics(np.zeros((8, 0), dtype=np.float32), np.arange(8) % 4)
    assert table.shape == (0, len(STATISTICS))
    assert table["monotonic"].dtype == bool


def test_statistics_leave_their_input_unchanged():
    entries = sort_activations(scipy.sparse.csc_matrix(tied_activations(30, 20, 3)))
    before = entries.sentence.copy()
    ranks = standardised_ranks(entries)
    ranks.sort_indices()
    assert np.array_equal(entries.sentence, before)


@given(data=st.data(), pool=st.sampled_from(["max", "mean", "final"]))
@settings(max_examples=60, deadline=None)
def test_pooling_equals_the_dense_computation(data, pool):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    d_sae = data.draw(st.integers(1, 4))
    cells = st.sampled_from([0, 0, 0, 0.5, 1, 2.25, -0.5, -3])
    size = sum(lengths) * d_sae
    dense = np.array(data.draw(st.lists(cells, min_size=size, max_size=size)), dtype=np.float32)
    dense = dense.reshape(sum(lengths), d_sae)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    reduce = {"max": lambda x: x.max(axis=0), "mean": lambda x: x.mean(axis=0), "final": lambda x: x[-1]}[
        pool
    ]
    expected = np.stack([reduce(dense[a:b]) for a, b in itertools.pairwise(offsets)])
    pooled = pool_sparse(scipy.sparse.csc_matrix(dense), offsets, pool)
    np.testing.assert_allclose(pooled.toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(pool_dense(dense, offsets, pool), expected, rtol=1e-6)
    assert pooled.dtype == np.float32


def test_pooling_accepts_unsorted_indices():
    matrix = scipy.sparse.csc_matrix(
        (np.array([5, 1, 3], dtype=np.float32), np.array([3, 0, 1]), np.array([0, 3])), shape=(4, 1)
    )
    assert pool_sparse(matrix, np.array([0, 2, 4]), "max").toarray().ravel().tolist() == [3, 5]


def test_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="median"):
        pool_sparse(scipy.sparse.csc_matrix((2, 1), dtype=np.float32), np.array([0, 2]), "median")
    with pytest.raises(ValueError, match="median"):
        pool_dense(np.ones((2, 1)), np.array([0, 2]), "median")
