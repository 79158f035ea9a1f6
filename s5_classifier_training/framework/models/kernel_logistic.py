"""Logistic regression from inner products of rows: many label vectors at once, in at most n dimensions."""

import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

GRADIENT_TOLERANCE = 1e-5  # probabilities then agree with an exact fit to about 1e-4
MAX_STEPS = 500
JITTER = 1e-6  # added to the inner products' diagonal (about 1): centred rows span one dimension less than n


def cholesky_root(matrix: np.ndarray, shift: float) -> np.ndarray:
    """Lower L with L Lᵀ = matrix + shift · I, for inner products of rows that may be collinear.

    Rounding to float32 can leave eigenvalues below zero, by about 1e-7 of the largest. Where the shift does
    not outweigh that, it is raised tenfold until it does.
    """
    for raised in shift * 10.0 ** np.arange(10):
        with suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(matrix + raised * np.eye(len(matrix)))
    raise ValueError("inner products of the rows have a large negative eigenvalue: the inputs are not usable")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


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
        lower = cholesky_root(gram, JITTER)
        root = cholesky_root(curvature * (lower.T @ lower), 1 / (C * n))
        return cls(solve_triangular(root, lower.T, lower=True).T, lower, root, curvature)

    def fit(self, onehot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit P label vectors at once, `onehot` [n_train, P, K]: V [n_train, P, K] and intercepts [P, K]."""
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
        options = {"maxiter": MAX_STEPS, "maxcor": 10, "gtol": GRADIENT_TOLERANCE, "ftol": 1e-9}
        solution = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        if not solution.success:
            warnings.warn(
                f"logistic regression did not converge: {solution.message}", ConvergenceWarning, stacklevel=2
            )
        parameters = solution.x.reshape(n + 1, n_vectors, n_classes)
        return parameters[:-1], parameters[-1]

    def logits(self, cross: np.ndarray, fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Logits [n_test, P, K] for inner products `cross` [n_test, n_train] with the training rows."""
        V, intercepts = fitted
        rows = solve_triangular(self.lower, cross.T, lower=True)  # [n_train, n_test] in the basis of L
        rows = solve_triangular(self.root, rows, lower=True).T  # [n_test, n_train]
        return np.tensordot(rows, V, axes=1) + intercepts
