"""Folds and shuffles of rows that belong to groups: the rows of one scene stay together."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

Folds = list[tuple[np.ndarray, np.ndarray]]  # row indices (train, test) of each fold


def strata_of(y: np.ndarray, task: str) -> np.ndarray:
    """Integer codes [n] that splits balance: the classes, or quartiles of a continuous target."""
    if task == "classification":
        return np.unique(y, return_inverse=True)[1]
    return np.digitize(y, np.unique(np.quantile(y, [0.25, 0.5, 0.75])), right=True)


def grouped_folds(strata: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> Folds:
    """Folds with balanced strata; no group is on both sides."""
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(strata)), strata, groups))


def permute_by_group(targets: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle targets [n]: groups of one size exchange theirs, and rows within a group too.

    Whole-block and within-block exchangeability (Winkler et al. 2015, NeuroImage 123:253): the rows of a
    scene keep the dependence that they have.
    """
    shuffled = targets.copy()
    _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    rows_by_group = np.split(np.argsort(group_of_row, kind="stable"), np.cumsum(sizes)[:-1])
    for size in np.unique(sizes):
        block = np.stack([rows for rows in rows_by_group if len(rows) == size])  # [groups of this size, size]
        donors = rng.permuted(block[rng.permutation(len(block))], axis=1)
        shuffled[block] = targets[donors]
    return shuffled
