"""Labelled sentences on disk: read with complaints by line, written with the columns that they have."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentences.near_duplicates import normalise

LABELS = (0, 1, 2, 3)
COLUMNS = ("sentence", "concept_strength_label", "group")
OPTIONAL_COLUMNS = ("register", "difficulty")  # what kind of text, and whether the label is plain to see


@dataclass(frozen=True)
class LabelledSentence:
    sentence: str
    label: int
    group: str
    register: str = ""  # empty where the table has no such column
    difficulty: str = ""


def tidy(sentence: str) -> str:
    """`sentence` on one line, its words one space apart."""
    return " ".join(sentence.split())


def read_rows(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of every row of a UTF-8 CSV.

    Raises FileNotFoundError or ValueError (naming file, line, and what was expected) when the file is not
    there, lacks a required column, has a row with more or fewer fields than the header, or has no rows.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a CSV with the columns {', '.join(required)}"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        try:
            missing = [column for column in required if column not in (reader.fieldnames or [])]
            if missing:
                raise ValueError(
                    f"{path}: no column {', '.join(missing)}; the header is "
                    f"{','.join(reader.fieldnames or [])}, expected {','.join(required)}"
                )
            for fields in reader:
                if None in fields or None in fields.values():
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {'more' if None in fields else 'fewer'} fields "
                        "than the header has; put sentences with commas in double quotes"
                    )
                rows.append((reader.line_num, fields))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
            ) from None
    if not rows:
        raise ValueError(f"{path}: no rows under the header; expected at least one sentence")
    return rows


def read_sentences(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """`read_rows` of a table in which no sentence is empty and none stands twice.

    Raises ValueError for an empty sentence, and for two that differ in nothing but case, punctuation or
    spacing: what comes later would count them as one.
    """
    first_line: dict[str, int] = {}
    for line, fields in read_rows(path, required):
        sentence = fields["sentence"].strip()
        if not sentence:
            raise ValueError(f"{path}, line {line}: empty sentence; delete the row or write a sentence")
        first = first_line.setdefault(normalise(sentence), line)
        if first != line:
            raise ValueError(
                f"{path}, line {line}: the same sentence as line {first} (case, punctuation and spacing do "
                "not count); delete one"
            )
        yield line, fields | {"sentence": sentence}


def parse_label(text: str, where: str) -> int:
    """A whole number 0 to 3; ValueError naming `where` otherwise."""
    if text.strip() not in {"0", "1", "2", "3"}:
        raise ValueError(f"{where}: label {text!r}; expected a whole number from 0 to 3")
    return int(text)


def optional_fields(fields: dict[str, str]) -> dict[str, str]:
    """Register and difficulty of a row, empty where the table has no such column."""
    return {column: fields.get(column, "").strip() for column in OPTIONAL_COLUMNS}


def read_labelled(path: Path) -> list[LabelledSentence]:
    """Rows of a labelled CSV; without a `group` column every row is its own group.

    Raises ValueError for an empty or repeated sentence, a label other than 0 to 3, or a broken table.
    """
    return [
        LabelledSentence(
            fields["sentence"],
            parse_label(fields["concept_strength_label"], f"{path}, line {line}"),
            fields.get("group", "").strip() or f"row-{line}",
            **optional_fields(fields),
        )
        for line, fields in read_sentences(path, COLUMNS[:2])
    ]


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table as text, with the line ends and quoting of the shipped files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def columns_in_use(rows: Sequence[object]) -> list[str]:
    """Those of the optional columns in which any of the rows has something."""
    return [column for column in OPTIONAL_COLUMNS if any(getattr(row, column) for row in rows)]


def labelled_text(table: Sequence[LabelledSentence]) -> str:
    """`sentence,concept_strength_label,group` of every row as CSV text, and the optional columns in use."""
    more = columns_in_use(table)
    rows = ((row.sentence, row.label, row.group, *(getattr(row, name) for name in more)) for row in table)
    return csv_text((*COLUMNS, *more), rows)
