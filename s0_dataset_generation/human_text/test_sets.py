"""Test sets: sentences that others labelled, as many that show a trait as that have nothing to do with it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
from command_line.run_record import RunRecord
from sentences.labelled_tables import csv_text
from sentences.near_duplicates import normalise
from twins_s0.atomic_files import write_text

COLUMNS = ("sentence", "concept_strength_label", "group", "adjective", "source", "row")
SHOWN, OPPOSITE, UNRELATED = 3, 1, 0


@dataclass(frozen=True)
class JudgedRow:
    """One line of a test set: what others said of a sentence (`adjective`), and where they said it."""

    sentence: str
    label: int
    group: str
    adjective: str
    source: str
    row: int


def without_repeats(rows: Iterable[JudgedRow]) -> list[JudgedRow]:
    """The first row of each sentence; case, punctuation and spacing do not make another one."""
    first: dict[str, JudgedRow] = {}
    for row in rows:
        first.setdefault(normalise(row.sentence), row)
    return list(first.values())


def balanced(
    rows: Sequence[JudgedRow],
    seed: int,
    with_opposite: bool,
    register: Callable[[JudgedRow], str] = attrgetter("source"),
) -> list[JudgedRow]:
    """Of each register as many rows that show the trait as unrelated ones, drawn at random, in their order.

    Balance within a register, a file where not said otherwise, keeps it from telling the label. With
    `with_opposite`, up to as many rows of the opposite are added, as label 1. ValueError where none is left.
    """
    rng = np.random.default_rng(seed)
    kept: set[int] = set()
    for one in dict.fromkeys(map(register, rows)):
        places = {
            label: [i for i, row in enumerate(rows) if register(row) == one and row.label == label]
            for label in (SHOWN, UNRELATED, OPPOSITE)
        }
        n = min(len(places[SHOWN]), len(places[UNRELATED]))
        for label in (SHOWN, UNRELATED, *([OPPOSITE] if with_opposite else [])):
            kept.update(places[label][i] for i in rng.permutation(len(places[label]))[:n])
    if not kept:
        counts = [sum(row.label == label for row in rows) for label in (SHOWN, UNRELATED)]
        raise ValueError(
            f"no test set: {counts[0]} sentences show it, {counts[1]} are unrelated, and no register has both"
        )
    return [rows[i] for i in sorted(kept)]


def write_test_set(path: Path, rows: Sequence[JudgedRow], record: RunRecord) -> None:
    """Write a test set and its record, and say so."""
    write_text(path, csv_text(COLUMNS, map(astuple, rows)))
    record.write(path)
    counts = [sum(row.label == label for row in rows) for label in (UNRELATED, OPPOSITE, SHOWN)]
    print(f"wrote {path}: {len(rows)} sentences, {'/'.join(map(str, counts))} of labels 0/1/3")
