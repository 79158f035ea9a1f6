"""Every prompt that a language model sees."""

import json
from collections.abc import Sequence

from prompts.rubric import RUBRIC, Trait, rubric_text
from prompts.scene_plan import Slot
from sentences.labelled_tables import LABELS, LabelledSentence

EXAMPLES_PER_LABEL = 5


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
