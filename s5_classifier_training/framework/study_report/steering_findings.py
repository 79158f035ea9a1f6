"""What steering with the finalists did to the likelihood: slopes.csv of stage 1."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from study_report.run_identity import RunIdentity
from twins_s5.feature_folder import read_run, read_table, required_file

STEER = "run s1_compute_all_features/steer_features.py with this folder as --output"
COLUMNS = (
    "layer",
    "average_l0",
    "feature_id",
    "kind",
    "slope",
    "slope_low",
    "slope_high",
    "percentile",
    "p_null",
)


@dataclass(frozen=True)
class SteeringFindings:
    """A finished `<trait>_steering` folder."""

    folder: Path
    identity: RunIdentity
    finalists: pd.DataFrame  # rows of slopes.csv with kind == feature
    n_nulls: int


def read_steering(folder: Path) -> SteeringFindings:
    """Open a steering folder.

    Raises FileNotFoundError for a missing file, ValueError for one of another format or without its columns.
    """
    run = read_run(folder, STEER)
    path = required_file(folder, "slopes.csv", STEER)
    slopes = read_table(path, STEER)
    missing = [column for column in COLUMNS if column not in slopes]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; {STEER}")
    own = slopes["kind"] == "feature"
    return SteeringFindings(
        folder, RunIdentity.of(run.get("features_run", {})), slopes[own], int((~own).sum())
    )
