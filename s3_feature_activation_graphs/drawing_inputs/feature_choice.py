"""Reads what s1 and s2 wrote: the sentences, the chosen features and their activations."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

FORMAT_VERSION = 1
RERUN_S1 = "run s1 (extract_sae_features.py) to write it"
RERUN_S2 = "run s2 (analyze_features.py) to write it"


@dataclass(frozen=True)
class Feature:
    """One SAE feature; `rank` and `score` are None where s2 did not rank it."""

    layer: int
    average_l0: int
    feature_id: int
    rank: int | None = None
    score: float | None = None
    neuronpedia_url: str = ""

    @property
    def name(self) -> str:
        return f"layer {self.layer}, L0 {self.average_l0}, feature {self.feature_id}"

    @property
    def short_name(self) -> str:
        return f"{self.layer}:{self.average_l0}:{self.feature_id}"

    @property
    def slug(self) -> str:
        return f"layer_{self.layer}_l0_{self.average_l0}_feature_{self.feature_id}"


@dataclass(frozen=True)
class Sentences:
    """The sentences of a run and their tokens: sentence i is rows `offsets[i]:offsets[i + 1]`."""

    index: np.ndarray  # [n] int64, `sentence_index`
    text: tuple[str, ...]  # n strings
    labels: np.ndarray  # [n] int64, 0-3
    group: np.ndarray  # [n] int64, near-duplicate cluster
    tokens: np.ndarray  # [T] str
    offsets: np.ndarray  # [n + 1] int64

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_tokens(self) -> np.ndarray:
        return np.diff(self.offsets)  # [n] int64


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(path: Path, remedy: str) -> Path:
    """Return `path`; raises FileNotFoundError naming it and the remedy when it does not exist."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found; {remedy}")
    return path


def read_run(folder: Path, remedy: str) -> dict:
    """Read `folder/run.json` and check its format version."""
    require(folder, remedy)
    path = require(folder / "run.json", remedy)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from None
    if run.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {run.get('format_version')!r}, expected {FORMAT_VERSION}; {remedy}"
        )
    return run


def read_sentences(folder: Path) -> Sentences:
    """Read `sentences.csv` and `tokens.npz`; raises ValueError when the two do not fit together."""
    table_path = require(folder / "sentences.csv", RERUN_S1)
    # Without keep_default_na the sentence "None" would be read as a missing value.
    table = pd.read_csv(table_path, keep_default_na=False)
    columns = ["sentence_index", "sentence", "concept_strength_label", "group"]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{table_path} lacks the column(s) {', '.join(missing)}; {RERUN_S1}")
    labels = table["concept_strength_label"].to_numpy()  # [n]
    if not set(labels) <= {0, 1, 2, 3}:
        raise ValueError(f"{table_path} has labels other than 0, 1, 2, 3; {RERUN_S1}")
    tokens_path = require(folder / "tokens.npz", RERUN_S1)
    try:
        with np.load(tokens_path, allow_pickle=False) as arrays:
            tokens, offsets = arrays["tokens"], arrays["sentence_offsets"]  # [T] str, [n + 1] int64
    except (zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ValueError(f"{tokens_path} cannot be read ({error}); {RERUN_S1}") from None
    if len(offsets) != len(table) + 1 or offsets[-1] != len(tokens) or (np.diff(offsets) < 1).any():
        raise ValueError(
            f"{folder}: tokens.npz has {len(offsets) - 1} sentences and {len(tokens)} tokens, which does not "
            f"fit the {len(table)} rows of sentences.csv with one token or more each; {RERUN_S1}"
        )
    return Sentences(
        index=table["sentence_index"].to_numpy(np.int64),
        text=tuple(table["sentence"].astype(str)),
        labels=labels.astype(np.int64),
        group=table["group"].to_numpy(np.int64),
        tokens=tokens,
        offsets=offsets,
    )


def check_same_run(s1_folder: Path, s1_run: dict, s2_folder: Path, s2_run: dict) -> None:
    """Raise ValueError when the s2 results were computed from another s1 run."""
    source = s2_run.get("features_run") or {}
    for key in ("input_sha256", "model", "n_tokens"):
        if source.get(key) != s1_run.get(key):
            raise ValueError(
                f"{s2_folder} was computed from another run than {s1_folder}: {key} is {source.get(key)!r} "
                f"there and {s1_run.get(key)!r} here; give the folder that s2 read, or run s2 on this one"
            )


def parse_features(text: str) -> list[tuple[int, int, int]]:
    """Parse `layer:l0:id,…` into (layer, average_l0, feature_id) triples; raises ValueError."""
    triples = []
    for item in text.split(","):
        parts = item.strip().split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"{item.strip()!r} is not layer:l0:feature_id, for example 12:82:4051")
        triples.append((int(parts[0]), int(parts[1]), int(parts[2])))
    if len(set(triples)) != len(triples):
        raise ValueError(f"{text!r} names a feature twice")
    return triples


def read_ranking(folder: Path, name: str) -> pd.DataFrame:
    """Read one of s2's rankings; raises ValueError when an identifying column is missing."""
    path = require(folder / name, RERUN_S2)
    table = pd.read_csv(path)
    columns = ["layer", "average_l0", "feature_id", "neuronpedia_url", "interpretability_score"]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; {RERUN_S2}")
    return table


def top_features(s2_folder: Path, top_n: int) -> tuple[list[Feature], str]:
    """Return the best `top_n` features and the name of the file that they were taken from.

    Where no feature passed s2's filters, `discovery_ranking.csv`, which is not filtered, stands in.
    Raises ValueError when both are empty.
    """
    for name in ("ranked_features.csv", "discovery_ranking.csv"):
        table = read_ranking(s2_folder, name)
        if len(table):
            break
    else:
        raise ValueError(
            f"{s2_folder}: ranked_features.csv and discovery_ranking.csv are both empty, so there is no "
            "feature to draw; name some with --features layer:l0:id,…"
        )
    features = []
    for rank, row in enumerate(table.head(top_n).itertuples(), start=1):
        features.append(
            Feature(
                layer=int(row.layer),
                average_l0=int(row.average_l0),
                feature_id=int(row.feature_id),
                rank=rank,
                score=float(row.interpretability_score),
                neuronpedia_url=row.neuronpedia_url if isinstance(row.neuronpedia_url, str) else "",
            )
        )
    return features, name


def named_features(
    triples: list[tuple[int, int, int]], s1_run: dict, s2_folder: Path | None
) -> list[Feature]:
    """Return the features of `triples`, with rank and score where s2 ranked them."""
    ranked = {}
    if s2_folder is not None:
        for name in ("discovery_ranking.csv", "ranked_features.csv"):
            for rank, row in enumerate(read_ranking(s2_folder, name).itertuples(), start=1):
                key = (int(row.layer), int(row.average_l0), int(row.feature_id))
                ranked[key] = (rank, float(row.interpretability_score))
    pages = {(sae["layer"], sae["average_l0"]): sae.get("neuronpedia_id") for sae in s1_run["saes"]}
    features = []
    for layer, average_l0, feature_id in triples:
        rank, score = ranked.get((layer, average_l0, feature_id), (None, None))
        page = pages.get((layer, average_l0))
        url = f"https://www.neuronpedia.org/{page}/{feature_id}" if page else ""
        features.append(Feature(layer, average_l0, feature_id, rank, score, url))
    return features


def read_activations(folder: Path, run: dict, features: list[Feature]) -> np.ndarray:
    """Return the activations of `features`, [T, n_features] float32.

    One SAE file is held at a time, and of it only the columns asked for are kept, so memory does not
    grow with the number of SAEs. Raises ValueError for an SAE or a feature that the run does not have.
    """
    saes = {(sae["layer"], sae["average_l0"]): sae for sae in run["saes"]}
    activations = np.full((run["n_tokens"], len(features)), np.nan, np.float32)  # [T, n_features]
    for key in dict.fromkeys((feature.layer, feature.average_l0) for feature in features):
        if key not in saes:
            have = ", ".join(f"{layer}:{average_l0}" for layer, average_l0 in sorted(saes))
            raise ValueError(
                f"{folder} has no SAE of layer {key[0]} with L0 {key[1]}; it has (layer:l0) {have}"
            )
        sae = saes[key]
        columns = [i for i, f in enumerate(features) if (f.layer, f.average_l0) == key]
        ids = np.array([features[i].feature_id for i in columns])  # [n_columns] int64
        if ids.max() >= sae["d_sae"]:
            raise ValueError(
                f"feature {ids.max()} of layer {key[0]}, L0 {key[1]} does not exist: that SAE has the "
                f"features 0 to {sae['d_sae'] - 1}"
            )
        path = require(folder / sae["file"], RERUN_S1)
        try:
            matrix = scipy.sparse.load_npz(path)  # [T, d_sae] float32 CSR
        except (zipfile.BadZipFile, ValueError, KeyError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {RERUN_S1}") from None
        if matrix.shape != (run["n_tokens"], sae["d_sae"]):
            raise ValueError(
                f"{path} is {matrix.shape[0]} x {matrix.shape[1]}, expected {run['n_tokens']} x "
                f"{sae['d_sae']} by run.json; {RERUN_S1}"
            )
        activations[:, columns] = matrix[:, ids].toarray()
    if not np.isfinite(activations).all():
        raise ValueError(f"{folder}: a chosen feature has activations that are not finite; {RERUN_S1}")
    return activations


def read_confirmation(s2_folder: Path, n_sentences: int) -> np.ndarray:
    """Return [n] bool: the sentences that s2 kept out of the selection of features (maybe none)."""
    path = require(s2_folder / "split.csv", RERUN_S2)
    split = pd.read_csv(path).sort_values("sentence_index")
    if len(split) != n_sentences:
        raise ValueError(f"{path} has {len(split)} sentences, the s1 folder {n_sentences}; {RERUN_S2}")
    return (split["part"] == "confirmation").to_numpy()  # [n] bool
