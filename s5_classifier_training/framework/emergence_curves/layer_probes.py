"""Linear probes of one layer in many splits, computed from inner products between sentences.

A layer enters a fit only through the n × n matrix of inner products of its standardised rows, so after one
matrix product per split every probe works in at most n dimensions, however wide the model is. The fits are
those of the ordinary (primal) probes: Schölkopf & Smola 2002, section 4.2 (representer theorem).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

PROBES = ("logistic", "ridge", "diffmeans")
GRADIENT_TOLERANCE = 1e-5  # probabilities then agree with an exact fit to about 1e-4
JITTER = 1e-6  # added to the inner products' diagonal (about 1): centred rows span one dimension less than n


@dataclass(frozen=True)
class Strengths:
    """Regularisation for standardised rows scaled to length 1, so that it means the same at any width."""

    logistic_c: float = 3.0
    ridge_lambda: float = 1.0


def standardised_products(X: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Inner products of all rows with the training rows, float64 [n, n_train].

    Columns of X [n, d] are centred and scaled by the training rows alone; dividing by sqrt(d) makes the
    average squared length of a training row 1.
    """
    mean = X[train].mean(axis=0, dtype=np.float64)  # [d]
    scale = X[train].std(axis=0, dtype=np.float64)  # [d]
    scale[scale == 0] = 1
    Z = ((X - mean) / (scale * np.sqrt(X.shape[1]))).astype(np.float32)  # [n, d]
    return (Z @ Z[train].T).astype(np.float64)


@dataclass(frozen=True)
class KernelLogistic:
    """Coordinates in which L2-penalised logistic regressions on one set of inner products are easy to fit.

    With gram = L Lᵀ the primal weights W act on the rows of L. Under V = Rᵀ W, where R Rᵀ = c LᵀL + λI, the
    loss is log-loss(A V) + (|V|² - c |A V|²) / 2 with A = L R⁻ᵀ: the same minimum, reached in a few dozen
    steps because the scale of every direction is close to 1. λ = 1 / (C n) and c = 1 / (4 n), the curvature
    at equal odds.
    """

    features: np.ndarray  # A, float64 [n_train, n_train]
    lower: np.ndarray  # L
    root: np.ndarray  # R
    curvature: float

    @classmethod
    def from_gram(cls, gram: np.ndarray, C: float) -> "KernelLogistic":
        """Prepare the inner products [n_train, n_train] of the training rows."""
        n = len(gram)
        curvature = 0.25 / n
        lower = np.linalg.cholesky(gram + JITTER * np.eye(n))
        root = np.linalg.cholesky(curvature * (lower.T @ lower) + np.eye(n) / (C * n))
        return cls(solve_triangular(root, lower.T, lower=True).T, lower, root, curvature)

    def fit(self, onehot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit P label vectors at once, `onehot` [n_train, P, K]; returns V [n_train, P, K], intercepts [P,
        K].
        """
        n, n_vectors, n_classes = onehot.shape
        A, c = self.features, self.curvature
        targets = onehot.reshape(n, -1)  # [n, P * K]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = flat.reshape(n + 1, -1)  # last row: intercepts
            V = parameters[:-1]
            on_rows = A @ V  # [n, P * K]
            log_shares = log_softmax((on_rows + parameters[-1]).reshape(onehot.shape)).reshape(n, -1)
            residual = (np.exp(log_shares) - targets) / n
            value = -(targets * log_shares).sum() / n + 0.5 * ((V * V).sum() - c * (on_rows * on_rows).sum())
            return value, np.vstack([A.T @ (residual - c * on_rows) + V, residual.sum(axis=0)]).ravel()

        start = np.zeros((n + 1) * n_vectors * n_classes)
        options = {"maxiter": 500, "maxcor": 10, "gtol": GRADIENT_TOLERANCE, "ftol": 1e-9}
        solution = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
        parameters = solution.reshape(n + 1, n_vectors, n_classes)
        return parameters[:-1], parameters[-1]

    def logits(self, cross: np.ndarray, fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Logits [n_test, P, K] for inner products `cross` [n_test, n_train] with the training rows."""
        V, intercepts = fitted
        rows = solve_triangular(
            self.lower, cross.T, lower=True
        )  # [n_train, n_test], test rows in the basis of L
        rows = solve_triangular(self.root, rows, lower=True).T  # [n_test, n_train]
        return np.tensordot(rows, V, axes=1) + intercepts


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def line_discriminant(
    train_scores: np.ndarray, codes: np.ndarray, scores: np.ndarray, n_classes: int
) -> np.ndarray:
    """Class codes [n] of one-dimensional `scores` by a linear discriminant with the training shares."""
    means = np.array([train_scores[codes == k].mean() for k in range(n_classes)])  # [K]
    variance = np.mean((train_scores - means[codes]) ** 2) + 1e-12
    log_shares = np.log(np.bincount(codes, minlength=n_classes) / len(codes))  # [K]
    return (-((scores[:, None] - means) ** 2) / (2 * variance) + log_shares).argmax(axis=1)


def probe_split(
    X: np.ndarray,
    codes: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    probes: tuple[str, ...],
    strengths: Strengths,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fit each probe on the training rows for P label vectors; per probe (codes, scores), each [n_test, P].

    X is [n, d], `codes` int [n, P] with classes 0..K-1, of which all occur among the training rows. A score
    rises with the label: the expected code (logistic), the regressed code (ridge), the projection
    (diffmeans).
    """
    n_classes = int(codes.max()) + 1
    products = standardised_products(X, train)  # [n, n_train]
    gram, cross = products[train], products[test]  # [n_train, n_train], [n_test, n_train]
    train_codes = codes[train]  # [n_train, P]
    predictions = {}
    if "logistic" in probes:
        model = KernelLogistic.from_gram(gram, strengths.logistic_c)
        logits = model.logits(cross, model.fit(np.eye(n_classes)[train_codes]))  # [n_test, P, K]
        shares = np.exp(log_softmax(logits))
        predictions["logistic"] = (logits.argmax(axis=2), shares @ np.arange(n_classes))
    if "ridge" in probes:
        means = train_codes.mean(axis=0)  # [P]
        solved = cho_factor(gram + strengths.ridge_lambda * np.eye(len(gram)))
        scores = cross @ cho_solve(solved, train_codes - means) + means  # [n_test, P]
        predictions["ridge"] = (np.clip(np.rint(scores), 0, n_classes - 1).astype(np.int64), scores)
    if "diffmeans" in probes:
        top, bottom = train_codes == n_classes - 1, train_codes == 0  # [n_train, P] each
        direction = top / top.sum(axis=0) - bottom / bottom.sum(axis=0)  # [n_train, P], in terms of the rows
        on_train, on_test = gram @ direction, cross @ direction
        spread = on_train.std(axis=0) + 1e-12
        on_train, on_test = on_train / spread, on_test / spread  # one scale for the folds of a split
        labels = [
            line_discriminant(on_train[:, p], train_codes[:, p], on_test[:, p], n_classes)
            for p in range(codes.shape[1])
        ]
        predictions["diffmeans"] = (np.stack(labels, axis=1), on_test)
    return predictions
