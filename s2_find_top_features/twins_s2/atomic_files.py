"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


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
    """Call `write(temporary path)`, then rename to `path`: a file with its final name is complete.

    The folder is made. Nothing is left behind when `write` fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with named_file(path):
            write(temporary)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, as UTF-8 with the line ends that it has."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Write indented JSON atomically; see `json_ready` for what is converted."""
    text = json.dumps(json_ready(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an uncompressed NPZ atomically; the same arrays give the same bytes."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.savez(handle, **arrays)

    write_atomically(path, write)


def json_ready(value: object) -> object:
    """Plain Python values for JSON: arrays as lists, paths as text, a number that is not finite as null."""
    if isinstance(value, dict):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(inner) for inner in value]
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextmanager
def replaced_together(folder: Path, last: str) -> Iterator[Path]:
    """Yield an empty folder; on success its files replace those of `folder`, `last` at the end.

    A failure inside leaves `folder` as it was. `last` is removed before the first file is replaced, so that
    it exists only beside files of its own run: a reader that finds `last` finds no mixture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".fresh.{os.getpid()}.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        (folder / last).unlink(missing_ok=True)
        for path in sorted(fresh.iterdir(), key=lambda path: (path.name == last, path.name)):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
