"""A dataset of stage 4: read, and checked that it can be learned from."""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from twins_s5.provenance import sha256_of

FORMAT_VERSION = 1
GENERATE = "run s4_classifier_data_prep/generate_datasets.py"
ARRAYS = ("X", "sentence_index", "group", "layers", "d_model", "sentences", "part", "metadata")
LABEL = "concept_strength_label"  # the target of a classification, as the metadata call it
KINDS = ("difficulty", "register")  # columns of the sentences by which results are also given apart


@dataclass(frozen=True)
class Dataset:
    """One NPZ of stage 4."""

    path: Path
    sha256: str
    metadata: dict
    X: np.ndarray  # [n, d] float32
    y: np.ndarray | None  # [n] float32 activation or int64 label; None only of sentences without labels
    sentence_index: np.ndarray  # [n] int64
    groups: np.ndarray  # [n] int64; rows with the same words are in one group
    sentences: np.ndarray  # [n] str
    part: np.ndarray  # [n] str
    layers: np.ndarray  # [N] int64
    d_model: int
    kinds: dict[str, np.ndarray]  # str [n] each, of those of KINDS that the sentences have

    @property
    def task(self) -> str:
        return self.metadata["task"]

    @property
    def trait(self) -> str:
        return self.metadata["trait"]

    @property
    def source(self) -> dict:
        """The run of stage 1 behind it: `input_sha256`, `model`, …"""
        return self.metadata["source"]

    @property
    def classes(self) -> np.ndarray:
        return np.unique(self.y)  # [K], of a classification

    def layer_inputs(self, position: int) -> np.ndarray:
        """The block [n, d_model] of the stacked layer `layers[position]`."""
        return self.X[:, position * self.d_model : (position + 1) * self.d_model]


def load_dataset(path: Path) -> Dataset:
    """Read an NPZ of stage 4 and check that it can be learned from.

    Raises what `load_sentences` does, and ValueError for missing and for constant targets.
    """
    dataset = load_sentences(path)
    if dataset.y is None:
        raise ValueError(f"{path} has no array y, so there is nothing to learn; label its sentences first")
    if len(np.unique(dataset.y)) < 2:
        raise ValueError(
            f"{path}: every target is {dataset.y[0]}, so there is nothing to learn; choose another target"
        )
    return dataset


def load_sentences(path: Path) -> Dataset:
    """Read an NPZ of stage 4, with targets or without.

    Raises FileNotFoundError, or ValueError for a foreign format, a missing array, and inputs or targets that
    are not finite.
    """
    arrays = _read_arrays(path)
    metadata = json.loads(str(arrays["metadata"]))
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {metadata.get('format_version')!r}, expected {FORMAT_VERSION}; "
            f"{GENERATE} again"
        )
    _check_values(path, arrays)
    return Dataset(
        path=path,
        sha256=sha256_of(path),
        metadata=metadata,
        X=arrays["X"],
        y=arrays.get("y"),
        sentence_index=arrays["sentence_index"],
        groups=joined_groups(arrays["sentences"], arrays["group"]),
        sentences=arrays["sentences"],
        part=arrays["part"],
        layers=arrays["layers"],
        d_model=int(arrays["d_model"]),
        kinds={kind: arrays[kind] for kind in KINDS if kind in arrays},
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset {path} does not exist; {GENERATE} with --output {path}, or give --dataset"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an NPZ file; {GENERATE} again")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in ARRAYS if key not in file]
            if missing:
                raise ValueError(f"{path} has no array {', '.join(missing)}; {GENERATE} again")
            return {key: file[key] for key in (*ARRAYS, "y", *KINDS) if key in file}
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); {GENERATE} again") from None


def _check_values(path: Path, arrays: dict[str, np.ndarray]) -> None:
    by_sentence = [key for key in arrays if key not in ("layers", "d_model", "metadata")]
    if len({len(arrays[key]) for key in by_sentence}) > 1:
        raise ValueError(f"{path}: arrays differ in their number of rows; {GENERATE} again")
    for name in ("X", "y") if "y" in arrays else ("X",):
        values = arrays[name]
        rows_finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not rows_finite.all():
            first = arrays["sentence_index"][np.argmin(rows_finite)]
            raise ValueError(
                f"{path}: {name} is not finite in {(~rows_finite).sum()} rows, the first at "
                f"sentence_index {first}; {GENERATE} again"
            )


def same_words(sentences: np.ndarray) -> np.ndarray:
    """The sentences, str [n], without what near-copies differ in: case, punctuation and spacing."""
    return np.array([" ".join(re.sub(r"[^\w\s]", "", str(text).casefold()).split()) for text in sentences])


def joined_groups(sentences: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Groups [n] in which sentences that differ in case, punctuation or spacing alone have one number.

    Such near-copies could otherwise be trained on and tested on; the lowest number stands for all.
    """
    text_codes, group_codes = pd.factorize(same_words(sentences))[0], pd.factorize(groups)[0]  # [n], [n]
    n_nodes = len(groups)  # no more texts or groups than rows
    links = (np.ones(n_nodes, bool), (text_codes, n_nodes + group_codes))
    joined = connected_components(coo_matrix(links, shape=(2 * n_nodes, 2 * n_nodes)), directed=False)[1]
    return pd.Series(groups).groupby(joined[text_codes]).transform("min").to_numpy()


def rows_in_known_groups(new: Dataset, sentences: np.ndarray, groups: np.ndarray, source: dict) -> np.ndarray:
    """Which rows of `new`, bool [n], are in one group with one of the known `sentences` [m] of `groups` [m].

    Sentences with the same words are in one group; so are those of one scene, where both datasets come from
    one CSV (the known one from `source`) and so number scenes alike.
    """
    same_csv = new.source["input_sha256"] == source["input_sha256"]
    shift = 0 if same_csv else groups.max() + 1 - new.groups.min()
    joined = joined_groups(
        np.concatenate([sentences, new.sentences]), np.concatenate([groups, new.groups + shift])
    )
    return np.isin(joined[len(groups) :], joined[: len(groups)])
