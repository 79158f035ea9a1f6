"""Metrics of predictions, each computed for all bootstrap resamples at once.

A resample is a row of `weights` [B, n]: how often each of the n rows occurs in it. Weights of one give the
plain metric, so a point estimate and its interval come from the same code. Every metric equals the one
computed on the rows repeated as often as their weight says.
"""

import numpy as np
from twins_s5.group_statistics import weighted_auroc

CLASSIFICATION = ("accuracy", "macro_f1", "kappa", "mae", "spearman", "log_loss", "brier", "auroc")
REGRESSION = ("mae", "rmse", "r2", "spearman")
LOWER_IS_BETTER = ("mae", "rmse", "log_loss", "brier")


def confusion_counts(
    true_codes: np.ndarray, predicted_codes: np.ndarray, n_classes: int, weights: np.ndarray
) -> np.ndarray:
    """Confusion matrix of each resample, [B, n_classes (true), n_classes (predicted)]."""
    cells = np.zeros((len(true_codes), n_classes * n_classes))  # [n, K * K]
    cells[np.arange(len(true_codes)), true_codes * n_classes + predicted_codes] = 1
    return (weights @ cells).reshape(-1, n_classes, n_classes)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of rows on the diagonal, [B]."""
    return np.trace(confusion, axis1=1, axis2=2) / confusion.sum(axis=(1, 2))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur among truth or predictions, [B]."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)  # [B, K]
    occurrences = confusion.sum(axis=2) + confusion.sum(axis=1)  # [B, K]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nanmean(2 * hits / occurrences, axis=1)


def quadratic_kappa(confusion: np.ndarray) -> np.ndarray:
    """Cohen's kappa with quadratic weights (Cohen 1968), [B]; NaN where both sides are one class."""
    n_classes = confusion.shape[1]
    penalty = (np.arange(n_classes)[:, None] - np.arange(n_classes)) ** 2  # [K, K]
    expected = confusion.sum(axis=2)[:, :, None] * confusion.sum(axis=1)[:, None, :]  # [B, K, K]
    expected = expected / confusion.sum(axis=(1, 2))[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (penalty * confusion).sum(axis=(1, 2)) / (penalty * expected).sum(axis=(1, 2))


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average rank that each row has in each resample, [B, n]; ties share their mean rank."""
    _, tie_of_row, sizes = np.unique(values, return_inverse=True, return_counts=True)  # [n], [ties]
    order = np.argsort(tie_of_row, kind="stable")  # [n]
    counts = np.add.reduceat(weights[:, order], np.cumsum(sizes) - sizes, axis=1)  # [B, ties]
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2  # [B, ties]
    return ranks[:, tie_of_row]


def weighted_pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson r of `a` and `b` ([n] or [B, n]) under each row of weights, [B]; NaN for a constant side."""
    total = weights.sum(axis=1, keepdims=True)
    a = a - (weights * a).sum(axis=1, keepdims=True) / total
    b = b - (weights * b).sum(axis=1, keepdims=True) / total
    covariance = (weights * a * b).sum(axis=1)
    scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-9 * total[:, 0], covariance / scale, np.nan)


def spearman(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation as the Pearson r of average ranks, [B]."""
    return weighted_pearson(weighted_ranks(a, weights), weighted_ranks(b, weights), weights)


def classification_metrics(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    probabilities: np.ndarray,
    classes: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """All of CLASSIFICATION, each [B]. `probabilities` is [n, K] in the order of the sorted `classes`.

    `mae` is on the label scale; `spearman` relates label and predicted label; `brier` sums the squared
    error over classes (0 to 2); `auroc` is the mean over classes of one against the rest. Of two classes
    there are no grades: `mae` and `spearman` are NaN, and kappa has nothing to weight.
    """
    weights = np.ones((1, len(y_true))) if weights is None else weights
    true_codes, predicted_codes = np.searchsorted(classes, y_true), np.searchsorted(classes, y_pred)
    confusion = confusion_counts(true_codes, predicted_codes, len(classes), weights)
    total = weights.sum(axis=1)
    onehot = np.eye(len(classes))[true_codes]  # [n, K]
    tiny = np.finfo(np.float64).eps
    own = np.clip(probabilities[np.arange(len(y_true)), true_codes], tiny, 1 - tiny)  # [n]
    graded = 1.0 if len(classes) > 2 else np.nan
    by_class = [weighted_auroc(probabilities[:, k], true_codes == k, weights) for k in range(len(classes))]
    return {
        "accuracy": accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "kappa": quadratic_kappa(confusion),
        "mae": graded * (weights @ np.abs(y_true - y_pred) / total),
        "spearman": graded * spearman(true_codes, predicted_codes, weights),
        "log_loss": weights @ -np.log(own) / total,
        "brier": weights @ ((probabilities - onehot) ** 2).sum(axis=1) / total,
        "auroc": np.mean(by_class, axis=0),
    }


def ends_auroc(
    labels: np.ndarray, scores: np.ndarray, ends: tuple[int, int], weights: np.ndarray
) -> np.ndarray:
    """AUROC of `scores` [n] for the higher against the lower of the two labels `ends`, [B]; other rows do
    not count.
    """
    rows = np.isin(labels, ends)
    return weighted_auroc(scores[rows], labels[rows] == ends[1], weights[:, rows])


def regression_metrics(
    y_true: np.ndarray, y_pred: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All of REGRESSION, each [B]; `r2` is against the mean of the resample's own targets."""
    weights = np.ones((1, len(y_true))) if weights is None else weights
    y_true, y_pred = np.asarray(y_true, np.float64), np.asarray(y_pred, np.float64)
    total = weights.sum(axis=1)
    squared = weights @ (y_true - y_pred) ** 2  # [B]
    mean = weights @ y_true / total  # [B]
    spread = weights @ y_true**2 - total * mean**2  # [B]
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(spread > 0, 1 - squared / spread, np.nan)
    return {
        "mae": weights @ np.abs(y_true - y_pred) / total,
        "rmse": np.sqrt(squared / total),
        "r2": r2,
        "spearman": spearman(y_true, y_pred, weights),
    }
