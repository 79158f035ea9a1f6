"""What a `run.json` says of a run's inputs and surroundings."""

import argparse
import hashlib
import importlib.metadata
import platform
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def library_versions(*names: str) -> dict[str, str]:
    """Versions of Python and of the named libraries."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def plain_arguments(args: argparse.Namespace) -> dict[str, object]:
    """The arguments of a command as JSON takes them: paths as text, also inside lists."""

    def plain(value: object) -> object:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in vars(args).items()}
