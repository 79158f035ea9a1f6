"""The input: a CSV of sentences, each with the strength of a concept in it."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

LABELS = ("0", "1", "2", "3")
REQUIRED = ("sentence", "concept_strength_label")


@dataclass(frozen=True)
class LabelledSentences:
    """The rows of a labelled CSV, and the digest of the very bytes they were read from."""

    file: Path
    table: pd.DataFrame  # `sentence` (str), `concept_strength_label` (int 0-3), then the other columns
    sha256: str

    def __len__(self) -> int:
        return len(self.table)

    @property
    def texts(self) -> list[str]:
        return list(self.table["sentence"])


def read_labelled_sentences(path: Path) -> LabelledSentences:
    """Read a labelled CSV; further columns are kept as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not UTF-8 or not a CSV with both columns, an empty sentence, a label that is not one
            of 0, 1, 2, 3, or a sentence that appears twice. Line numbers are those of the file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a CSV with columns sentence,concept_strength_label"
        )
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    return LabelledSentences(path, parse_rows(path, text), hashlib.sha256(content).hexdigest())


def parse_rows(path: Path, text: str) -> pd.DataFrame:
    """Return the checked rows of the CSV `text`; `path` is for messages."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    first_seen: dict[str, int] = {}
    rows = []
    try:
        header = list(reader.fieldnames or [])
        for name in REQUIRED:
            if name not in header:
                raise ValueError(
                    f"{path}, line 1: no column {name!r} (found: {', '.join(header) or 'nothing'})"
                )
        line = reader.line_num + 1
        for row in reader:
            rows.append(checked_row(row, f"{path}, line {line}", len(header)))
            earlier = first_seen.setdefault(row["sentence"], reader.line_num)
            if earlier != reader.line_num:
                raise ValueError(f"{path}, line {line}: same sentence as line {earlier}; remove one of them")
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a valid CSV ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no sentence below the header")
    return pd.DataFrame(rows)[[*REQUIRED, *(name for name in header if name not in REQUIRED)]]


def checked_row(row: dict, where: str, n_fields: int) -> dict:
    """Return a row with its label as a number; `where` begins the message of a ValueError."""
    if None in row or None in row.values():
        raise ValueError(f"{where}: not {n_fields} fields as the header has; quote sentences with commas")
    label = row["concept_strength_label"].strip()
    if not row["sentence"].strip():
        raise ValueError(f"{where}: empty sentence")
    if label not in LABELS:
        raise ValueError(f"{where}: concept_strength_label is {label!r}, expected 0, 1, 2 or 3")
    return row | {"concept_strength_label": int(label)}
