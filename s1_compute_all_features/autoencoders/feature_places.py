"""Features named by layer, average L0 and number: a CSV of them, and which SAE each belongs to."""

import csv
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

COLUMNS = ("layer", "average_l0", "feature_id")


@dataclass(frozen=True, order=True)
class FeaturePlace:
    """One feature of one SAE of a folder."""

    layer: int
    average_l0: int
    feature_id: int

    @property
    def sae(self) -> tuple[int, int]:
        return self.layer, self.average_l0


def read_feature_places(file: Path, most: int | None = None) -> list[FeaturePlace]:
    """Read the first `most` features, or all, of a CSV with columns layer, average_l0, feature_id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a value is no whole number, a feature appears twice, or no row.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected a CSV with columns {','.join(COLUMNS)}")
    places: list[FeaturePlace] = []
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{file}: no column {missing[0]}; expected {','.join(COLUMNS)}")
        for row in reader:
            values = [row[name] or "" for name in COLUMNS]
            if not all(value.isdecimal() for value in values):
                raise ValueError(
                    f"{file}, line {reader.line_num}: {','.join(values)} are not three whole numbers"
                )
            place = FeaturePlace(*map(int, values))
            if place in places:
                raise ValueError(f"{file}, line {reader.line_num}: the same feature a second time")
            places.append(place)
            if len(places) == most:
                break
    if not places:
        raise ValueError(
            f"{file}: no feature in it; where none passed s2's filters, take discovery_ranking.csv"
        )
    return places


def by_sae(places: list[FeaturePlace]) -> dict[tuple[int, int], list[FeaturePlace]]:
    """Group features by their SAE, each group in the order given."""
    ordered = sorted(places, key=lambda place: place.sae)  # stable: ranks stay in order
    return {sae: list(group) for sae, group in groupby(ordered, key=lambda place: place.sae)}
