"""The 0-3 rubric, the traits' definitions, and every prompt and answer form that a language model sees."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from sentence_tables import LABELS, LabelledSentence

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

SETTINGS = (
    "a hospital or surgery",
    "a school or university",
    "a farm or garden",
    "a kitchen or restaurant",
    "a sports club",
    "a bus, train or airport",
    "a ship or harbour",
    "a building site",
    "an office",
    "a shop or market",
    "a family meal",
    "a wedding or funeral",
    "a neighbours' staircase",
    "a workshop or garage",
    "a town hall or court",
    "a newspaper or radio station",
    "a laboratory",
    "a hotel or campsite",
    "a choir, band or theatre",
    "a bank or post office",
    "a police or fire station",
    "a chat group or video call",
    "a mountain or forest path",
    "a beach or swimming pool",
    "a museum or library",
    "a place of worship",
    "an army barracks",
    "a factory or warehouse",
    "a care home",
    "a playground",
    "a shared flat",
    "a charity or club committee",
    "a film set",
    "a stable or kennel",
    "a border post",
    "a scene before 1930",
)
WORD_BANDS = ((6, 10), (11, 15), (16, 20), (21, 27))  # words a sentence is asked to have
BAND_TOLERANCE = 3  # words beyond its band with which a sentence is still accepted
VOICES = ("first person", "third person", "third person with a line of direct speech")
SCENES_PER_REQUEST = 20
SETTINGS_PER_REQUEST = 5
EXAMPLES_PER_LABEL = 5


def whole_number(value: object) -> object:
    """Refuses true and 1.0, which are equal to 1 and would pass for a label."""
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


Label = Annotated[Literal[0, 1, 2, 3], BeforeValidator(whole_number)]


class Item(BaseModel):
    """An entry of an answer; strict types, while keys that nobody asked for are ignored."""

    model_config = ConfigDict(strict=True)


class Scene(Item):
    """One everyday situation; `title` becomes its scenario id and the `group` of its sentences."""

    title: str
    scene: str


class WrittenSentence(Item):
    scenario_id: str
    intended_label: Label
    sentence: str


class Judgement(Item):
    sentence_id: str
    label: Label


@dataclass(frozen=True)
class AnswerForm:
    """What an answer must look like: one JSON object whose only key `name` holds a list of `item`."""

    name: str
    item: type[Item]

    def json_schema(self) -> dict:
        """The form as a JSON schema in the subset that strict structured outputs accept."""
        entry = self.item.model_json_schema() | {"additionalProperties": False}
        return {
            "type": "object",
            "properties": {self.name: {"type": "array", "items": entry}},
            "required": [self.name],
            "additionalProperties": False,
        }


SCENES = AnswerForm("scenes", Scene)
SENTENCES = AnswerForm("sentences", WrittenSentence)
JUDGEMENTS = AnswerForm("judgements", Judgement)


@dataclass(frozen=True)
class Trait:
    name: str
    definition: str


@dataclass(frozen=True)
class Slot:
    """One sentence to be written: a scene, the label, the words it may have and the voice."""

    scenario_id: str
    scene: str
    label: int
    words: tuple[int, int]
    voice: str


def slug(text: str) -> str:
    """`text` as a file name or scenario id: lower case letters and digits joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


def add_trait_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("trait")
    group.add_argument("--trait", required=True, help='name of the trait, e.g. "Dishonesty"; any trait works')
    group.add_argument(
        "--definition",
        help="what the trait is and what it is not, in a sentence or two (default: <trait>.definition.txt "
        "beside the seed file, then the built-in definition of a shipped trait)",
    )


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


def message_pair(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def scene_messages(trait: Trait, settings: Sequence[str], count: int) -> list[dict[str, str]]:
    """Ask for `count` situations in which the trait could show or not show."""
    system = (
        "You plan a varied set of English sentences for research on how language models represent a "
        f"personality trait.\n\n{rubric_text(trait)}"
    )
    user = (
        f"Invent {count} different everyday scenes. Each must be open: one person could exhibit the trait in "
        "it strongly, another weakly, another not at all, and something unrelated could happen there too. Do "
        "not say in the scene whether anyone exhibits it. Vary the people (age, origin, name, trade), the "
        "objects and what is at stake; make no two scenes alike. Spread them over these settings: "
        f"{'; '.join(settings)}.\n\n"
        'Answer with JSON: {"scenes": [{"title": "two or three words naming what is particular to the '
        'scene", "scene": "who is where, doing what, in one sentence"}, ...]}.'
    )
    return message_pair(system, user)


def examples_for(seeds: Sequence[LabelledSentence], label: int) -> tuple[int, list[str]]:
    """The label nearest to `label` that has seeds (the lower one of two), and up to five of its seeds."""
    nearest = min({seed.label for seed in seeds}, key=lambda other: (abs(other - label), other))
    return nearest, [seed.sentence for seed in seeds if seed.label == nearest][:EXAMPLES_PER_LABEL]


def sentence_messages(
    trait: Trait, seeds: Sequence[LabelledSentence], slots: Sequence[Slot], avoid_openings: Sequence[str]
) -> list[dict[str, str]]:
    """Ask for one sentence per slot; the slots of one request share the label. The last line is JSON."""
    label = slots[0].label
    system = (
        "You write English sentences for research on how language models represent a personality trait.\n\n"
        f"{rubric_text(trait)}\n\n"
        "Write like a good novelist's notebook, not like a textbook: concrete, everyday, each with its own "
        "grammar and rhythm. One sentence per scene, complete in itself. Neither the trait's name nor an "
        "obvious keyword should tell the label: label 3 usually shows the act without naming it, label 1 "
        "often uses the trait's vocabulary although nobody exhibits it, and label 0 may use one of its words "
        "in another sense. No moral at the end, no explanation, no placeholders."
    )
    shown, examples = examples_for(seeds, label)
    heading = (
        f"Examples of label {label}:"
        if shown == label
        else f"There is no example of label {label}. For tone only, sentences of label {shown}:"
    )
    lines = [
        f"Write one sentence of label {label} for each of the {len(slots)} scenes at the end.",
        f"Label {label}: {RUBRIC[label]}",
        "",
        heading,
        *(f"- {example}" for example in examples),
        "",
        "Keep to each scene's number of words and voice. Begin every sentence differently.",
    ]
    if avoid_openings:
        lines.append(f"These openings are used up: {'; '.join(avoid_openings)}.")
    slots_json = [
        {
            "scenario_id": slot.scenario_id,
            "scene": slot.scene,
            "words": f"{slot.words[0]} to {slot.words[1]}",
            "voice": slot.voice,
        }
        for slot in slots
    ]
    lines += [
        'Answer with JSON: {"sentences": [{"scenario_id": copied from the scene, "intended_label": '
        f'{label}, "sentence": "..."}}, ...]}}, one entry per scene.',
        "",
        json.dumps(slots_json, ensure_ascii=False),
    ]
    return message_pair(system, "\n".join(lines))


def judge_messages(
    trait: Trait, seeds: Sequence[LabelledSentence], sentences: Sequence[tuple[str, str]]
) -> list[dict[str, str]]:
    """Ask for the label of each (sentence_id, sentence); no intended label is told. The last line is JSON."""
    anchors = [
        f"{label}: {seed.sentence}" for label in LABELS for seed in [s for s in seeds if s.label == label][:2]
    ]
    system = (
        "You label English sentences by how strongly they express a personality trait.\n\n"
        f"{rubric_text(trait)}\n\n"
        "Judge what the sentence shows, not which words it uses: a keyword alone earns no more than 1, and "
        "an act that exhibits the trait earns 2 or 3 even where no keyword names it. Judge each sentence by "
        "itself."
    )
    lines = [f"Label each of the {len(sentences)} sentences at the end."]
    if anchors:
        lines += ["", "Sentences whose labels are known:", *anchors]
    lines += [
        "",
        'Answer with JSON: {"judgements": [{"sentence_id": copied, "label": 0, 1, 2 or 3}, '
        "...]}, "
        "one entry per sentence.",
        "",
        json.dumps([{"sentence_id": key, "sentence": text} for key, text in sentences], ensure_ascii=False),
    ]
    return message_pair(system, "\n".join(lines))
