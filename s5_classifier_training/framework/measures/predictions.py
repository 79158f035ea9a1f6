"""What a model says of some rows, and the task's metrics of it."""

from dataclasses import dataclass

import numpy as np
from measures.metrics import classification_metrics, regression_metrics
from sklearn.base import BaseEstimator
from twins_s5.group_statistics import percentile_interval


@dataclass(frozen=True)
class Prediction:
    """Predictions for n rows."""

    label: np.ndarray  # [n] class, or activation
    probabilities: np.ndarray | None = None  # [n, K], of a classification

    def of_rows(self, rows: np.ndarray) -> "Prediction":
        return Prediction(
            self.label[rows], self.probabilities[rows] if self.probabilities is not None else None
        )


def predict(fitted: BaseEstimator, X: np.ndarray, task: str) -> Prediction:
    """Predictions of a fitted estimator for the rows of X."""
    return Prediction(fitted.predict(X), fitted.predict_proba(X) if task == "classification" else None)


def task_metrics(
    y: np.ndarray, predicted: Prediction, classes: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The task's metrics under each row of weights, each [B]."""
    if predicted.probabilities is None:
        return regression_metrics(y, predicted.label, weights)
    return classification_metrics(y, predicted.label, predicted.probabilities, classes, weights)


def plain_metrics(y: np.ndarray, predicted: Prediction, classes: np.ndarray) -> dict[str, float]:
    """The task's metrics on the rows as they are."""
    return {name: float(value[0]) for name, value in task_metrics(y, predicted, classes).items()}


def metrics_with_intervals(
    y: np.ndarray, predicted: Prediction, classes: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """`test_<metric>`, `test_<metric>_low` and `_high` (bootstrap 95 % interval over groups)."""
    resampled = task_metrics(y, predicted, classes, weights)
    figures = {}
    for name, value in plain_metrics(y, predicted, classes).items():
        figures[f"test_{name}"] = value
        figures[f"test_{name}_low"], figures[f"test_{name}_high"] = percentile_interval(resampled[name])
    return figures
