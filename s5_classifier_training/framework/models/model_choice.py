"""The models that a configuration can name, each a scikit-learn pipeline that scales inside the split."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_selection import SelectKBest, f_classif, f_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from models.estimators import (
    DiffMeansClassifier,
    DiffMeansRegressor,
    MLPClassifier,
    MLPRegressor,
    OrdinalLogistic,
)

# Arguments that a configuration may not set: the kernel is the model's name, the seed the experiment's.
FIXED_PARAMETERS = {
    "kernel",
    "probability",
    "random_state",
    "seed",
    "break_ties",
    "decision_function_shape",
    "verbose",
    "n_jobs",
}


@dataclass(frozen=True)
class ModelSpec:
    """How a model name becomes an estimator for each task, with this project's defaults."""

    builders: dict[str, Callable[..., BaseEstimator]]  # task -> class
    defaults: dict[str, object] = field(default_factory=dict)
    rotates: bool = False  # unchanged by an orthogonal map: wide inputs are reduced to the rows' span
    calibrated: bool = False  # has no probabilities of its own
    seeded: str | None = None  # name of the seed argument


MODELS = {
    # C is small because the inputs outnumber the sentences: standardised rows have length sqrt(n_inputs).
    "logistic": ModelSpec(
        {"classification": LogisticRegression}, {"C": 0.001, "max_iter": 2000}, rotates=True
    ),
    "ordinal": ModelSpec({"classification": OrdinalLogistic}, {"C": 0.001}, rotates=True),
    "ridge": ModelSpec({"regression": Ridge}, {"alpha": 1000.0}),
    "linear_svm": ModelSpec(
        {"classification": SVC, "regression": SVR},
        {"kernel": "linear", "C": 0.001},
        rotates=True,
        calibrated=True,
    ),
    "rbf_svm": ModelSpec(
        {"classification": SVC, "regression": SVR}, {"kernel": "rbf", "C": 1.0}, calibrated=True
    ),
    "random_forest": ModelSpec(
        {"classification": RandomForestClassifier, "regression": RandomForestRegressor},
        {"n_estimators": 300},
        seeded="random_state",
    ),
    "diff_means": ModelSpec({"classification": DiffMeansClassifier, "regression": DiffMeansRegressor}),
    "mlp": ModelSpec({"classification": MLPClassifier, "regression": MLPRegressor}, seeded="seed"),
}


@dataclass(frozen=True)
class Recipe:
    """All that decides a fit, apart from the rows."""

    model: str
    task: str
    parameters: dict[str, object] = field(default_factory=dict)
    grid: dict[str, list] = field(default_factory=dict)  # values to choose from by inner cross-validation
    select_k: int | None = None  # inputs to keep, those with the largest F
    folds: int = 5  # of the inner cross-validation
    seed: int = 0


def models_for(task: str) -> list[str]:
    """Names of the models that can do `task`."""
    return [name for name, spec in MODELS.items() if task in spec.builders]


def parameter_names(model: str, task: str) -> list[str]:
    """Parameters that a configuration may set."""
    return sorted(set(inspect.signature(MODELS[model].builders[task]).parameters) - FIXED_PARAMETERS)


def build_pipeline(recipe: Recipe, wide: bool) -> Pipeline:
    """Scaler, optional selection of inputs, and the model, not fitted.

    `wide` says that there are at least as many inputs as rows. Models that a rotation does not change then
    work in the at most n - 1 dimensions that the training rows span: the same fit, many times faster.
    """
    spec = MODELS[recipe.model]
    steps: list[tuple[str, BaseEstimator]] = [("scale", StandardScaler())]
    if recipe.select_k is not None:
        f_statistic = f_classif if recipe.task == "classification" else f_regression
        steps.append(("select", SelectKBest(f_statistic, k=recipe.select_k)))
    if spec.rotates and wide:
        steps.append(("span", PCA(svd_solver="full")))
    arguments = {**spec.defaults, **recipe.parameters}
    if spec.seeded:
        arguments[spec.seeded] = recipe.seed
    if spec.builders[recipe.task] is SVC:
        arguments["break_ties"] = True  # so that the prediction is the class of the largest decision value
    steps.append(("model", spec.builders[recipe.task](**arguments)))
    return Pipeline(steps)
