"""Arrays larger than memory: filled row by row, converted in pieces, or written as CSR chunk by chunk."""

import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from twins_s1.atomic_files import named_file, write_atomically

BLOCK_BYTES = 1 << 24  # read and written at once
SPOOL_BYTES = 1 << 28  # of columns, and of values, of one SAE that are held in memory


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


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


def require_shape(path: Path, shape: tuple[int, int]) -> None:
    """Raise ValueError if the array of a finished `.npy` has another shape."""
    found = np.load(path, mmap_mode="r").shape
    if found != shape:
        raise ValueError(f"{path} is {found}, expected {shape}: delete it and run again")


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
