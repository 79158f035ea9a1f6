"""Results for each kind of sentence apart: the plain and the hard ones, and each register."""

from collections.abc import Callable

import numpy as np


def rows_by_value(kind_of_row: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of each value of a column of the sentences, str [n]; empty cells are of no kind."""
    return {str(value): np.flatnonzero(kind_of_row == value) for value in np.unique(kind_of_row) if value}


def measured_apart(
    kinds: dict[str, np.ndarray], measure: Callable[[np.ndarray], dict]
) -> dict[str, dict[str, dict]]:
    """What `measure` says of the rows with each value of each column of `kinds` (str [n] each)."""
    return {
        column: {value: measure(rows) for value, rows in rows_by_value(kind_of_row).items()}
        for column, kind_of_row in kinds.items()
    }
