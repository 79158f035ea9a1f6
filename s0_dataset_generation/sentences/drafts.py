"""Sentences before a judge has labelled them: as a writer made them, or as a table brings them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sentences.labelled_tables import (
    columns_in_use,
    csv_text,
    optional_fields,
    parse_label,
    read_sentences,
    tidy,
)


@dataclass(frozen=True)
class Draft:
    """A sentence, the label that was asked for (None where nobody asked) and the scene it is set in."""

    sentence: str
    intended_label: int | None
    group: str
    register: str = ""
    difficulty: str = ""


def read_drafts(path: Path) -> list[Draft]:
    """Sentences to label; the columns beside `sentence` are taken over where they exist.

    Raises ValueError for an empty or repeated sentence, or an intended label other than 0 to 3.
    """
    rows = []
    for line, fields in read_sentences(path, ("sentence",)):
        intended = fields.get("intended_label", "").strip()
        label = parse_label(intended, f"{path}, line {line}") if intended else None
        group = fields.get("group", "").strip() or f"row-{line}"
        rows.append(Draft(tidy(fields["sentence"]), label, group, **optional_fields(fields)))
    return rows


def drafts_text(drafts: Sequence[Draft]) -> str:
    """`sentence,intended_label,group` as CSV text, and the optional columns in use."""
    more = columns_in_use(drafts)
    rows = ((d.sentence, d.intended_label, d.group, *(getattr(d, name) for name in more)) for d in drafts)
    return csv_text(("sentence", "intended_label", "group", *more), rows)


def judged_text(judged: Sequence[tuple[Draft, int]]) -> str:
    """Drafts with the judge's labels as CSV text; the intended label stays beside them."""
    more = columns_in_use([draft for draft, _ in judged])
    rows = (
        (
            draft.sentence,
            label,
            draft.group,
            "" if draft.intended_label is None else draft.intended_label,
            *(getattr(draft, name) for name in more),
        )
        for draft, label in judged
    )
    return csv_text(("sentence", "concept_strength_label", "group", "intended_label", *more), rows)
