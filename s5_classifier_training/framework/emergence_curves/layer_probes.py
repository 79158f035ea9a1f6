"""Linear probes of one layer in many splits, computed from inner products between sentences.

A layer enters a fit only through the n × n matrix of inner products of its standardised rows, so after one
matrix product per split every probe works in at most n dimensions, however wide the model is. The fits are
those of the ordinary (primal) probes: Schölkopf & Smola 2002, section 4.2 (representer theorem).
"""

from dataclasses import dataclass

import numpy as np
from models.kernel_logistic import KernelLogistic, cholesky_root, log_softmax
from scipy.linalg import cho_solve

PROBES = ("logistic", "ridge", "diffmeans")


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
        root = cholesky_root(gram, strengths.ridge_lambda)
        scores = cross @ cho_solve((root, True), train_codes - means) + means  # [n_test, P]
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
