"""The `<trait>_steering` folder: its tables, its continuations."""

from pathlib import Path

import numpy as np
import pandas as pd
from finite_steering.dose_response import place_among_nulls
from output_folder.held_folder import FolderKind
from twins_s1.atomic_files import write_json, write_text

FORMAT_VERSION = 1
RECORD, DOSES, SLOPES, CONTINUATIONS = "run.json", "dose_response.csv", "slopes.csv", "continuations.json"
SCRATCH = "scratch"
RATINGS = "ratings.jsonl"  # of texts, not of a run: what was paid for outlasts --overwrite
STEERING_FOLDER = FolderKind(
    "steering folder",
    files=(RECORD, DOSES, SLOPES, CONTINUATIONS),
    folders=(SCRATCH,),
    earlier={"words": None},
)
DOSE_COLUMNS = (
    *("layer", "average_l0", "feature_id", "kind", "null_index", "operation", "alpha", "measure"),
    *("value", "low", "high", "predicted"),
)
SLOPE_COLUMNS = (
    *("layer", "average_l0", "feature_id", "kind", "null_index", "norm", "slope", "slope_low", "slope_high"),
    *("predicted_slope", "percentile", "p_null"),
)


def write_tables(output: Path, units: list[dict]) -> None:
    """Write dose_response.csv, slopes.csv and continuations.json."""

    def rows(part: str) -> list[dict]:
        return [
            {"layer": unit["layer"], "average_l0": unit["average_l0"]} | row
            for unit in units
            for row in unit[part]
        ]

    slopes = with_places(pd.DataFrame(rows("slopes")))
    write_csv(output / DOSES, pd.DataFrame(rows("doses")), DOSE_COLUMNS)
    write_csv(output / SLOPES, slopes, SLOPE_COLUMNS)
    write_json(output / CONTINUATIONS, rows("continuations"))


def with_places(slopes: pd.DataFrame) -> pd.DataFrame:
    """Add each finalist's place among the nulls of its SAE, slopes taken per unit of norm."""
    slopes = slopes.assign(percentile=np.nan, p_null=np.nan)
    for _, of_sae in slopes.groupby(["layer", "average_l0"]):
        per_norm = of_sae["slope"] / of_sae["norm"]
        nulls = per_norm[of_sae["kind"] != "feature"].to_numpy()
        for row in of_sae.index[of_sae["kind"] == "feature"] if len(nulls) else ():
            place = place_among_nulls(per_norm[row], nulls)
            slopes.loc[row, ["percentile", "p_null"]] = place["percentile"], place["p_null"]
    return slopes


def write_csv(path: Path, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    table = table.reindex(columns=list(columns))
    for column in ("feature_id", "null_index"):  # whole numbers, empty where a row has none
        table[column] = table[column].astype("Int64")
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
