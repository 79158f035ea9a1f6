"""Which texts of ETHICS show a trait, which its opposite, and which have nothing to do with it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from human_text.ethics_adjectives import TRAITS, Adjectives, adjectives_of
from human_text.ethics_files import JudgedText, judged_texts
from human_text.test_sets import OPPOSITE, SHOWN, UNRELATED, JudgedRow, balanced, without_repeats
from prompts.rubric import slug
from sentences.near_duplicates import normalise


def any_word(*stems: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(stems)})", re.IGNORECASE)


# An act that people called wrong and that one of these words names is dishonest.
DECEIT = any_word(
    r"(?:lie[sd]?|lying|con(?:ned|ning)|fak(?:e|ed|ing)|forg(?:e|ed|ing|ery)|false|cop(?:y|ied|ying)|cheat\w*)\b",
    "scam",
    "falsif",
    "fraud",
    "counterfeit",
    "deceiv",
    "decept",
    "embezzl",
    "impersonat",
    "pretend",
    "plagiar",
    "swindl",
)
# An act with one of these may be dishonest or speak of honesty: it is not unrelated.
NEAR_DECEIT = any_word(
    "admit", "affair", "alter", "answer", "behind", "blackmail", "blam", "borrow", "brib", "claim", "conceal",
    "confess", "disguis", "exam", "fool", "fram", "grade", "hack", "hid", "homework", "honest", "insur",
    "invent", "key", "know", "mistress", "mislead", "misled", "notic", "pay", "paid", "permission",
    "pirat", "police", "promis", "rob", "rumou?r", "said", "say", "secret", "sell", "sold", "smuggl", "snuck",
    "sneak", "spi(?:ed|es)", "spy", "stole", "steal", "swap", "swip", "switch", "tax", "tell", "test", "told",
    "took", "tak", "trick", "truth", "without",
)  # fmt: skip
# "I usually read my students a book, but I didn't read Owen one because …": a group, and one left out.
LEFT_OUT = re.compile(
    r"\b(?:usually|normally|typically|used to)\b.*"
    r"\b(?:students|employees|kids|children|nephews|nieces|patients|friends|passengers|everyone|players|team|"
    r"girls|boys)\b.*\bI (?:didn't|don't|haven't|won't|couldn't)\b"
    r"(?:(?! because| since)[^A-Z])* (?!I\b)[A-Z][a-z]+\b.*\b(?:because|since)\b"
)
HABIT = re.compile(r"\b(?:usually|normally|typically|used to)\b.*\b(?:because|since)\b")


@dataclass(frozen=True)
class Verdict:
    """The label of a text, None where it can be neither, and what annotators said of it."""

    label: int | None
    said: str


def virtue_verdict(texts: Sequence[JudgedText], adjectives: Adjectives) -> Verdict:
    """Of one sentence with all adjectives that fit it: those of the trait decide, one related excludes."""
    said = [text.adjective for text in texts if text.judged]
    fits, opposite = adjectives.fits.intersection(said), adjectives.opposite.intersection(said)
    if fits and not opposite:
        return Verdict(SHOWN, ", ".join(sorted(fits)))
    if opposite and not fits:
        return Verdict(OPPOSITE, ", ".join(sorted(opposite)))
    unrelated = bool(said) and adjectives.unrelated.issuperset(said)
    return Verdict(UNRELATED if unrelated else None, ", ".join(sorted(set(said))))


def dishonesty_verdict(text: JudgedText) -> Verdict:
    """Of an act of the commonsense part."""
    said = "wrong" if text.judged else "not wrong"
    if DECEIT.search(text.sentence):
        return Verdict(SHOWN if text.judged else None, said)
    return Verdict(None if NEAR_DECEIT.search(text.sentence) else UNRELATED, said)


def unfairness_verdict(text: JudgedText) -> Verdict:
    """Of a habit from which somebody was left out, with the reason, in the justice part."""
    said = "reasonable" if text.judged else "unreasonable"
    if LEFT_OUT.search(text.sentence):
        return Verdict(OPPOSITE if text.judged else SHOWN, said)
    return Verdict(UNRELATED if text.judged and HABIT.search(text.sentence) else None, said)


BY_RULE = {("commonsense", "dishonesty"): dishonesty_verdict, ("justice", "unfairness"): unfairness_verdict}


def rows_of(texts: Iterable[JudgedText], trait: str) -> Iterator[JudgedRow]:
    """Of the virtue part one row per sentence, with all its adjectives; of the others those with a rule."""
    by_sentence: dict[tuple[str, str], list[JudgedText]] = {}
    for text in texts:
        by_sentence.setdefault((text.part, normalise(text.sentence)), []).append(text)
    adjectives = adjectives_of(trait)
    for (part, _), same in by_sentence.items():
        first = next((text for text in same if text.judged), same[0])
        if part == "virtue":
            verdict = virtue_verdict(same, adjectives)
        elif (part, trait) in BY_RULE:
            verdict = BY_RULE[part, trait](first)
        else:
            continue
        if verdict.label is not None:
            group = f"ethics-{slug(first.source)}-{first.row}"
            yield JudgedRow(first.sentence, verdict.label, group, verdict.said, first.source, first.row)


def ethics_test_set(files: Iterable[Path], trait: str, seed: int, with_opposite: bool) -> list[JudgedRow]:
    """The balanced test set of one of the five traits; ValueError for another trait or a malformed file."""
    if trait not in TRAITS:
        raise ValueError(
            f"no test set for {trait!r}: which adjectives fit is known of {', '.join(TRAITS)} "
            "(ethics_adjectives.csv)"
        )
    texts = (text for path in files for text in judged_texts(path))
    return balanced(without_repeats(rows_of(texts, trait)), seed, with_opposite)
