"""JSON files that other commands put beside a ranking."""

import json
from collections.abc import Collection
from pathlib import Path


def read_side_file(path: Path, format_version: int, keys: Collection[str], complaint: str) -> dict | None:
    """The content, None where there is no such file.

    Raises ValueError with the `complaint` for what is no object of this format with all `keys`.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    is_ours = isinstance(content, dict) and content.get("format_version") == format_version
    if not is_ours or not set(content).issuperset(keys):
        raise ValueError(f"{path} {complaint}")
    return content
