"""Fits a recipe on some rows, with any search and calibration on grouped folds inside these rows."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from measures.grouped_rows import grouped_folds, strata_of
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from models.model_choice import MODELS, Recipe, build_pipeline

CALIBRATION_FOLDS = 5
GRID_SCORING = {"classification": "accuracy", "regression": "r2"}


def fit_model(recipe: Recipe, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> BaseEstimator:
    """Fit on these rows alone: X float [n, d], y [n], groups [n].

    Returns a fitted estimator with `predict` and, for classification, `predict_proba`.
    """
    n_used = recipe.select_k if recipe.select_k is not None else X.shape[1]
    pipeline = build_pipeline(recipe, wide=n_used >= len(y))
    strata = strata_of(y, recipe.task)
    if recipe.grid:
        # One inner loop of nested cross-validation; the caller's folds are the outer loop.
        search = GridSearchCV(
            pipeline,
            {f"model__{name}": values for name, values in recipe.grid.items()},
            scoring=GRID_SCORING[recipe.task],
            cv=grouped_folds(strata, groups, recipe.folds, recipe.seed),
            refit=False,
            error_score="raise",
        ).fit(X, y)
        pipeline = pipeline.set_params(**search.best_params_)
    if MODELS[recipe.model].calibrated and recipe.task == "classification":
        # Temperature scaling keeps the predicted class (Guo et al., arXiv 1706.04599).
        inner = grouped_folds(strata, groups, CALIBRATION_FOLDS, recipe.seed)
        calibrated = CalibratedClassifierCV(pipeline, method="temperature", cv=inner, ensemble=False)
        return calibrated.fit(X, y).set_params(cv=None)  # the folds are indices into these rows
    return pipeline.fit(X, y)


def chosen_parameters(fitted: BaseEstimator) -> dict:
    """Parameters of the final model step, after any search."""
    pipeline = fitted.estimator if isinstance(fitted, CalibratedClassifierCV) else fitted
    return pipeline.named_steps["model"].get_params()


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Say on standard error, once and when the work is done, what warned: fits that did not converge."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    for message in sorted({str(warning.message).splitlines()[0] for warning in caught}):
        print(f"warning: {message}", file=sys.stderr)
