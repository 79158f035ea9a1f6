"""Reads a `<trait>_results` folder of s2 and checks that it belongs to a feature folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .feature_folder import FeatureFolder, read_run, read_table, required_file

ANALYZE = "run s2_find_top_features/analyze_features.py on that feature folder"
IDENTIFYING = ("layer", "average_l0", "feature_id")


@dataclass(frozen=True)
class RankingFolder:
    """Results of s2 that were computed from a given feature folder."""

    folder: Path
    run: dict  # run.json
    part: np.ndarray  # [n] str, `discovery` or `confirmation`

    @property
    def pool(self) -> str:
        return self.run["pool"]


def open_rankings(folder: Path, features: FeatureFolder) -> RankingFolder:
    """Open a result of s2 and check that it was computed from `features`.

    Raises FileNotFoundError for a missing file, ValueError for results of another run or a broken split.
    """
    run = read_run(folder, ANALYZE)
    source = run.get("features_run") or {}
    for key in ("input_sha256", "model", "n_tokens"):
        if source.get(key) != features.run.get(key):
            raise ValueError(
                f"{folder} was computed from another run than {features.folder}: {key} is "
                f"{source.get(key)!r} there and {features.run.get(key)!r} here; "
                f"{ANALYZE}, or give its own results (to other sentences: s3 --frozen, s4 --like)"
            )
    return RankingFolder(folder, run, read_split(folder, len(features.groups)))


def read_split(folder: Path, n_sentences: int) -> np.ndarray:
    """The part of each sentence, [n_sentences] str, from split.csv."""
    path = required_file(folder, "split.csv", ANALYZE)
    split = read_table(path, ANALYZE, keep_default_na=False)
    missing = [column for column in ("sentence_index", "part") if column not in split]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; {ANALYZE}")
    split = split.sort_values("sentence_index")
    if not np.array_equal(split["sentence_index"].to_numpy(), np.arange(n_sentences)):
        raise ValueError(f"{path} does not cover the {n_sentences} sentences once each; {ANALYZE}")
    unknown = set(split["part"]) - {"discovery", "confirmation"}
    if unknown:
        raise ValueError(f"{path}: part is {min(unknown)!r}, expected discovery or confirmation; {ANALYZE}")
    return split["part"].to_numpy().astype(str)


def read_ranking(folder: Path, name: str) -> pd.DataFrame:
    """Read `ranked_features.csv`, `discovery_ranking.csv` or `best_per_sae.csv`, in the order of the file."""
    path = required_file(folder, name, ANALYZE)
    table = read_table(path, ANALYZE)
    missing = [column for column in IDENTIFYING if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; {ANALYZE}")
    return table
