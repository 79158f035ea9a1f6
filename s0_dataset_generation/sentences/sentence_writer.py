"""Writing sentences of each label: scenes first, then a sentence per scene and label."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from endpoint.chat_request import Question
from endpoint.llm_client import LLMClient
from endpoint.usage import listed
from prompts.answer_forms import SCENES, SENTENCES, AnswerForm, Scene, WrittenSentence
from prompts.messages import scene_messages, sentence_messages
from prompts.rubric import Trait, slug
from prompts.scene_plan import BAND_TOLERANCE, SETTINGS, Slot
from sentences.drafts import Draft
from sentences.labelled_tables import LABELS, LabelledSentence, tidy
from sentences.near_duplicates import duplicate_rows

SCENES_PER_REQUEST = 20
SETTINGS_PER_REQUEST = 5
MAX_SCENE_PASSES = 5
MAX_AVOIDED_OPENINGS = 10


@dataclass(frozen=True)
class WritingPlan:
    """What does not change while a run writes."""

    trait: Trait
    seeds: list[LabelledSentence]
    model: str
    temperature: float | None
    batch_size: int  # sentences per request
    seed: int


class SentenceWriter:
    """Keeps the scenes and drafts of a run.

    What it asks depends on the plan and on earlier answers only, never on their order of arrival: a second
    start with the same journal asks the same questions and finds the answers there.
    """

    def __init__(self, client: LLMClient, plan: WritingPlan) -> None:
        self.plan = plan
        self.scenes: dict[str, str] = {}  # scenario id -> scene
        self.drafts: list[Draft] = []
        self.asked: Counter[int] = Counter()  # label -> sentences asked for
        self.dropped: dict[int, Counter] = {label: Counter() for label in LABELS}
        self._client = client
        self._answered: dict[int, set[str]] = {label: set() for label in LABELS}
        self._scene_requests = 0

    async def write(self, wanted: dict[int, int], round_number: int) -> list[Draft]:
        """Up to `wanted[label]` new drafts of each label, in scenes that have none of that label yet."""
        await self._plan_scenes(max(len(self._answered[label]) + count for label, count in wanted.items()))
        slots = [slot for label in LABELS for slot in self._free_slots(label, wanted.get(label, 0))]
        batches = [
            own[start : start + self.plan.batch_size]
            for label in LABELS
            for own in [[slot for slot in slots if slot.label == label]]
            for start in range(0, len(own), self.plan.batch_size)
        ]
        self.asked.update(slot.label for slot in slots)
        openings = self._used_openings()
        questions = [
            self._question(
                sentence_messages(self.plan.trait, self.plan.seeds, batch, openings),
                SENTENCES,
                f"round {round_number}",
            )
            for batch in batches
        ]
        replies = await self._client.ask_all(questions, f"round {round_number}: sentences")
        drafts = [d for batch, reply in zip(batches, replies) for d in self._accept(batch, reply.items)]
        return self._without_duplicates(drafts)

    def drafts_by_scene(self) -> list[Draft]:
        order = {scene: position for position, scene in enumerate(self.scenes)}
        return sorted(self.drafts, key=lambda draft: order[draft.group])

    def _question(self, messages: list[dict[str, str]], form: AnswerForm, nonce: str) -> Question:
        return Question(self.plan.model, messages, form, nonce, self.plan.temperature)

    async def _plan_scenes(self, needed: int) -> None:
        """Ask for scenes until there are `needed` different ones, or MAX_SCENE_PASSES bring no more."""
        for _ in range(MAX_SCENE_PASSES):
            missing = needed - len(self.scenes)
            if missing <= 0:
                return
            questions = []
            while missing > 0:
                count = min(missing, SCENES_PER_REQUEST)
                rng = np.random.default_rng([self.plan.seed, self._scene_requests])
                settings = rng.choice(SETTINGS, SETTINGS_PER_REQUEST, replace=False).tolist()
                nonce = f"scenes {self._scene_requests}"
                messages = scene_messages(self.plan.trait, settings, count)
                questions.append(self._question(messages, SCENES, nonce))
                self._scene_requests += 1
                missing -= count
            for reply in await self._client.ask_all(questions, "scenes"):
                self._add_scenes(reply.items)

    def _add_scenes(self, items: Sequence[Scene]) -> None:
        new = [item for item in items if slug(item.title) and item.scene.strip()]
        known = list(self.scenes.values())
        dropped = duplicate_rows(known + [item.scene for item in new])
        taken = self.scenes.keys() | {seed.group for seed in self.plan.seeds}
        for index, item in enumerate(new, start=len(known)):
            if index in dropped:
                continue
            name = unique = slug(item.title)[:60]
            number = 1
            while unique in taken:
                number += 1
                unique = f"{name}-{number}"
            taken.add(unique)
            self.scenes[unique] = tidy(item.scene)

    def _free_slots(self, label: int, count: int) -> list[Slot]:
        """Scenes without a sentence of `label`, in order; length and voice follow the scene alone."""
        slots = []
        for index, (scenario_id, scene) in enumerate(self.scenes.items()):
            if len(slots) == count:
                break
            if scenario_id not in self._answered[label]:
                slots.append(Slot.of_scene(index, scenario_id, scene, label))
        return slots

    def _accept(self, slots: Sequence[Slot], items: Sequence[WrittenSentence]) -> list[Draft]:
        """The drafts of one answer: each slot's first entry, of the right label and a tolerable length."""
        by_id = {slot.scenario_id: slot for slot in slots}
        label = slots[0].label
        drafts = []
        for item in items:
            slot = by_id.pop(item.scenario_id, None)
            if slot is None:
                self.dropped[label]["unknown or repeated scenario id"] += 1
                continue
            if item.intended_label != label:
                self.dropped[label]["wrong intended label"] += 1
                continue
            sentence = tidy(item.sentence)
            self._answered[label].add(slot.scenario_id)
            shortest, longest = slot.words
            n_words = len(sentence.split())
            if not shortest - BAND_TOLERANCE <= n_words <= longest + BAND_TOLERANCE:
                self.dropped[label]["outside its length"] += 1
                continue
            drafts.append(Draft(sentence, label, slot.scenario_id))
        return drafts

    def _without_duplicates(self, new: list[Draft]) -> list[Draft]:
        known = [seed.sentence for seed in self.plan.seeds] + [draft.sentence for draft in self.drafts]
        dropped = duplicate_rows(known + [draft.sentence for draft in new])
        kept = []
        for index, draft in enumerate(new, start=len(known)):
            if index in dropped:
                self.dropped[draft.intended_label]["near-duplicate"] += 1
            else:
                kept.append(draft)
        self.drafts += kept
        return kept

    def _used_openings(self) -> list[str]:
        openings = Counter(" ".join(draft.sentence.split()[:2]) for draft in self.drafts)
        return [text for text, count in openings.most_common(MAX_AVOIDED_OPENINGS) if count > 2]


async def write_all(
    client: LLMClient, plan: WritingPlan, counts: dict[int, int], max_rounds: int
) -> tuple[SentenceWriter, dict[int, int]]:
    """Write until every count is reached, a round brings nothing, or rounds are up.

    Returns the writer and what is missing per label.
    """
    writer = SentenceWriter(client, plan)
    missing = dict(counts)
    for round_number in range(1, max_rounds + 1):
        drafts = await writer.write({label: n for label, n in missing.items() if n}, round_number)
        for draft in drafts:
            missing[draft.intended_label] -= 1
        if not any(missing.values()) or not drafts:
            break
    return writer, missing


def shortfall_lines(
    missing: dict[int, int], counts: dict[int, int], reasons: dict[int, Counter]
) -> list[str]:
    """One line per label that did not get its count, with what became of the sentences asked for."""
    return [
        f"label {label}: {missing[label]} of {counts[label]} missing"
        f"{listed(reasons[label]) or ' (not answered)'}"
        for label in sorted(counts, reverse=True)
        if missing[label] > 0
    ]
