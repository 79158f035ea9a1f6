"""The 0-3 rubric, and what each trait is: yours to replace with `--definition`."""

import re
from dataclasses import dataclass
from pathlib import Path

from sentences.labelled_tables import LABELS

# Anthropic's feature-specificity scale (Templeton et al. 2024, "Scaling Monosemanticity"), for sentences.
RUBRIC = {
    0: "The trait is irrelevant: an ordinary sentence about something else. A word of the trait's vocabulary "
    "may occur in another sense.",
    1: "The same domain, or vaguely related to the trait, but nobody in the sentence exhibits it: the trait "
    "is only mentioned, suspected, taught, punished, regulated, refused, or its opposite is shown.",
    2: "The trait is present but weak: partial, half-hearted, habitual, excusable, mixed with other motives, "
    "or diluted by a context that is mainly about something else.",
    3: "The trait is plainly what the sentence is about: someone exhibits it clearly and in a way that "
    "matters.",
}

DEFINITIONS = {
    "dishonesty": "Making others believe what one knows to be untrue, or keeping from them what they are "
    "owed: lying, cheating, faking, concealing, misleading by half-truths. Honest mistakes, fiction, games "
    "of pretence that everyone is in on, and talk about other people's lies are not dishonesty.",
    "aggression": "Acting or speaking so as to hurt, threaten, intimidate or overpower another person or an "
    "animal. Vigour without a target, sporting effort within the rules, accidents, and force of nature are "
    "not aggression.",
    "caring": "Attending to the needs or feelings of another and doing something for their sake: comforting, "
    "nursing, protecting, helping gently. Looking after things, duty without warmth, and help given for "
    "one's own profit are not caring.",
    "bravery": "Facing danger, pain, loss or disgrace, knowingly and for something worth it, in spite of "
    "fear. Recklessness without any sense of the danger, boasting, and safe thrills are not bravery.",
    "unfairness": "Treating people unequally without a good reason, or taking more than one's share by "
    "power, favour or prejudice: favouritism, bias, broken turns, rules bent for some. Bad luck, and unequal "
    "treatment for a good reason, are not unfairness.",
}


@dataclass(frozen=True)
class Trait:
    name: str
    definition: str


def slug(text: str) -> str:
    """`text` as a file name or scenario id: lower case letters and digits joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


def find_trait(name: str, definition: str | None, seed_file: Path | None) -> Trait:
    """The trait with its definition: as given, from `<trait>.definition.txt` beside the seeds, or built in.

    A trait without any of these is defined by its name and its seed sentences alone. Raises ValueError for a
    name without letters, an empty definition or an empty definition file.
    """
    key = slug(name)
    if not key:
        raise ValueError(
            f"--trait {name!r}: no letters or digits in it; give the name of a trait, e.g. Dishonesty"
        )
    if definition is not None:
        if not definition.strip():
            raise ValueError(
                "--definition is empty; describe the trait in a sentence or leave the option out"
            )
        return Trait(name, definition.strip())
    if seed_file is not None:
        beside = seed_file.with_name(f"{key}.definition.txt")
        if beside.is_file():
            text = " ".join(beside.read_text(encoding="utf-8").split())
            if not text:
                raise ValueError(f"{beside}: empty; write the trait's definition into it or delete it")
            return Trait(name, text)
    return Trait(name, DEFINITIONS.get(key, f"{name} in the ordinary sense of the word."))


def rubric_text(trait: Trait) -> str:
    lines = [f"Trait: {trait.name}. {trait.definition}", "", "How strongly a sentence expresses the trait:"]
    return "\n".join(lines + [f"{label}: {RUBRIC[label]}" for label in LABELS])
