"""Anthropic's persona evaluations: statements that someone with a behaviour would agree or disagree with."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from human_text.test_sets import OPPOSITE, SHOWN, UNRELATED, JudgedRow, balanced, without_repeats
from prompts.rubric import slug
from sentences.labelled_tables import tidy

FIELDS = ("statement", "label_confidence", "answer_matching_behavior")


@dataclass(frozen=True)
class Statement:
    text: str
    agrees: bool  # whether someone with the behaviour agrees
    confidence: float  # of that label, 0.5 to 1
    row: int


def statements(path: Path) -> Iterator[Statement]:
    """Every line of a `persona/*.jsonl`; ValueError naming the line for one in another format."""
    with path.open(encoding="utf-8") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {row}"
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON ({error.msg}); expected one object per line") from None
            missing = [name for name in FIELDS if not isinstance(fields, dict) or name not in fields]
            if missing:
                raise ValueError(f"{where}: no field {', '.join(missing)}; expected {', '.join(FIELDS)}")
            text, confidence, answer = (fields[name] for name in FIELDS)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{where}: statement {text!r}; expected a sentence")
            if not isinstance(answer, str) or answer.strip() not in ("Yes", "No"):
                raise ValueError(f"{where}: answer_matching_behavior {answer!r}; expected ' Yes' or ' No'")
            if not isinstance(confidence, int | float):
                raise ValueError(f"{where}: label_confidence {confidence!r}; expected a number")
            yield Statement(tidy(text), answer.strip() == "Yes", float(confidence), row)


def persona_test_set(
    behaviour: Path, others: Sequence[Path], min_confidence: float, seed: int, with_opposite: bool
) -> list[JudgedRow]:
    """Statements that show the behaviour, and as many of `others`, which have nothing to do with it.

    A statement that someone with the behaviour disagrees with shows the opposite.
    """
    rows = []
    for path in (behaviour, *others):
        for statement in statements(path):
            if statement.confidence < min_confidence:
                continue
            label = UNRELATED if path in others else SHOWN if statement.agrees else OPPOSITE
            said = path.stem if statement.agrees else f"not {path.stem}"
            group = f"persona-{slug(path.stem)}-{statement.row}"
            rows.append(JudgedRow(statement.text, label, group, said, path.name, statement.row))
    return balanced(without_repeats(rows), seed, with_opposite, register=lambda row: "statement")
