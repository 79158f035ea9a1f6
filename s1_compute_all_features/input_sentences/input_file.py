"""The input: a CSV of sentences, with labels or without, or a text with one sentence a line."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .csv_rows import LABEL, SENTENCE, parse_rows

EXPECTED = f"expected a CSV with columns {SENTENCE},{LABEL}, or a .txt with one sentence a line"


@dataclass(frozen=True)
class InputSentences:
    """The sentences of a file, and the digest of the very bytes they were read from."""

    file: Path
    table: pd.DataFrame  # `sentence` (str), `concept_strength_label` (int 0-3) if any, then other columns
    sha256: str

    def __len__(self) -> int:
        return len(self.table)

    @property
    def texts(self) -> list[str]:
        return list(self.table[SENTENCE])

    @property
    def labelled(self) -> bool:
        return LABEL in self.table

    @property
    def note(self) -> str | None:
        """What a reader should know who thought that there were labels; None where there are."""
        if self.labelled:
            return None
        columns = "" if is_text(self.file) else f" (no column {LABEL}, only {', '.join(self.table)})"
        return f"{self.file}: {len(self)} sentences without labels{columns}"


def read_input_sentences(path: Path) -> InputSentences:
    """Read a CSV, whose further columns are kept as they are, or the lines of a `.txt`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not UTF-8; or a CSV without sentences, with an empty one, with a label that is not one of
            0, 1, 2, 3, or with labels and a sentence that appears twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {EXPECTED}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    table = text_lines(path, text) if is_text(path) else parse_rows(path, text)
    return InputSentences(path, table, hashlib.sha256(content).hexdigest())


def is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def text_lines(path: Path, text: str) -> pd.DataFrame:
    """Return the lines of `text` that are not blank, a sentence each, also those that come back."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: no line with text; {EXPECTED}")
    if LABEL in lines[0].split(","):
        raise ValueError(f"{path}, line 1: the header of a CSV, but a .txt is read as text; name it .csv")
    return pd.DataFrame({SENTENCE: lines})
