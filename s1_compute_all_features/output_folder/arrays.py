"""Names, writing and resuming of the files in a `<trait>_features` folder."""

import csv
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse

FORMAT_VERSION = 1
LABELS = (0, 1, 2, 3)
SCRATCH = "scratch"  # what a run that is not finished knows of its finished SAEs
RESIDUAL_STREAM = "residual_stream"  # in float32, from which SAEs are encoded, now and when the folder grows
BLOCK_BYTES = 1 << 24  # read and written at once
SPOOL_BYTES = 1 << 28  # of columns, and of values, of one SAE that are held in memory
INPUTS = "inputs.json"  # what the folder's content depends on, written before anything else


def hidden_states_file(layer: int) -> str:
    return f"hidden_states/layer_{layer}.npz"


def residual_stream_file(key: int | str) -> str:
    return f"{RESIDUAL_STREAM}/{key if isinstance(key, str) else f'layer_{key}'}.npy"


def sae_activations_file(layer: int, average_l0: int) -> str:
    return f"sae_activations/layer_{layer}_l0_{average_l0}.npz"


def read_labelled_sentences(path: Path) -> pd.DataFrame:
    """Read a labelled CSV; columns `sentence` (str) and `concept_strength_label` (int 0-3) come first.

    Further columns are kept as they are. Line numbers in messages are those of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not UTF-8 or not a CSV with both columns, an empty sentence, a label that is not one
            of 0, 1, 2, 3, or a sentence that appears twice.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a CSV with columns sentence,concept_strength_label"
        )
    required = ["sentence", "concept_strength_label"]
    first_seen: dict[str, int] = {}
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            header = reader.fieldnames or []
            for name in required:
                if name not in header:
                    raise ValueError(
                        f"{path}, line 1: no column {name!r} (found: {', '.join(header) or 'nothing'})"
                    )
            line = reader.line_num + 1
            for row in reader:
                where = f"{path}, line {line}"
                line = reader.line_num + 1
                if None in row or None in row.values():
                    raise ValueError(
                        f"{where}: not {len(header)} fields as the header has; quote sentences with commas"
                    )
                sentence, label = row["sentence"], row["concept_strength_label"].strip()
                if not sentence.strip():
                    raise ValueError(f"{where}: empty sentence")
                if label not in {str(value) for value in LABELS}:
                    raise ValueError(f"{where}: concept_strength_label is {label!r}, expected 0, 1, 2 or 3")
                if sentence in first_seen:
                    raise ValueError(
                        f"{where}: same sentence as line {first_seen[sentence]}; remove one of them"
                    )
                first_seen[sentence] = reader.line_num
                rows.append(row | {"concept_strength_label": int(label)})
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a valid CSV ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no sentence below the header")
    return pd.DataFrame(rows)[required + [name for name in header if name not in required]]


def sentence_groups(sentences: pd.DataFrame, min_jaccard: float = 0.7) -> np.ndarray:
    """Return `[n]` int64: a number shared by sentences that must not be split between training and test.

    Sentences belong together when they share the input's `group` (scenario id), or when the Jaccard
    similarity of their character 5-grams is at least `min_jaccard`; chains of such pairs are one group.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    n = len(sentences)
    vectorizer = CountVectorizer(
        analyzer="char", ngram_range=(5, 5), binary=True, lowercase=True, dtype=np.float32
    )
    padded = sentences["sentence"].str.ljust(5)  # a one-word sentence still has one 5-gram
    grams = vectorizer.fit_transform(padded)  # [n, n_grams] binary CSR
    sizes = np.asarray(grams.sum(axis=1)).ravel()  # [n]
    links = []
    for start in range(0, n, 1000):  # rows at a time, so that 10,000 sentences need no [n, n] matrix
        shared = (grams[start : start + 1000] @ grams.T).tocoo()
        union = sizes[start + shared.row] + sizes[shared.col] - shared.data
        near = shared.data >= min_jaccard * union
        links.append((start + shared.row[near], shared.col[near]))
    rows, columns = (np.concatenate(side) for side in zip(*links))
    if "group" in sentences:
        scenario = pd.factorize(sentences["group"])[0]
        # A star from each scenario's first sentence connects the scenario.
        first = pd.Series(np.arange(n)).groupby(scenario).transform("first").to_numpy()
        given = sentences["group"].astype(str).str.strip().ne("").to_numpy()
        rows, columns = np.concatenate([rows, np.arange(n)[given]]), np.concatenate([columns, first[given]])
    graph = scipy.sparse.coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@contextmanager
def named_file(path: Path) -> Iterator[None]:
    """Put the file into errors that lack it: "No space left on device" does not say where."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary path)`, then rename to `path`: a file with its final name is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        with named_file(path):
            write(part)
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an uncompressed NPZ; the same arrays give the same bytes."""

    def write(part: Path) -> None:
        with part.open("wb") as handle:
            np.savez(handle, **arrays)

    write_atomically(path, write)


def write_npz(path: Path, members: dict[str, tuple[tuple[int, ...], np.dtype, Iterable]]) -> None:
    """Write an uncompressed NPZ from arrays that come in pieces, without holding one as a whole.

    members: per array its shape, its dtype, and the buffers that make up its bytes in C order. The same
    arrays give the same bytes.
    """

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, (shape, dtype, pieces) in members.items():
                header = {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                    "fortran_order": False,
                    "shape": shape,
                }
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    for piece in pieces:
                        member.write(piece)

    write_atomically(path, write)


def create_rows(path: Path, shape: tuple[int, int]) -> None:
    """Make an empty float32 `.npy` of `shape` beside `path`, for `write_rows` to fill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_file(path):
        np.lib.format.open_memmap(part_of(path), mode="w+", dtype=np.float32, shape=shape)


def write_rows(path: Path, rows: np.ndarray, values: np.ndarray) -> None:
    """Write rows of the array that `create_rows` made; they count once `finish_rows` has renamed it.

    Several processes may write at once: only the bytes of these rows are touched. rows: [k] int, stretches of
    ascending row numbers; values: [k, d] float32.
    """
    array = np.load(part_of(path), mmap_mode="r")
    begin, row_bytes = array.offset, array.strides[0]
    del array
    stretches = np.flatnonzero(np.diff(rows) != 1) + 1
    with named_file(path), part_of(path).open("r+b") as handle:
        for first, block in zip(rows[np.r_[0, stretches]], np.split(values, stretches)):
            handle.seek(begin + int(first) * row_bytes)
            handle.write(np.ascontiguousarray(block).data)


def finish_rows(path: Path) -> None:
    os.replace(part_of(path), path)


def read_rows(path: Path, start: int | None, stop: int | None) -> np.ndarray:
    """Return rows of a 2-d `.npy`, mapped anew each time, so that pages read earlier do not stay mapped."""
    return np.array(np.load(path, mmap_mode="r")[start:stop])


def row_chunks(path: Path, rows: int | None = None) -> Iterator[np.ndarray]:
    """Yield the rows of a 2-d `.npy` in order, `rows` at a time; no more than those are in memory."""
    total, width = np.load(path, mmap_mode="r").shape
    rows = rows or max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, total, rows):
        yield read_rows(path, start, start + rows)


def write_half_if_finite(path: Path, name: str, source: Path) -> None:
    """Write a float32 `.npy` as the NPZ array `name`: float16 where all is finite in it, else float32."""
    with np.errstate(over="ignore"):
        fits = all(np.isfinite(chunk.astype(np.float16)).all() for chunk in row_chunks(source))
    dtype = np.dtype(np.float16 if fits else np.float32)
    shape = np.load(source, mmap_mode="r").shape
    write_npz(path, {name: (shape, dtype, (chunk.astype(dtype).data for chunk in row_chunks(source)))})


class CsrWriter:
    """Rows of a CSR matrix, taken chunk by chunk and written as `scipy.sparse.load_npz` reads them.

    An NPZ needs the columns of all rows before the values of the first, so both wait: in memory, and beyond
    `SPOOL_BYTES` each in files without a name below `folder`.
    """

    def __init__(self, n_columns: int, folder: Path):
        self.n_columns = n_columns
        self.columns = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=folder)  # noqa: SIM115
        self.values = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=folder)  # noqa: SIM115
        self.row_lengths: list[np.ndarray] = []
        self.fires = np.zeros(n_columns, dtype=bool)  # columns with at least one value

    def append(self, row_lengths: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Add rows. row_lengths: [rows] int; columns: [nonzeros] int32; values: [nonzeros] float32."""
        self.row_lengths.append(row_lengths)
        self.columns.write(columns.data)
        self.values.write(values.data)
        self.fires[columns] = True

    @property
    def n_rows(self) -> int:
        return sum(map(len, self.row_lengths))

    @property
    def n_values(self) -> int:
        return int(sum(lengths.sum() for lengths in self.row_lengths))

    def write(self, path: Path) -> None:
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(self.row_lengths))])  # [n_rows + 1]
        indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
        form, shape = np.array(b"csr"), np.array([self.n_rows, self.n_columns], dtype=np.int64)
        members = {
            "indices": ((self.n_values,), np.int32, blocks_of(self.columns)),
            "indptr": (indptr.shape, indptr.dtype, [indptr.data]),
            "format": (form.shape, form.dtype, [form.tobytes()]),
            "shape": (shape.shape, shape.dtype, [shape.data]),
            "data": ((self.n_values,), np.float32, blocks_of(self.values)),
        }
        write_npz(path, members)

    def close(self) -> None:
        self.columns.close()
        self.values.close()


def blocks_of(handle) -> Iterator[bytes]:
    handle.seek(0)
    while block := handle.read(BLOCK_BYTES):
        yield block


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def library_versions() -> dict[str, str]:
    names = ("torch", "transformers", "numpy", "scipy")
    return {name: importlib.metadata.version(name) for name in names}


def open_folder(folder: Path, inputs: dict, overwrite: bool) -> None:
    """Make `folder` ready for a run with these inputs: new, emptied, or one that has them already.

    Raises:
        ValueError: the folder was made with other inputs, or holds something else; the message names
            what differs.
    """
    marker = folder / INPUTS
    if overwrite and marker.exists():
        for name in (SCRATCH, RESIDUAL_STREAM, "hidden_states", "sae_activations"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("run.json", "sentences.csv", "tokens.npz", "embeddings.npz", INPUTS):
            (folder / name).unlink(missing_ok=True)
    if not marker.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and not a feature folder: choose another --output")
        write_json(marker, inputs)
        return
    before = json.loads(marker.read_text(encoding="utf-8"))
    for name, value in inputs.items():
        if before.get(name) != value:
            raise ValueError(
                f"{folder} was made with {name} {before.get(name)!r}, this run has {value!r}: "
                "choose another --output, or --overwrite to start anew"
            )
