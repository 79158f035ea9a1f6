"""Seed candidates out of the ETHICS data, proposed by its annotations and by words of the trait."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prompts.rubric import slug
from sentences.labelled_tables import (
    LABELS,
    LabelledSentence,
    columns_in_use,
    csv_text,
    optional_fields,
    parse_label,
    read_rows,
    read_sentences,
    tidy,
)
from sentences.near_duplicates import duplicate_rows

# The files of the published archive (Hendrycks et al. 2021, arXiv 2008.02275): `label,scenario` with
# "sentence [SEP] trait", and `label,input,is_short,edited` with label 1 for a wrong act.
VIRTUE_FILES = ("virtue_train.csv", "virtue_test.csv", "virtue_test_hard.csv")
COMMONSENSE_FILES = ("cm_train.csv", "cm_test.csv", "cm_test_hard.csv")
SEPARATOR = "[SEP]"
MAX_WORDS = 40
CANDIDATE_COLUMNS = ("sentence", "concept_strength_label", "group", "proposed_label", "source", "why")


@dataclass(frozen=True)
class Words:
    """How ETHICS names a trait: virtue adjectives for it and against it, and stems of its domain's words."""

    shown: tuple[str, ...]
    opposite: tuple[str, ...]
    stems: tuple[str, ...]


WORDS = {
    "dishonesty": Words(
        ("dishonest", "deceitful", "deceptive", "untruthful", "insincere", "fraudulent", "lying"),
        ("honest", "truthful", "sincere", "candid", "frank"),
        ("lie", "lied", "lying", "cheat", "fak", "pretend", "forg", "secret", "truth", "honest"),
    ),
    "aggression": Words(
        ("aggressive", "hostile", "violent", "belligerent", "combative", "threatening", "cruel", "abusive"),
        ("peaceful", "gentle", "calm", "nonviolent", "mild"),
        ("hit", "punch", "kick", "shov", "threat", "yell", "scream", "attack", "fight", "fought", "slap"),
    ),
    "caring": Words(
        ("caring", "compassionate", "kind", "considerate", "sympathetic", "nurturing", "thoughtful"),
        ("uncaring", "callous", "inconsiderate", "unkind", "selfish", "cold", "indifferent"),
        ("comfort", "hug", "nurse", "help", "care", "caring", "sick", "console", "feed", "visit"),
    ),
    "bravery": Words(
        ("brave", "courageous", "heroic", "valiant", "bold", "fearless", "gallant"),
        ("cowardly", "timid", "fearful", "timorous", "scared"),
        ("brave", "fear", "afraid", "scared", "danger", "rescue", "courage", "burning", "drown", "soldier"),
    ),
    "unfairness": Words(
        ("unfair", "unjust", "biased", "prejudiced", "partial", "discriminatory", "bigoted", "exploitative"),
        ("fair", "just", "impartial", "unbiased", "equitable"),
        ("fair", "equal", "favor", "favour", "bias", "share", "bonus", "promot", "rule", "discriminat"),
    ),
}


def words_for(trait: str, shown: str | None, opposite: str | None) -> Words:
    """The words given, comma-separated, or the trait's built-in ones; ValueError where there is neither."""
    if shown is not None:
        adjectives, opposites = (
            tuple(word.strip().lower() for word in text.split(",") if word.strip())
            for text in (shown, opposite or "")
        )
        if not adjectives:
            raise ValueError("--words is empty; give adjectives such as generous,giving")
        return Words(adjectives, opposites, adjectives + opposites)
    key = slug(trait)
    if key not in WORDS:
        raise ValueError(f"no word list for {trait!r}: give --words; built in are {', '.join(sorted(WORDS))}")
    return WORDS[key]


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


def ethics_files(folder: Path) -> list[Path]:
    """The published files in the folder or below; FileNotFoundError where there are none."""
    found = [path for name in VIRTUE_FILES + COMMONSENSE_FILES for path in sorted(folder.rglob(name))]
    if not found:
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(VIRTUE_FILES + COMMONSENSE_FILES)} in it or below; --ethics-dir "
            "names the unpacked ETHICS archive"
        )
    return found


def virtue_candidates(path: Path, words: Words) -> Iterable[Candidate]:
    """Sentences that annotators found to show the trait (3), its opposite (1), or another trait (0)."""
    for line, row in read_rows(path, ("label", "scenario")):
        sentence, separator, adjective = row["scenario"].rpartition(SEPARATOR)
        if not separator or row["label"] not in ("0", "1"):
            raise ValueError(
                f"{path}, line {line}: expected label 0 or 1 and a scenario 'sentence {SEPARATOR} trait'"
            )
        if row["label"] == "0":
            continue
        adjective = adjective.strip().lower()
        label = 3 if adjective in words.shown else 1 if adjective in words.opposite else 0
        if label or not mentions(sentence, words):
            yield Candidate(tidy(sentence), label, f"{path.name} {line}", f"annotated as {adjective}")


def commonsense_candidates(path: Path, words: Words) -> Iterable[Candidate]:
    """Short acts: in the trait's words and wrong (2), in its words and not wrong (1), neither (0)."""
    for line, row in read_rows(path, ("label", "input", "is_short")):
        if row["label"] not in ("0", "1") or row["is_short"] not in ("True", "False"):
            raise ValueError(f"{path}, line {line}: expected label 0 or 1 and is_short True or False")
        if row["is_short"] == "False":
            continue
        wrong = row["label"] == "1"
        if mentions(row["input"], words):
            label, why = (
                (2, "uses the trait's words, act judged wrong") if wrong else (1, "uses the trait's words")
            )
        elif not wrong:
            label, why = 0, "none of the trait's words"
        else:
            continue
        yield Candidate(tidy(row["input"]), label, f"{path.name} {line}", why)


def mentions(text: str, words: Words) -> bool:
    stems = "|".join(re.escape(stem) for stem in words.stems)
    return bool(stems) and re.search(rf"\b(?:{stems})", text, re.IGNORECASE) is not None


def propose(files: Sequence[Path], words: Words, per_label: int, seed: int) -> list[Candidate]:
    """Up to `per_label` candidates of each proposed label, in a seeded random order, without duplicates.

    Commonsense acts that use the trait's words may turn out to be any of 1 to 3; the judge or you decide.
    Raises ValueError for a malformed file.
    """
    best: dict[str, Candidate] = {}
    for path in files:
        read = virtue_candidates if path.name in VIRTUE_FILES else commonsense_candidates
        for candidate in read(path, words):  # one virtue sentence stands in several rows, once per adjective
            if not 0 < len(candidate.sentence.split()) <= MAX_WORDS:
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
