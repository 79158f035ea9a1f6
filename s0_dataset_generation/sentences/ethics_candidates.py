"""Seed candidates out of the ETHICS data, proposed by its annotations and by words of the trait."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from human_text.ethics_adjectives import adjectives_of
from human_text.ethics_files import JudgedText, judged_texts
from prompts.rubric import slug
from sentences.labelled_tables import (
    LABELS,
    LabelledSentence,
    columns_in_use,
    csv_text,
    optional_fields,
    parse_label,
    read_sentences,
    tidy,
)
from sentences.near_duplicates import duplicate_rows

CANDIDATE_COLUMNS = ("sentence", "concept_strength_label", "group", "proposed_label", "source", "why")


@dataclass(frozen=True)
class Words:
    """How ETHICS names a trait: adjectives for it, against it, near it, and stems of its domain's words."""

    shown: frozenset[str]
    opposite: frozenset[str]
    related: frozenset[str]
    stems: tuple[str, ...]


STEMS = {
    "dishonesty": "lie lied lying cheat fak pretend forg secret truth honest",
    "aggression": "hit punch kick shov threat yell scream attack fight fought slap",
    "caring": "comfort hug nurse help care caring sick console feed visit",
    "bravery": "brave fear afraid scared danger rescue courage burning drown soldier",
    "unfairness": "fair equal favor favour bias share bonus promot rule discriminat",
}


def words_for(trait: str, shown: str | None, opposite: str | None) -> Words:
    """The words given, comma-separated, or the trait's built-in ones; ValueError where there is neither."""
    if shown is not None:
        adjectives, opposites = (
            frozenset(word.strip().lower() for word in text.split(",") if word.strip())
            for text in (shown, opposite or "")
        )
        if not adjectives:
            raise ValueError("--words is empty; give adjectives such as generous,giving")
        return Words(adjectives, opposites, frozenset(), tuple(sorted(adjectives | opposites)))
    key = slug(trait)
    if key not in STEMS:
        raise ValueError(f"no word list for {trait!r}: give --words; built in are {', '.join(sorted(STEMS))}")
    known = adjectives_of(key)
    return Words(known.fits, known.opposite, known.related, tuple(STEMS[key].split()))


@dataclass(frozen=True)
class Candidate:
    sentence: str
    proposed_label: int
    source: str
    why: str
    register: str = ""
    difficulty: str = ""

    @property
    def group(self) -> str:
        return "ethics-" + slug(self.source)


def virtue_candidate(text: JudgedText, words: Words) -> Candidate | None:
    """A sentence that annotators found to show the trait (3), its opposite (1), or another trait (0)."""
    if not text.judged or text.adjective in words.related:
        return None
    label = 3 if text.adjective in words.shown else 1 if text.adjective in words.opposite else 0
    if label == 0 and mentions(text.sentence, words):
        return None
    return Candidate(text.sentence, label, f"{text.source} {text.row}", f"annotated as {text.adjective}")


def commonsense_candidate(text: JudgedText, words: Words) -> Candidate | None:
    """An act: in the trait's words and wrong (2), in its words and not wrong (1), neither (0)."""
    if mentions(text.sentence, words):
        label, why = (
            (2, "uses the trait's words, act judged wrong") if text.judged else (1, "uses the trait's words")
        )
    elif not text.judged:
        label, why = 0, "none of the trait's words"
    else:
        return None
    return Candidate(text.sentence, label, f"{text.source} {text.row}", why)


PROPOSALS = {"virtue": virtue_candidate, "commonsense": commonsense_candidate}


def mentions(text: str, words: Words) -> bool:
    stems = "|".join(re.escape(stem) for stem in words.stems)
    return bool(stems) and re.search(rf"\b(?:{stems})", text, re.IGNORECASE) is not None


def propose(files: Sequence[Path], words: Words, per_label: int, seed: int) -> list[Candidate]:
    """Up to `per_label` candidates of each proposed label, in a seeded random order, without duplicates.

    Commonsense acts that use the trait's words may turn out to be any of 1 to 3; the judge or you decide.
    Raises ValueError for a malformed file.
    """
    best: dict[str, Candidate] = {}
    texts = (text for path in files for text in judged_texts(path) if text.part in PROPOSALS)
    for text in texts:  # one virtue sentence stands in several rows, once per adjective
        candidate = PROPOSALS[text.part](text, words)
        if candidate is None:
            continue
        known = best.get(candidate.sentence)
        if known is None or candidate.proposed_label > known.proposed_label:
            best[candidate.sentence] = candidate
    rng = np.random.default_rng(seed)
    chosen = []
    for label in LABELS:
        pool = [candidate for candidate in best.values() if candidate.proposed_label == label]
        chosen += [pool[i] for i in rng.permutation(len(pool))[:per_label]]
    dropped = duplicate_rows([candidate.sentence for candidate in chosen])
    return [candidate for i, candidate in enumerate(chosen) if i not in dropped]


def candidates_text(candidates: Sequence[Candidate], labels: Sequence[int | None]) -> str:
    more = columns_in_use(candidates)
    rows = (
        (
            c.sentence,
            "" if label is None else label,
            c.group,
            c.proposed_label,
            c.source,
            c.why,
            *(getattr(c, name) for name in more),
        )
        for c, label in zip(candidates, labels)
    )
    return csv_text((*CANDIDATE_COLUMNS, *more), rows)


def choose_seeds(
    candidates: Sequence[Candidate], labels: Sequence[int | None], per_label: int
) -> list[LabelledSentence]:
    """The first `per_label` rows of each label, those whose proposal was confirmed before the others."""
    rows = [(c, label) for c, label in zip(candidates, labels) if label is not None]
    rows.sort(
        key=lambda row: row[0].proposed_label != row[1]
    )  # stable: the random order stays within both parts
    return [
        LabelledSentence(c.sentence, label, c.group, c.register, c.difficulty)
        for wanted in LABELS
        for c, label in [row for row in rows if row[1] == wanted][:per_label]
    ]


def read_hand_labelled(path: Path) -> tuple[list[Candidate], list[int | None]]:
    """A candidates file back from its labeller; rows with an empty label are rejected ones."""
    candidates, labels = [], []
    for line, row in read_sentences(path, CANDIDATE_COLUMNS):
        where = f"{path}, line {line}"
        proposed = parse_label(row["proposed_label"], where)
        candidates.append(
            Candidate(tidy(row["sentence"]), proposed, row["source"], row["why"], **optional_fields(row))
        )
        text = row["concept_strength_label"].strip()
        labels.append(parse_label(text, where) if text else None)
    if all(label is None for label in labels):
        raise ValueError(
            f"{path}: no label filled in; write 0 to 3 into concept_strength_label, empty to reject a row"
        )
    return candidates, labels
