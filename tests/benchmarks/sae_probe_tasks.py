"""Tasks, splits and probe of the package sae-probes (Kantamneni et al. 2025, arXiv 2502.16681).

Its functions are the package's own. Two things that they do not need are kept from being imported: its
`__init__`, which reads all data sets, and xgboost, which only its boosted trees use.
"""

import importlib.util
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

SEED = 42  # the package's


@dataclass(frozen=True)
class Task:
    """The prompts of one task's training rows, then of its test rows, and which of two classes each has."""

    name: str
    prompts: list[str]
    classes: np.ndarray  # [n] 0 or 1
    n_train: int


@cache
def package_folder() -> Path:
    """Return where the package lies; FileNotFoundError if it is not installed."""
    spec = importlib.util.find_spec("sae_probes")
    if spec is None or importlib.util.find_spec("zstandard") is None:
        raise FileNotFoundError(
            "the package sae-probes is not installed: run with `uv run --group ethics`, or "
            "`pip install --no-deps sae-probes==0.4.2 zstandard` first"
        )
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def package_functions() -> tuple:
    """Return the package's `get_train_test_indices` and `find_best_reg`."""
    bare = ModuleType("sae_probes")
    bare.__path__ = [str(package_folder())]
    sys.modules["sae_probes"] = bare
    sys.modules.setdefault("xgboost", ModuleType("xgboost"))
    from sae_probes.utils_data import get_train_test_indices
    from sae_probes.utils_training import find_best_reg

    return get_train_test_indices, find_best_reg


def read_task(name: str, n_train: int, n_test: int) -> Task:
    """Return a task in the package's balanced split, of at most so many rows.

    Raises:
        FileNotFoundError: the package is not installed, or has no such task.
        ValueError: the task has more or fewer than two classes.
    """
    file = package_folder() / "data" / "cleaned_data" / f"{name}.csv.zst"
    table = pd.read_csv(file)
    targets, classes = np.unique(table["target"].to_numpy(), return_inverse=True)
    if len(targets) != 2:
        raise ValueError(f"{file}: {len(targets)} classes, a task of the yardstick has two")
    n_train = min(n_train, len(table) - 100)
    split, _ = package_functions()
    train, test = split(classes, n_train, min(n_test, len(table) - n_train - 1), 0.5, SEED)
    rows = np.concatenate([train, test])
    return Task(name, table["prompt"].astype(str).iloc[rows].tolist(), classes[rows], n_train)


def probe_auroc(codes: np.ndarray, task: Task, k: int) -> float:
    """Return the test AUROC of the package's logistic probe on the k columns that differ most by class.

    codes: `[n, d]`. The columns are chosen on the training rows as `run_sae_eval` does: by the absolute
    difference of the classes' means, each column divided by the mean size of its nonzero values.
    """
    classes, train = task.classes[: task.n_train], codes[: task.n_train]
    size = np.abs(train).sum(axis=0) / ((train != 0).sum(axis=0) + 1e-6)
    difference = np.abs(train[classes == 1].mean(axis=0) - train[classes == 0].mean(axis=0)) / (size + 1e-6)
    best = np.argsort(-difference, kind="stable")[:k]
    _, find_best_reg = package_functions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = find_best_reg(
            train[:, best], classes, codes[task.n_train :, best], task.classes[task.n_train :], seed=SEED
        )
    return found.metrics.test_auc
