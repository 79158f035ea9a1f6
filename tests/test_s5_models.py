"""Stage 5 models against scikit-learn or the formula, and the splits that scaling has to respect."""

import numpy as np
import pytest
from emergence_curves.layer_probes import PROBES, Strengths, probe_split, standardised_products
from measures.grouped_rows import grouped_folds
from models.estimators import DiffMeansClassifier, DiffMeansRegressor, MLPClassifier, OrdinalLogistic
from models.fitting import fit_model
from models.kernel_logistic import KernelLogistic
from models.model_choice import Recipe, build_pipeline, models_for, parameter_names
from models.model_files import load_model, save_model
from scipy.optimize import approx_fprime
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from twins_s5.provenance import sha256_of


def labelled(n=80, d=30, seed=0, signal=1.5):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    X = rng.normal(size=(n, d)) * rng.uniform(0.5, 20, d) + rng.normal(size=d) * 5
    X[:, 0] += signal * y * X[:, 0].std()
    return X, y, np.arange(n) // 2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_model_learns_a_clear_signal_and_survives_the_disk(task, tmp_path):
    X, y, groups = labelled(n=140, d=12, signal=3.0)
    targets = y if task == "classification" else y.astype(np.float32) + 1
    for name in models_for(task):
        small = {"random_forest": {"n_estimators": 30}, "ridge": {"alpha": 1.0}}
        parameters = small.get(name, {"C": 1.0} if "C" in parameter_names(name, task) else {})
        fitted = fit_model(Recipe(name, task, parameters, folds=3), X[:100], targets[:100], groups[:100])
        predicted = fitted.predict(X[100:])
        score = np.corrcoef(predicted, targets[100:])[0, 1]
        assert score > 0.6, f"{name}: {score}"
        if task == "classification":
            shares = fitted.predict_proba(X[100:])
            np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
            np.testing.assert_array_equal(np.arange(4)[shares.argmax(axis=1)], predicted, err_msg=name)
        path = tmp_path / f"{name}.skops"
        save_model(fitted, path)
        np.testing.assert_array_equal(load_model(path, sha256_of(path)).predict(X[100:]), predicted)


def test_scaler_statistics_are_those_of_the_training_part():
    X, y, groups = labelled()
    train = grouped_folds(y, groups, 5, 0)[0][0]
    fitted = fit_model(Recipe("logistic", "classification"), X[train], y[train], groups[train])
    np.testing.assert_allclose(fitted["scale"].mean_, X[train].mean(axis=0))
    np.testing.assert_allclose(fitted["scale"].scale_, X[train].std(axis=0))
    products = standardised_products(X, train)
    assert np.abs(products[train].sum(axis=0)).max() < 1e-3  # centred on the training rows, in float32
    assert products[train].trace() / len(train) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("name", ["logistic", "ordinal", "linear_svm"])
def test_reduction_to_the_span_does_not_change_the_fit(name):
    X, y, _ = labelled(n=60, d=200)
    recipe = Recipe(name, "classification", {"C": 0.01})
    wide, plain = (build_pipeline(recipe, wide).fit(X[:40], y[:40]) for wide in (True, False))
    assert "span" in wide.named_steps
    outputs = [getattr(p, "predict_proba", getattr(p, "decision_function", None)) for p in (wide, plain)]
    np.testing.assert_allclose(outputs[0](X[40:]), outputs[1](X[40:]), atol=2e-3)


def test_groups_never_straddle_and_classes_are_balanced():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 400)
    y = np.arange(400) % 4
    for seed in range(5):
        for train, test in grouped_folds(y, groups, 5, seed):
            assert not set(groups[train]) & set(groups[test])
            shares = np.bincount(y[test], minlength=4) / len(test)
            assert shares.min() > 0.12


def test_ordinal_gradient_and_probabilities():
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(30, 3)), np.arange(30) % 4
    model = OrdinalLogistic(C=0.5)
    at = rng.normal(size=6) * 0.5
    loss = lambda p: model._loss(p, X, codes)[0]  # noqa: E731
    np.testing.assert_allclose(model._loss(at, X, codes)[1], approx_fprime(at, loss, 1e-7), atol=1e-5)
    edges = np.concatenate([[-np.inf], np.cumsum(np.concatenate([at[3:4], np.exp(at[4:])])), [np.inf]])
    shares = np.diff(expit(edges - (X @ at[:3])[:, None]), axis=1)  # P(y <= k) = sigmoid(threshold_k - x·w)
    by_hand = -np.log(shares[np.arange(30), codes]).mean() + at[:3] @ at[:3] / (2 * 0.5 * 30)
    assert loss(at) == pytest.approx(by_hand)


def test_ordinal_recovers_its_own_parameters():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(6000, 2))
    above = expit((X @ [1.5, -1.0])[:, None] - np.array([-1.0, 0.5, 2.0]))
    y = (rng.random((6000, 1)) < above).sum(axis=1)
    fitted = OrdinalLogistic(C=1e4).fit(X, y)
    np.testing.assert_allclose(fitted.coef_, [1.5, -1.0], atol=0.12)
    np.testing.assert_allclose(fitted.thresholds_, [-1.0, 0.5, 2.0], atol=0.15)


def test_ordinal_with_two_classes_is_logistic_regression():
    X, y, _ = labelled(n=60, d=5)
    X, y = StandardScaler().fit_transform(X), (y > 1).astype(int)
    ours, theirs = OrdinalLogistic(C=0.3).fit(X, y), LogisticRegression(C=0.3, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-3)


def test_difference_of_means_by_hand():
    X = np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 1.0], [3.0, 1.0], [9.0, 4.0], [9.0, 6.0]])
    fitted = DiffMeansClassifier().fit(X, np.array([0, 0, 1, 1, 3, 3]))
    np.testing.assert_allclose(fitted.direction_, np.array([9.0, 4.0]) / np.hypot(9, 4))
    assert fitted.predict(np.array([[10.0, 5.0], [-1.0, 0.0]])).tolist() == [3, 0]
    line = DiffMeansRegressor().fit(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0.0, 0.0, 4.0, 6.0]))
    np.testing.assert_allclose(line.predict(np.array([[0.0], [3.0]])), [-0.8, 5.8])


def test_mlp_is_deterministic_and_leaves_torch_alone():
    import torch

    X, y, _ = labelled(n=40)
    before = torch.random.get_rng_state()
    first, second = (MLPClassifier(epochs=10, seed=3).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.weights_in_, second.weights_in_)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not np.array_equal(first.weights_in_, MLPClassifier(epochs=10, seed=4).fit(X, y).weights_in_)


def test_kernel_probes_equal_their_primal_forms():
    X, y, _ = labelled(n=90, d=150)
    train, test = np.arange(70), np.arange(70, 90)
    scaler = StandardScaler().fit(X[train])
    Z = scaler.transform(X) / np.sqrt(X.shape[1])
    strengths = Strengths(logistic_c=3.0, ridge_lambda=0.5)
    got = probe_split(X, np.stack([y, y[::-1]], axis=1), train, test, PROBES, strengths)
    for column, labels in enumerate((y, y[::-1])):
        logistic = LogisticRegression(C=3.0, tol=1e-8, max_iter=5000).fit(Z[train], labels[train])
        np.testing.assert_allclose(
            got["logistic"][1][:, column], logistic.predict_proba(Z[test]) @ np.arange(4), atol=2e-3
        )
        ridge = Ridge(alpha=0.5).fit(Z[train], labels[train])
        np.testing.assert_allclose(got["ridge"][1][:, column], ridge.predict(Z[test]), atol=1e-4)
        means = DiffMeansClassifier().fit(Z[train], labels[train])
        np.testing.assert_array_equal(got["diffmeans"][0][:, column], means.predict(Z[test]))


def test_kernel_logistic_minimises_the_penalised_loss():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(40, 6))
    onehot = np.eye(3)[np.arange(40) % 3][:, None, :]
    model = KernelLogistic.from_gram(F @ F.T, C=0.7)
    shares = np.exp(model.logits(F @ F.T, model.fit(onehot)))[:, 0]
    shares /= shares.sum(axis=1, keepdims=True)
    exact = LogisticRegression(C=0.7, tol=1e-10, max_iter=10_000).fit(F, np.arange(40) % 3).predict_proba(F)
    np.testing.assert_allclose(shares, exact, atol=1e-3)
