"""The `<trait>_steering` folder: what it was made of, its tables, its continuations."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from finite_steering.dose_response import place_among_nulls
from twins_s1.atomic_files import json_ready, write_json, write_text
from twins_s1.folder_lock import only_writer

FORMAT_VERSION = 1
RECORD, DOSES, SLOPES, CONTINUATIONS = "run.json", "dose_response.csv", "slopes.csv", "continuations.json"
INPUTS, LOCK, SCRATCH = "inputs.json", ".lock", "scratch"
DOSE_COLUMNS = (
    *("layer", "average_l0", "feature_id", "kind", "null_index", "operation", "alpha", "measure"),
    *("value", "low", "high", "predicted"),
)
SLOPE_COLUMNS = (
    *("layer", "average_l0", "feature_id", "kind", "null_index", "norm", "slope", "slope_low", "slope_high"),
    *("predicted_slope", "percentile", "p_null"),
)


@contextmanager
def opened_for_steering(output: Path, inputs: dict, overwrite: bool) -> Iterator[None]:
    """Hold `output` for a run with these inputs: new, or begun with the same ones.

    Raises:
        ValueError: another process writes it, it was made with other inputs, or it holds something else.
    """
    inputs = json_ready(inputs)
    marker = output / INPUTS
    if output.exists() and not marker.exists() and {path.name for path in output.iterdir()} - {LOCK}:
        raise ValueError(f"{output} is not empty and holds no steering run: choose another --output")
    with only_writer(output / LOCK, str(output)):
        if overwrite:
            delete_content(output)
        before = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else inputs
        for name, value in inputs.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{output} was made with {name} {before.get(name)!r}, this run has {value!r}: choose "
                    "another --output, or --overwrite to start anew"
                )
        write_json(marker, inputs)
        yield


def delete_content(output: Path) -> None:
    for name in (RECORD, DOSES, SLOPES, CONTINUATIONS, INPUTS):
        (output / name).unlink(missing_ok=True)
    for file in (output / SCRATCH).glob("*.json"):
        file.unlink()


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
