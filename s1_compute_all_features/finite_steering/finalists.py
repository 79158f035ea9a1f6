"""Which features are steered: rows of a CSV, and what the feature folder says of them."""

import csv
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import scipy.sparse

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


@dataclass(frozen=True)
class SaeActivity:
    """How often and how strongly the features of one SAE fire in the folder's sentences."""

    token_rate: np.ndarray  # [d_sae] share of tokens at which each feature fires
    largest: np.ndarray  # [d_sae] largest activation, 0 where it never fires


def read_finalists(file: Path, most: int | None = None) -> list[FeaturePlace]:
    """Read the first `most` features, or all, of a CSV with columns layer, average_l0, feature_id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a value is no whole number, a feature appears twice, or no row.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected a CSV with columns {','.join(COLUMNS)}")
    finalists: list[FeaturePlace] = []
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
            if place in finalists:
                raise ValueError(f"{file}, line {reader.line_num}: the same feature a second time")
            finalists.append(place)
            if len(finalists) == most:
                break
    if not finalists:
        raise ValueError(
            f"{file}: no feature in it; where none passed s2's filters, take discovery_ranking.csv"
        )
    return finalists


def by_sae(finalists: list[FeaturePlace]) -> dict[tuple[int, int], list[FeaturePlace]]:
    """Group the finalists by their SAE, each group in the order given."""
    ordered = sorted(finalists, key=lambda place: place.sae)  # stable: ranks stay in order
    return {sae: list(group) for sae, group in groupby(ordered, key=lambda place: place.sae)}


def require_in_folder(finalists: list[FeaturePlace], folder: Path, run: dict) -> None:
    """Raise ValueError for a finalist of an SAE that the folder lacks, or beyond its features."""
    saes = {(sae["layer"], sae["average_l0"]): sae for sae in run["saes"]}
    for place in finalists:
        if place.sae not in saes:
            have = ", ".join(f"{layer}/{l0}" for layer, l0 in sorted(saes))
            raise ValueError(
                f"{folder} has no SAE of layer {place.layer} with L0 {place.average_l0}; "
                f"it has (layer/L0) {have}"
            )
        d_sae = saes[place.sae]["d_sae"]
        if place.feature_id >= d_sae:
            raise ValueError(
                f"feature {place.feature_id} of layer {place.layer}, L0 {place.average_l0} does not exist: "
                f"that SAE has the features 0 to {d_sae - 1}"
            )


def activity(activations: scipy.sparse.csr_matrix) -> SaeActivity:
    """Firing rates and largest activations of an SAE's features, from CSR [T, d_sae]."""
    by_feature = activations.tocsc()
    return SaeActivity(
        token_rate=np.diff(by_feature.indptr) / activations.shape[0],
        largest=by_feature.max(axis=0).toarray().ravel(),
    )
