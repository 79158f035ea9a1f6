"""Reads a `<trait>_steering` folder of s1 and refuses one that is unfinished or foreign."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from twins_s3.feature_folder import read_run, read_table, required_file

STEER = "run s1_compute_all_features/steer_features.py with this folder as --output; it resumes"
PLACE = ["layer", "average_l0", "feature_id"]
DOSE_COLUMNS = (*PLACE, "kind", "operation", "alpha", "measure", "value", "low", "high", "predicted")
SLOPE_COLUMNS = (*PLACE, "kind", "norm", "slope", "slope_low", "slope_high", "predicted_slope", "p_null")


@dataclass(frozen=True)
class SteeringResults:
    """What steering a few features did."""

    folder: Path
    run: dict  # run.json
    doses: pd.DataFrame  # dose_response.csv
    slopes: pd.DataFrame  # slopes.csv: features and null directions
    continuations: list[dict]

    @property
    def finalists(self) -> list[tuple[int, int, int]]:
        """(layer, average_l0, feature_id) of the steered features, in the order of slopes.csv."""
        own = self.slopes[self.slopes["kind"] == "feature"]
        return [tuple(map(int, row)) for row in own[PLACE].to_numpy()]

    def doses_of(self, finalist: tuple[int, int, int], operation: str = "steer") -> pd.DataFrame:
        """The rows of one feature, by rising α."""
        layer, average_l0, feature_id = finalist
        rows = self.doses[
            (self.doses["kind"] == "feature")
            & (self.doses["operation"] == operation)
            & (self.doses["layer"] == layer)
            & (self.doses["average_l0"] == average_l0)
            & (self.doses["feature_id"] == feature_id)
        ]
        return rows.sort_values("alpha")

    def slope_of(self, finalist: tuple[int, int, int]) -> pd.Series:
        own = self.slopes[self.slopes["kind"] == "feature"].set_index(PLACE)
        return own.loc[finalist]

    def nulls_of(self, finalist: tuple[int, int, int], kind: str) -> pd.DataFrame:
        """The null directions of the feature's SAE: of `null_feature` or of `null_direction`."""
        layer, average_l0, _ = finalist
        of_sae = (self.slopes["layer"] == layer) & (self.slopes["average_l0"] == average_l0)
        return self.slopes[of_sae & (self.slopes["kind"] == kind)]


def read_steering(folder: Path) -> SteeringResults:
    """Open a steering folder.

    Raises FileNotFoundError for a missing file, ValueError for one of another format or with missing columns.
    """
    run = read_run(folder, STEER)
    tables = []
    for name, columns in (("dose_response.csv", DOSE_COLUMNS), ("slopes.csv", SLOPE_COLUMNS)):
        path = required_file(folder, name, STEER)
        table = read_table(path, STEER)
        missing = [column for column in columns if column not in table]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]}; {STEER}")
        tables.append(table)
    path = required_file(folder, "continuations.json", STEER)
    try:
        continuations = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {STEER}") from None
    results = SteeringResults(folder, run, *tables, continuations)
    if not results.finalists:
        raise ValueError(f"{folder / 'slopes.csv'} names no steered feature; {STEER}")
    return results
