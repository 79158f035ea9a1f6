"""Ratings on disk as they come, so that no start of a run asks for one twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

from continuation_judge.ratings import SCALE, Question


def key_of(question: Question, model: str, concept: str) -> str:
    """What a rating is found by: all that the judge is told of the text, and who judges."""
    content = [model, concept, *astuple(question)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def read_journal(path: Path) -> dict[str, int]:
    """The ratings of earlier starts by key; a last line that a crash cut off is dropped from the file.

    Raises:
        ValueError: a line is none of a journal.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    ratings = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            ratings[entry["key"]] = SCALE[entry["rating"]]
        except (ValueError, TypeError, KeyError, IndexError):
            raise ValueError(f"{path}, line {number}: not a rating; move the file away") from None
    return ratings


def append_ratings(path: Path, ratings: Mapping[str, int]) -> None:
    """Add ratings, on disk before this returns."""
    lines = "".join(json.dumps({"key": key, "rating": rating}) + "\n" for key, rating in ratings.items())
    with path.open("a", encoding="utf-8") as handle:
        handle.write(lines)
        handle.flush()
        os.fsync(handle.fileno())
