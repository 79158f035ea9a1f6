"""The test rows of an experiment, chosen once and by whole groups."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from experiments.experiment_config import ExperimentConfig
from experiments.experiment_dataset import GENERATE, Dataset
from measures.grouped_rows import grouped_folds, strata_of

LARGEST_DENOMINATOR = 20  # of a test share
SELECTED_ON_TRAINING_ROWS = (
    "stage 2 chose the inputs on the training sentences, outside the folds: cv_* is optimistic, "
    "test_* (confirmation sentences) is not"
)
SELECTED_ON_EVERY_ROW = (
    "stage 2 held out no confirmation sentences, so the inputs were chosen on every row, the test part "
    "among them: cv_* and test_* are both optimistic"
)
TWO_LABELS = (
    "the sentences have the labels {} and {} only: mae and Spearman, which need grades, are empty, kappa is "
    "unweighted, and nothing here is about the other labels"
)


@dataclass(frozen=True)
class Split:
    """Row indices of the two parts and how they were chosen."""

    train: np.ndarray  # [n_train] int64, rising
    test: np.ndarray  # [n_test] int64, rising
    method: str
    caveats: tuple[str, ...]  # why figures are not what they seem


def split_rows(dataset: Dataset, config: ExperimentConfig) -> Split:
    """Choose the test rows once: whole groups, classes balanced.

    Inputs that stage 2 chose on its discovery sentences are tested on its confirmation sentences only,
    whatever `test_share` says. Raises ValueError where a class has too few groups or a group is on both
    sides.
    """
    selected = dataset.metadata.get("inputs_selected_on") == "discovery"
    confirmation = np.flatnonzero(dataset.part == "confirmation")
    if selected and len(confirmation):
        test, caveats = confirmation, (SELECTED_ON_TRAINING_ROWS,)
        method = "confirmation sentences of stage 2, which took no part in choosing the inputs"
    else:
        share = Fraction(config.test_share).limit_denominator(LARGEST_DENOMINATOR)
        test, caveats = _share_of_groups(dataset, config, share), (SELECTED_ON_EVERY_ROW,) * selected
        method = f"{share} of the groups, stratified"
    if dataset.task == "classification" and len(dataset.classes) == 2:
        caveats = (*caveats, TWO_LABELS.format(*dataset.classes))
    split = Split(np.setdiff1d(np.arange(len(dataset.y)), test), test, method, caveats)
    _check_groups(dataset, split)
    if dataset.task == "classification":
        _check_class_sizes(dataset, split, config.folds)
    elif len(np.unique(dataset.groups[split.train])) < config.folds:
        raise ValueError(f"{dataset.path}: the training part has fewer groups than folds ({config.folds})")
    return split


def _share_of_groups(dataset: Dataset, config: ExperimentConfig, share: Fraction) -> np.ndarray:
    """Rows of a share of the groups, rising."""
    n_groups = len(np.unique(dataset.groups))
    if n_groups < share.denominator:
        raise ValueError(
            f"{dataset.path} has {n_groups} groups; a test share of {config.test_share} needs at "
            f"least {share.denominator}: label more sentences or change test_share"
        )
    strata = strata_of(dataset.y, dataset.task)
    blocks = grouped_folds(strata, dataset.groups, share.denominator, config.seed)
    return np.sort(np.concatenate([block for _, block in blocks[: share.numerator]]))


def _check_groups(dataset: Dataset, split: Split) -> None:
    both = np.intersect1d(dataset.groups[split.train], dataset.groups[split.test])
    if len(both):
        first, second = (
            dataset.sentence_index[rows[dataset.groups[rows] == both[0]][0]]
            for rows in (split.train, split.test)
        )
        raise ValueError(
            f"{dataset.path}: group {both[0]} is in both parts of the split, by the sentences {first} and "
            f"{second}; sentences of one scene or with the same words need one group in the CSV: {GENERATE} "
            "again, after the stages before it"
        )


def _check_class_sizes(dataset: Dataset, split: Split, folds: int) -> None:
    """Raise ValueError unless every class has a group per fold in training and a row in the test part."""
    for label in dataset.classes:
        own = dataset.y == label
        n_groups = len(np.unique(dataset.groups[split.train][own[split.train]]))
        if n_groups < folds or not own[split.test].any():
            raise ValueError(
                f"{dataset.path}: class {label} has {own.sum()} rows, with {n_groups} groups in the "
                f"training part and {own[split.test].sum()} rows in the test part; {folds}-fold "
                f"cross-validation needs {folds} groups and a test row: label more sentences of this class, "
                "or lower folds"
            )
