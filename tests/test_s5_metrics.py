"""Stage 5 metrics against scikit-learn and SciPy on plain and resampled rows, and the intervals' coverage."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from measures.metrics import (
    CLASSIFICATION,
    REGRESSION,
    classification_metrics,
    confusion_counts,
    quadratic_kappa,
    regression_metrics,
    weighted_ranks,
)
from twins_s5.group_statistics import group_bootstrap, percentile_interval

CLASSES = np.arange(4)


def sklearn_classification(y_true, y_pred, probabilities):
    onehot = np.eye(4)[y_true]
    return {
        "accuracy": reference.accuracy_score(y_true, y_pred),
        "macro_f1": reference.f1_score(y_true, y_pred, average="macro"),
        "kappa": reference.cohen_kappa_score(y_true, y_pred, weights="quadratic", labels=CLASSES),
        "mae": reference.mean_absolute_error(y_true, y_pred),
        "spearman": scipy.stats.spearmanr(y_true, y_pred).statistic,
        "log_loss": reference.log_loss(y_true, probabilities, labels=CLASSES),
        "brier": ((probabilities - onehot) ** 2).sum(axis=1).mean(),
        "auroc": np.mean([reference.roc_auc_score(y_true == k, probabilities[:, k]) for k in CLASSES]),
    }


def sklearn_regression(y_true, y_pred):
    return {
        "mae": reference.mean_absolute_error(y_true, y_pred),
        "rmse": reference.root_mean_squared_error(y_true, y_pred),
        "r2": reference.r2_score(y_true, y_pred),
        "spearman": scipy.stats.spearmanr(y_true, y_pred).statistic,
    }


def classified(rng, n):
    """Labels, predictions and rounded (so tied) probabilities that follow the labels loosely."""
    y_true = np.concatenate([CLASSES, rng.integers(0, 4, n - 4)])
    probabilities = rng.dirichlet(np.ones(4), n) + 0.7 * np.eye(4)[y_true] * rng.random((n, 1))
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), 1) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return y_true, probabilities.argmax(axis=1), probabilities


@given(seed=st.integers(0, 10_000), n=st.integers(20, 60))
@settings(max_examples=25, deadline=None)
def test_classification_metrics_equal_scikit_learn(seed, n):
    y_true, y_pred, probabilities = classified(np.random.default_rng(seed), n)
    ours = classification_metrics(y_true, y_pred, probabilities, CLASSES)
    assert tuple(ours) == CLASSIFICATION
    for name, expected in sklearn_classification(y_true, y_pred, probabilities).items():
        assert ours[name].shape == (1,)
        np.testing.assert_allclose(ours[name][0], expected, rtol=1e-9, err_msg=name)


def test_weights_mean_repeated_rows():
    rng = np.random.default_rng(1)
    y_true, y_pred, probabilities = classified(rng, 50)
    weights = rng.integers(0, 3, (4, 50)).astype(float)
    weights[:, :4] += 1  # every class stays in every resample
    ours = classification_metrics(y_true, y_pred, probabilities, CLASSES, weights)
    for b, repeats in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(50), repeats)
        expected = sklearn_classification(y_true[rows], y_pred[rows], probabilities[rows])
        for name in CLASSIFICATION:
            np.testing.assert_allclose(ours[name][b], expected[name], rtol=1e-9, err_msg=name)


def test_regression_metrics_equal_scikit_learn_on_repeated_rows():
    rng = np.random.default_rng(2)
    y_true = np.maximum(rng.normal(size=40), 0).round(1)  # many ties at zero, as activations have
    y_pred = y_true + rng.normal(size=40).round(1)
    weights = rng.integers(0, 3, (5, 40)).astype(float)
    ours = regression_metrics(y_true, y_pred, weights)
    assert tuple(ours) == REGRESSION
    for b, repeats in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(40), repeats)
        for name, expected in sklearn_regression(y_true[rows], y_pred[rows]).items():
            np.testing.assert_allclose(ours[name][b], expected, rtol=1e-9, err_msg=name)


def test_kappa_by_hand():
    # truth 0 0 3 3, predicted 0 3 3 3: one error of weight 9; by chance 0-3 has 2·3 / 16 and 3-0 2·1 / 16
    confusion = confusion_counts(np.array([0, 0, 3, 3]), np.array([0, 3, 3, 3]), 4, np.ones((1, 4)))
    assert quadratic_kappa(confusion)[0] == pytest.approx(1 - (9 / 4) / ((2 * 3 * 9 + 2 * 1 * 9) / 16))


def test_what_has_no_value_is_nan():
    constant = classification_metrics(
        np.array([0, 1, 2, 3]), np.zeros(4, int), np.full((4, 4), 0.25), CLASSES, np.ones((1, 4))
    )
    assert np.isnan(constant["spearman"][0])
    assert constant["kappa"][0] == pytest.approx(0)
    assert constant["auroc"][0] == pytest.approx(0.5)
    one_class = np.array([[1.0, 1.0, 0.0, 0.0]])
    lacking = classification_metrics(CLASSES, CLASSES, np.full((4, 4), 0.25), CLASSES, one_class)
    assert np.isnan(lacking["auroc"][0])
    assert np.isnan(regression_metrics(np.ones(3), np.arange(3.0))["r2"][0])
    assert np.isnan(percentile_interval(np.array([np.nan, np.nan]))[0])


def test_ranks_share_ties():
    values = np.array([3.0, 1.0, 3.0, 2.0])
    np.testing.assert_allclose(weighted_ranks(values, np.ones((1, 4)))[0], scipy.stats.rankdata(values))


def test_bootstrap_draws_whole_groups():
    groups = np.array([7, 7, 3, 9, 9, 9])
    weights = group_bootstrap(groups, 500, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()  # three groups drawn each time
    assert weights[:, 2].mean() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(weights, group_bootstrap(groups, 500, np.random.default_rng(0)))


@pytest.mark.slow
def test_intervals_cover_the_truth_at_the_nominal_rate():
    """Accuracy of predictions whose errors are shared within groups of three: 400 worlds of 80 groups."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(80), 3)
    covered = rowwise = 0
    for _ in range(400):
        fate = rng.random(80) < 0.5
        right = np.where(rng.random(240) < 0.8, fate[groups], rng.random(240) < 0.5)  # true accuracy 0.5
        y_true = np.zeros(240, int)
        for unit, counter in ((groups, "group"), (np.arange(240), "row")):
            weights = group_bootstrap(unit, 300, rng)
            resampled = weights @ (y_true == np.where(right, 0, 1)) / weights.sum(axis=1)
            low, high = percentile_interval(resampled)
            if counter == "group":
                covered += low <= 0.5 <= high
            else:
                rowwise += low <= 0.5 <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert rowwise / 400 < 0.88  # resampling rows would be too sure of itself
