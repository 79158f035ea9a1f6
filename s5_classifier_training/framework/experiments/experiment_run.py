"""One experiment measured: cross-validation, one look at the test part, and what it has to beat."""

from dataclasses import dataclass, replace

import numpy as np
from experiments.experiment_config import ExperimentConfig
from experiments.experiment_dataset import Dataset
from experiments.experiment_split import Split, split_rows
from measures.grouped_rows import grouped_folds, permute_by_group, strata_of
from measures.predictions import Prediction, metrics_with_intervals, plain_metrics, predict
from measures.sentence_kinds import measured_apart
from models.fitting import chosen_parameters, fit_model
from models.model_choice import Recipe
from models.text_baselines import length_prediction, tfidf_prediction
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from tqdm import tqdm
from twins_s5.group_statistics import group_bootstrap
from twins_s5.progress import progress

N_OTHER_FITS = 2  # the final one and the baselines, in the progress bar


@dataclass(frozen=True)
class CrossValidation:
    """Predictions of the training rows, each by a model that has not seen its group."""

    predicted: Prediction  # [n_train]
    fold_of_row: np.ndarray  # [n_train]
    by_fold: list[dict[str, float]]  # metrics of each fold


@dataclass(frozen=True)
class FinalFit:
    """The model fitted on the whole training part."""

    model: BaseEstimator
    chosen_parameters: dict
    on_train: Prediction
    on_test: Prediction


@dataclass(frozen=True)
class Outcome:
    """Everything that is measured in one experiment."""

    config: ExperimentConfig
    dataset: Dataset  # with the inputs that were used
    split: Split
    cross_validation: CrossValidation
    final: FinalFit
    test: dict[str, float]  # `test_<metric>` with its interval
    baselines: dict[str, dict[str, float]]  # the same, for each of them
    apart: dict[str, dict[str, dict]]  # by column of the test sentences and its value


def run_experiment(dataset: Dataset, config: ExperimentConfig) -> Outcome:
    """Measure an experiment; ValueError where configuration and dataset do not go together."""
    dataset = _used_inputs(dataset, config)
    split = split_rows(dataset, config)
    y_test, groups = dataset.y[split.test], dataset.groups[split.test]
    weights = group_bootstrap(groups, config.bootstrap, np.random.default_rng(config.seed))  # [B, n_test]
    n_fits = config.folds + N_OTHER_FITS + config.shuffles
    with progress(total=n_fits, unit="fit", description=config.model) as bar:
        cross_validation = cross_validate(dataset, config, split, bar)
        final = final_fit(dataset, config, split)
        bar.update()
        predicted = baseline_predictions(dataset, config, split)
        bar.update()
        shuffled = shuffled_metrics(dataset, config, split, final.chosen_parameters, bar)
    baselines = {
        name: metrics_with_intervals(y_test, prediction, dataset.classes, weights)
        for name, prediction in predicted.items()
    }
    test = metrics_with_intervals(y_test, final.on_test, dataset.classes, weights)
    apart = test_metrics_apart(dataset, config, split, {"model": final.on_test} | predicted)
    baselines |= {"shuffled": shuffled}
    return Outcome(config, dataset, split, cross_validation, final, test, baselines, apart)


def _used_inputs(dataset: Dataset, config: ExperimentConfig) -> Dataset:
    """The dataset with its first inputs only, in float64."""
    if dataset.task != config.task:
        raise ValueError(f"{dataset.path} is a {dataset.task} dataset, config.json says task {config.task!r}")
    n_inputs = dataset.X.shape[1]
    if config.first_inputs is not None and config.first_inputs > n_inputs:
        raise ValueError(f"first_inputs is {config.first_inputs}, the dataset has {n_inputs} inputs")
    X = dataset.X[:, : config.first_inputs].astype(np.float64)  # [n, d]
    if config.select_k is not None and config.select_k > X.shape[1]:
        raise ValueError(f"select_k is {config.select_k}, there are {X.shape[1]} inputs")
    return replace(dataset, X=X)


def cross_validate(dataset: Dataset, config: ExperimentConfig, split: Split, bar: tqdm) -> CrossValidation:
    """Predict each fold of the training part by a model fitted on the other folds."""
    X, y, groups = (values[split.train] for values in (dataset.X, dataset.y, dataset.groups))
    strata = strata_of(dataset.y, config.task)[split.train]
    label, fold_of_row = np.full(len(y), np.nan), np.full(len(y), -1)  # [n_train] each
    probabilities = None
    if config.task == "classification":
        probabilities = np.full((len(y), len(dataset.classes)), np.nan)
    by_fold = []
    for fold, (inside, outside) in enumerate(grouped_folds(strata, groups, config.folds, config.seed)):
        fitted = fit_model(config.recipe, X[inside], y[inside], groups[inside])
        predicted = predict(fitted, X[outside], config.task)
        by_fold.append(plain_metrics(y[outside], predicted, dataset.classes))
        label[outside], fold_of_row[outside] = predicted.label, fold
        if probabilities is not None:
            probabilities[outside] = predicted.probabilities
        bar.update()
    return CrossValidation(Prediction(label, probabilities), fold_of_row, by_fold)


def final_fit(dataset: Dataset, config: ExperimentConfig, split: Split) -> FinalFit:
    """Fit on the whole training part and predict both parts."""
    train, test = split.train, split.test
    fitted = fit_model(config.recipe, dataset.X[train], dataset.y[train], dataset.groups[train])
    found = chosen_parameters(fitted)
    return FinalFit(
        model=fitted,
        chosen_parameters={name: found[name] for name in (*config.parameters, *config.grid)},
        on_train=predict(fitted, dataset.X[train], config.task),
        on_test=predict(fitted, dataset.X[test], config.task),
    )


def baseline_predictions(dataset: Dataset, config: ExperimentConfig, split: Split) -> dict[str, Prediction]:
    """Predictions of the test rows by all that a probe has to beat, fitted on the same training rows.

    `majority` (regression: the mean), `length` (words and characters), `tfidf` (words and word pairs), and
    `diff_means` on the probe's own inputs.
    """
    train, test, y, task = split.train, split.test, dataset.y, config.task
    constant = DummyClassifier(strategy="prior") if task == "classification" else DummyRegressor()
    folds = grouped_folds(strata_of(y[train], task), dataset.groups[train], config.folds, config.seed)
    means = Recipe("diff_means", task, select_k=config.select_k, seed=config.seed)
    fitted = fit_model(means, dataset.X[train], y[train], dataset.groups[train])
    return {
        "majority": predict(constant.fit(dataset.X[train], y[train]), dataset.X[test], task),
        "length": length_prediction(task, dataset.sentences, y, train, test),
        "tfidf": tfidf_prediction(task, dataset.sentences, y, train, test, folds),
        "diff_means": predict(fitted, dataset.X[test], task),
    }


def test_metrics_apart(
    dataset: Dataset, config: ExperimentConfig, split: Split, predicted: dict[str, Prediction]
) -> dict[str, dict[str, dict]]:
    """Counts and metrics of all that is `predicted` for the test rows, for each kind of sentence apart.

    Intervals resample the groups of these sentences alone. A metric that needs a class they lack is NaN.
    """
    y, groups = dataset.y[split.test], dataset.groups[split.test]

    def measure(rows: np.ndarray) -> dict:
        weights = group_bootstrap(groups[rows], config.bootstrap, np.random.default_rng(config.seed))
        figures = {
            name: metrics_with_intervals(y[rows], prediction.of_rows(rows), dataset.classes, weights)
            for name, prediction in predicted.items()
        }
        return {"n": len(rows), "n_groups": len(np.unique(groups[rows])), **figures}

    return measured_apart({column: kind[split.test] for column, kind in dataset.kinds.items()}, measure)


def shuffled_metrics(
    dataset: Dataset, config: ExperimentConfig, split: Split, parameters: dict, bar: tqdm
) -> dict[str, float]:
    """`test_<metric>` of models fitted on shuffled labels: mean, and as `_low` and `_high` the extremes.

    The search is not repeated: `parameters` are those of the final fit. Groups exchange their labels.
    """
    recipe = replace(config.recipe, parameters=parameters, grid={})
    X, y, groups = (values[split.train] for values in (dataset.X, dataset.y, dataset.groups))
    rng = np.random.default_rng([config.seed, 1])
    runs = []
    for _ in range(config.shuffles):
        fitted = fit_model(recipe, X, permute_by_group(y, groups, rng), groups)
        predicted = predict(fitted, dataset.X[split.test], config.task)
        runs.append(plain_metrics(dataset.y[split.test], predicted, dataset.classes))
        bar.update()
    return {
        f"test_{name}{suffix}": float(reduce([run[name] for run in runs]))
        for name in runs[0]
        for suffix, reduce in (("", np.mean), ("_low", np.min), ("_high", np.max))
    }
