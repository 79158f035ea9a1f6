"""Reads a `<trait>_features` folder of s1 and refuses one that is unfinished, foreign or inconsistent."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
from feature_statistics.feature_metrics import N_LABELS

FORMAT_VERSION = 1
REMEDY = "run s1's extract_sae_features.py again with this folder as --output; it resumes"


@dataclass(frozen=True)
class FeatureRun:
    """An s1 output folder, without the activations, which are read one SAE at a time."""

    folder: Path
    run: dict  # run.json
    sentences: pd.DataFrame  # n rows
    labels: np.ndarray  # [n] int64
    groups: np.ndarray  # [n] int64
    sentence_offsets: np.ndarray  # [n + 1] int64
    tokens: np.ndarray  # [T] str

    @property
    def trait(self) -> str:
        return self.folder.resolve().name.removesuffix("_features")


def open_feature_run(folder: Path) -> FeatureRun:
    """Read an s1 folder and check that it is whole.

    Raises FileNotFoundError naming the missing file, and ValueError for a foreign format, inconsistent
    counts, or labels outside 0..3 or missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give --input a feature folder written by s1")
    run_file = folder / "run.json"
    if not run_file.is_file():
        raise FileNotFoundError(f"{run_file} is missing, so this is no finished feature folder; {REMEDY}")
    try:
        run = json.loads(run_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{run_file} is not JSON ({error}); {REMEDY}") from error
    if run.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{run_file} has format_version {run.get('format_version')!r}, expected {FORMAT_VERSION}; "
            f"{REMEDY}"
        )
    missing_keys = [key for key in ("saes", "n_sentences", "n_tokens", "model") if key not in run]
    if missing_keys or not run["saes"]:
        raise ValueError(f"{run_file} has no {missing_keys[0] if missing_keys else 'saes'}; {REMEDY}")
    for name in ("sentences.csv", "tokens.npz", *(entry["file"] for entry in run["saes"])):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; {REMEDY}")
    sentences = pd.read_csv(folder / "sentences.csv", keep_default_na=False)
    for column in ("sentence_index", "sentence", "concept_strength_label", "group"):
        if column not in sentences:
            raise ValueError(f"{folder / 'sentences.csv'} has no column {column}; {REMEDY}")
    labels = sentences["concept_strength_label"].to_numpy()
    if not np.isin(labels, range(N_LABELS)).all():
        bad = labels[~np.isin(labels, range(N_LABELS))][0]
        raise ValueError(f"{folder / 'sentences.csv'} has the label {bad}, expected 0, 1, 2 or 3; {REMEDY}")
    labels = labels.astype(np.int64)
    missing = np.flatnonzero(np.bincount(labels, minlength=N_LABELS) == 0)
    if missing.size:
        raise ValueError(
            f"{folder / 'sentences.csv'} has no sentence of label {missing[0]}; the statistics compare all "
            "four labels, so add sentences of that label to the input of s1"
        )
    with np.load(folder / "tokens.npz", allow_pickle=False) as token_file:
        sentence_offsets, tokens = token_file["sentence_offsets"], token_file["tokens"]
    if (len(sentences), len(tokens)) != (run["n_sentences"], run["n_tokens"]) or (
        len(sentence_offsets) != len(sentences) + 1 or sentence_offsets[-1] != len(tokens)
    ):
        raise ValueError(
            f"{folder}: run.json names {run['n_sentences']} sentences and {run['n_tokens']} tokens, "
            f"sentences.csv has {len(sentences)} and tokens.npz {len(tokens)}; {REMEDY}"
        )
    empty = np.flatnonzero(np.diff(sentence_offsets) < 1)
    if empty.size:
        raise ValueError(f"{folder / 'tokens.npz'}: sentence {empty[0]} has no token; {REMEDY}")
    return FeatureRun(folder, run, sentences, labels, sentences["group"].to_numpy(), sentence_offsets, tokens)


def load_activations(feature_run: FeatureRun, entry: dict) -> scipy.sparse.csr_matrix:
    """Token activations [T, d_sae] float32 CSR of one SAE; ValueError if run.json says otherwise."""
    path = feature_run.folder / entry["file"]
    try:
        token_acts = scipy.sparse.load_npz(path).tocsr()
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no readable sparse matrix ({error}); delete it and run s1 again"
        ) from error
    expected = (feature_run.run["n_tokens"], entry["d_sae"])
    if token_acts.shape != expected:
        raise ValueError(
            f"{path} has shape {token_acts.shape}, expected {expected} (n_tokens and d_sae of run.json); "
            "delete it and run s1 again"
        )
    # Written so that NaN fails too.
    if token_acts.nnz and not (token_acts.data.min() >= 0 and token_acts.data.max() < np.inf):
        raise ValueError(
            f"{path} holds negative or non-finite activations, expected finite values >= 0; "
            "delete it and run s1 again"
        )
    return token_acts
