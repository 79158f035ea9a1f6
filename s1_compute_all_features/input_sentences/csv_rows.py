"""The rows of a CSV of sentences, each checked: with the strength of a concept in it, or without."""

import csv
import io
from pathlib import Path

import pandas as pd

SENTENCE, LABEL = "sentence", "concept_strength_label"
LABELS = ("0", "1", "2", "3")


def parse_rows(path: Path, text: str) -> pd.DataFrame:
    """Return the checked rows of the CSV `text`: sentence, label where there are labels, other columns.

    Without labels the rows are a text, in which a sentence may come back; with labels, it would be in two
    places of a split, so it is refused. `path` is for messages, whose line numbers are those of the file.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    first_seen: dict[str, int] = {}
    rows = []
    try:
        header = list(reader.fieldnames or [])
        if SENTENCE not in header:
            raise ValueError(
                f"{path}, line 1: no column {SENTENCE!r} (found: {', '.join(header) or 'nothing'})"
            )
        labelled = LABEL in header
        line = reader.line_num + 1
        for row in reader:
            rows.append(checked_row(row, f"{path}, line {line}", len(header), labelled))
            earlier = first_seen.setdefault(row[SENTENCE], reader.line_num)
            if labelled and earlier != reader.line_num:
                raise ValueError(f"{path}, line {line}: same sentence as line {earlier}; remove one of them")
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a valid CSV ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no sentence below the header")
    first = [SENTENCE, LABEL] if labelled else [SENTENCE]
    return pd.DataFrame(rows)[[*first, *(name for name in header if name not in first)]]


def checked_row(row: dict, where: str, n_fields: int, labelled: bool) -> dict:
    """Return a row, its label as a number; `where` begins the message of a ValueError."""
    if None in row or None in row.values():
        raise ValueError(f"{where}: not {n_fields} fields as the header has; quote sentences with commas")
    if not row[SENTENCE].strip():
        raise ValueError(f"{where}: empty sentence")
    if not labelled:
        return row
    label = row[LABEL].strip()
    if label not in LABELS:
        raise ValueError(f"{where}: {LABEL} is {label!r}, expected 0, 1, 2 or 3")
    return row | {LABEL: int(label)}
