"""Labelled sentences on disk: read with complaints by line, written whole or not at all; near-duplicates."""

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

LABELS = (0, 1, 2, 3)
COLUMNS = ("sentence", "concept_strength_label", "group")
NEAR_DUPLICATE_JACCARD = 0.7


@dataclass(frozen=True)
class LabelledSentence:
    sentence: str
    label: int
    group: str


def normalise(sentence: str) -> str:
    """The form in which two sentences count as the same: case, punctuation and spacing do not matter."""
    return " ".join(re.sub(r"[^\w\s]", "", sentence.casefold()).split())


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


def parse_label(text: str, where: str) -> int:
    """A whole number 0 to 3; ValueError naming `where` otherwise."""
    if text.strip() not in {"0", "1", "2", "3"}:
        raise ValueError(f"{where}: label {text!r}; expected a whole number from 0 to 3")
    return int(text)


def read_labelled(path: Path) -> list[LabelledSentence]:
    """Rows of a labelled CSV; without a `group` column every row is its own group.

    Raises ValueError for an empty sentence, a label other than 0 to 3, an exact duplicate, or a broken table.
    """
    rows = read_rows(path, COLUMNS[:2])
    first_line: dict[str, int] = {}
    table = []
    for line, fields in rows:
        sentence = fields["sentence"].strip()
        if not sentence:
            raise ValueError(f"{path}, line {line}: empty sentence; delete the row or write a sentence")
        if sentence in first_line:
            raise ValueError(
                f"{path}, line {line}: the same sentence as line {first_line[sentence]}; delete one"
            )
        first_line[sentence] = line
        label = parse_label(fields["concept_strength_label"], f"{path}, line {line}")
        table.append(LabelledSentence(sentence, label, (fields.get("group") or "").strip() or f"row-{line}"))
    return table


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: the file is whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table as text, with the line ends and quoting of the shipped files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def labelled_text(table: Iterable[LabelledSentence]) -> str:
    """`sentence,concept_strength_label,group` of every row as CSV text."""
    return csv_text(COLUMNS, ((row.sentence, row.label, row.group) for row in table))


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def library_versions() -> dict[str, str]:
    names = ("openai", "numpy", "scipy", "scikit-learn", "matplotlib")
    return {name: importlib.metadata.version(name) for name in names}


def near_duplicates(
    sentences: Sequence[str], threshold: float = NEAR_DUPLICATE_JACCARD, block: int = 1000
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, jaccard) with i < j whose sets of character 5-grams overlap by at least `threshold`.

    Sentences equal after normalising count as 1.0, also when they are shorter than one 5-gram. Intersections
    are counted by a sparse product, `block` rows at a time: memory grows with n, not with n squared.
    """
    texts = [normalise(sentence) for sentence in sentences]
    pairs = {}
    first: dict[str, int] = {}
    for j, text in enumerate(texts):
        if text in first:
            pairs[first[text], j] = 1.0
        else:
            first[text] = j
    if any(len(text) >= 5 for text in texts):
        vectorizer = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True, dtype=np.int32)
        grams = vectorizer.fit_transform(texts)  # [n, n_grams] 0/1
        sizes = np.asarray(grams.sum(axis=1)).ravel()  # [n] number of different 5-grams
        for start in range(0, len(texts), block):
            shared = (grams[start : start + block] @ grams.T).tocoo()  # [block, n] common 5-grams
            i, j = shared.row + start, shared.col
            jaccard = shared.data / (sizes[i] + sizes[j] - shared.data)
            keep = (i < j) & (jaccard >= threshold)
            pairs |= {(int(a), int(b)): float(c) for a, b, c in zip(i[keep], j[keep], jaccard[keep])}
    return [(i, j, jaccard) for (i, j), jaccard in sorted(pairs.items())]


def duplicate_rows(sentences: Sequence[str]) -> set[int]:
    """Indices to drop so that no near-duplicate pair remains, the earlier sentence of a pair being kept."""
    dropped: set[int] = set()
    for i, j, _ in near_duplicates(sentences):  # sorted by i: the fate of i is known before its pairs come
        if i not in dropped:
            dropped.add(j)
    return dropped
