"""Reads a `<trait>_features` folder of s1 and refuses one that is unfinished, foreign or inconsistent."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

FORMAT_VERSION = 1
LABEL = "concept_strength_label"
EXTRACT = "run s1_compute_all_features/extract_sae_features.py with this folder as --output; it resumes"


@dataclass(frozen=True)
class FeatureFolder:
    """An s1 output folder without its per-token arrays, which are read one file at a time."""

    folder: Path
    run: dict  # run.json
    sentences: pd.DataFrame  # n rows of sentences.csv
    labels: np.ndarray | None  # [n] int64, concept_strength_label 0 to 3; None where s1 was given none
    groups: np.ndarray  # [n] int64, scenario or cluster of near-duplicates
    sentence_offsets: np.ndarray  # [n + 1] int64: sentence i is rows offsets[i]:offsets[i + 1]
    tokens: np.ndarray  # [T] str

    @property
    def trait(self) -> str:
        return self.folder.resolve().name.removesuffix("_features")

    @property
    def n_tokens(self) -> np.ndarray:
        return np.diff(self.sentence_offsets)  # [n] int64, at least 1 each


def read_run(folder: Path, remedy: str) -> dict:
    """Read a folder's run.json and check its format version; errors end with `remedy`."""
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, so nothing finished is there; {remedy}")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from None
    version = run.get("format_version") if isinstance(run, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format_version {version!r}, expected {FORMAT_VERSION}; {remedy}")
    return run


def required_file(folder: Path, name: str, remedy: str) -> Path:
    """Path of a file that has to be there."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {remedy}")
    return path


def read_table(path: Path, remedy: str, **options) -> pd.DataFrame:
    """Read a CSV with pandas; ValueError with the file's name and `remedy` where it is none."""
    try:
        return pd.read_csv(path, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable CSV ({str(error).strip()}); {remedy}") from None


def open_feature_folder(folder: Path, needs_labels: bool = True) -> FeatureFolder:
    """Open a feature folder of s1.

    Raises FileNotFoundError for a missing file, ValueError for a foreign format, files that contradict each
    other, or sentences without labels where they are needed. Which layers and SAEs are there is checked where
    they are read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give a feature folder written by s1")
    run = read_run(folder, EXTRACT)
    missing = [key for key in ("saes", "n_sentences", "n_tokens", "model", "d_model") if key not in run]
    if missing:
        raise ValueError(f"{folder / 'run.json'} has no {missing[0]}; {EXTRACT}")
    labelled = run.get("labelled", True)  # folders of a time when all were do not say it
    if needs_labels and not labelled:
        raise ValueError(
            f"{folder} holds sentences without labels, and this command compares labels: give s1 a CSV with "
            f"{LABEL}, or take to them what was found elsewhere (s3 --frozen, s4 --like)"
        )
    table = read_sentences(folder, labelled)
    tokens, offsets = read_tokens(folder)
    counts = (len(table), len(tokens), len(offsets) - 1, offsets[-1])
    if counts != (run["n_sentences"], run["n_tokens"], run["n_sentences"], run["n_tokens"]):
        raise ValueError(
            f"{folder}: run.json names {run['n_sentences']} sentences and {run['n_tokens']} tokens, "
            f"sentences.csv has {counts[0]}, tokens.npz {counts[2]} and {counts[1]}; {EXTRACT}"
        )
    empty = np.flatnonzero(np.diff(offsets) < 1)
    if empty.size:
        raise ValueError(f"{folder / 'tokens.npz'}: sentence {empty[0]} has no token; {EXTRACT}")
    return FeatureFolder(
        folder=folder,
        run=run,
        sentences=table,
        labels=table[LABEL].to_numpy(np.int64) if labelled else None,
        groups=table["group"].to_numpy(np.int64),
        sentence_offsets=offsets.astype(np.int64),
        tokens=tokens,
    )


def read_sentences(folder: Path, labelled: bool) -> pd.DataFrame:
    """Read and check sentences.csv; a sentence such as "None" stays text."""
    path = required_file(folder, "sentences.csv", EXTRACT)
    table = read_table(path, EXTRACT, dtype={"sentence": str}, keep_default_na=False)
    expected = ("sentence_index", "sentence", *([LABEL] if labelled else []), "group")
    missing = [column for column in expected if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}, expected {', '.join(expected)}; {EXTRACT}")
    unknown = table.loc[~table[LABEL].isin(range(4)), LABEL] if labelled else ()
    if len(unknown):
        raise ValueError(f"{path} has the label {unknown.iloc[0]}, expected 0, 1, 2 or 3; {EXTRACT}")
    if (table["sentence_index"].to_numpy() != np.arange(len(table))).any():
        raise ValueError(f"{path}: sentence_index does not count 0, 1, 2, …; {EXTRACT}")
    return table


def read_tokens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Token texts [T] and sentence offsets [n + 1] of tokens.npz."""
    path = required_file(folder, "tokens.npz", EXTRACT)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["tokens"], arrays["sentence_offsets"]
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and {EXTRACT}") from None


def find_sae(features: FeatureFolder, layer: int, average_l0: int | None) -> dict:
    """The run.json entry of one SAE; an L0 is needed only where the layer has several."""
    of_layer = [sae for sae in features.run["saes"] if sae["layer"] == layer]
    if not of_layer:
        raise ValueError(f"{features.folder} has no SAE at layer {layer}; it has {describe_saes(features)}")
    matches = of_layer if average_l0 is None else [sae for sae in of_layer if sae["average_l0"] == average_l0]
    choices = ", ".join(str(sae["average_l0"]) for sae in of_layer)
    if not matches:
        raise ValueError(
            f"layer {layer} of {features.folder} has no SAE with average L0 {average_l0}; it has {choices}"
        )
    if len(matches) > 1:
        raise ValueError(f"layer {layer} of {features.folder} has SAEs with average L0 {choices}; choose one")
    return matches[0]


def describe_saes(features: FeatureFolder) -> str:
    """The SAEs of the run for error messages: `layer 1 (L0 8, 16), layer 2 (L0 40)`."""
    rungs: dict[int, list[int]] = {}
    for sae in features.run["saes"]:
        rungs.setdefault(sae["layer"], []).append(sae["average_l0"])
    return ", ".join(
        f"layer {layer} (L0 {', '.join(map(str, sorted(l0s)))})" for layer, l0s in sorted(rungs.items())
    )


def read_sae_activations(features: FeatureFolder, sae: dict) -> scipy.sparse.csr_matrix:
    """Activations of every token, CSR float32 [T, d_sae], for one entry of run.json's `saes`.

    Raises FileNotFoundError, or ValueError for a file that is damaged, of another shape, or not finite.
    """
    path = required_file(features.folder, sae["file"], EXTRACT)
    try:
        activations = scipy.sparse.load_npz(path).tocsr()
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no readable sparse matrix ({error}); delete it and {EXTRACT}") from error
    expected = (features.run["n_tokens"], sae["d_sae"])
    if activations.shape != expected:
        raise ValueError(
            f"{path} has shape {activations.shape}, expected {expected} (n_tokens and d_sae of run.json); "
            f"delete it and {EXTRACT}"
        )
    if activations.nnz and not np.isfinite(activations.data).all():
        raise ValueError(f"{path} holds activations that are not finite; delete it and {EXTRACT}")
    return activations
