"""Write sentences of each label with a language model: scenes first, then a sentence per scene and label."""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llm_client
import numpy as np
import rubric
from llm_client import LLMClient, Question, Settings, open_journal
from rubric import SCENES, SENTENCES, Scene, Slot, Trait
from sentence_tables import (
    LABELS,
    LabelledSentence,
    csv_text,
    duplicate_rows,
    library_versions,
    read_labelled,
    sha256_of,
    write_json,
    write_text,
)

MAX_SCENE_PASSES = 5
MAX_AVOIDED_OPENINGS = 10


@dataclass(frozen=True)
class Draft:
    """A sentence as written, with the label that was asked for and the scene it is set in."""

    sentence: str
    intended_label: int
    group: str


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
                rubric.sentence_messages(self.plan.trait, self.plan.seeds, batch, openings),
                SENTENCES,
                f"round {round_number}",
            )
            for batch in batches
        ]
        answers = await self._client.ask_all(questions, f"round {round_number}: sentences")
        drafts = [draft for batch, items in zip(batches, answers) for draft in self._accept(batch, items)]
        return self._without_duplicates(drafts)

    def _question(self, messages: list[dict[str, str]], form: rubric.AnswerForm, nonce: str) -> Question:
        return Question(self.plan.model, messages, form, nonce, self.plan.temperature)

    async def _plan_scenes(self, needed: int) -> None:
        """Ask for scenes until there are `needed` different ones, or MAX_SCENE_PASSES bring no more."""
        for _ in range(MAX_SCENE_PASSES):
            missing = needed - len(self.scenes)
            if missing <= 0:
                return
            questions = []
            while missing > 0:
                count = min(missing, rubric.SCENES_PER_REQUEST)
                rng = np.random.default_rng([self.plan.seed, self._scene_requests])
                settings = rng.choice(rubric.SETTINGS, rubric.SETTINGS_PER_REQUEST, replace=False).tolist()
                nonce = f"scenes {self._scene_requests}"
                messages = rubric.scene_messages(self.plan.trait, settings, count)
                questions.append(self._question(messages, SCENES, nonce))
                self._scene_requests += 1
                missing -= count
            for items in await self._client.ask_all(questions, "scenes"):
                self._add_scenes(items)

    def _add_scenes(self, items: Sequence[Scene]) -> None:
        new = [item for item in items if rubric.slug(item.title) and item.scene.strip()]
        known = list(self.scenes.values())
        dropped = duplicate_rows(known + [item.scene for item in new])
        taken = self.scenes.keys() | {seed.group for seed in self.plan.seeds}
        for index, item in enumerate(new, start=len(known)):
            if index in dropped:
                continue
            name = unique = rubric.slug(item.title)[:60]
            number = 1
            while unique in taken:
                number += 1
                unique = f"{name}-{number}"
            taken.add(unique)
            self.scenes[unique] = " ".join(item.scene.split())

    def _free_slots(self, label: int, count: int) -> list[Slot]:
        """Scenes without a sentence of `label`, in order; length and voice follow the scene alone."""
        slots = []
        for index, (scenario_id, scene) in enumerate(self.scenes.items()):
            if len(slots) == count:
                break
            if scenario_id not in self._answered[label]:
                words = rubric.WORD_BANDS[index % len(rubric.WORD_BANDS)]
                voice = rubric.VOICES[index // len(rubric.WORD_BANDS) % len(rubric.VOICES)]
                slots.append(Slot(scenario_id, scene, label, words, voice))
        return slots

    def _accept(self, slots: Sequence[Slot], items: Sequence[rubric.WrittenSentence]) -> list[Draft]:
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
            sentence = " ".join(item.sentence.split())
            self._answered[label].add(slot.scenario_id)
            shortest, longest = slot.words
            n_words = len(sentence.split())
            if not shortest - rubric.BAND_TOLERANCE <= n_words <= longest + rubric.BAND_TOLERANCE:
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


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sentences")
    group.add_argument(
        "--seed-file",
        type=Path,
        required=True,
        help="CSV of example sentences with their labels: sentence,concept_strength_label[,group]",
    )
    for label in reversed(LABELS):
        group.add_argument(
            f"--label{label}-count",
            type=int,
            default=0,
            help=f"sentences to write with label {label} (default: %(default)s)",
        )
    group.add_argument(
        "--batch-size", type=int, default=10, help="sentences written per request (default: %(default)s)"
    )
    group.add_argument(
        "--max-rounds",
        type=int,
        default=6,
        help="rounds in which missing sentences are asked for (default: %(default)s)",
    )


def requested_counts(arguments: argparse.Namespace) -> dict[int, int]:
    """Sentences wanted per label; ValueError for a count below 0, none at all, no batch or no round."""
    counts = {label: getattr(arguments, f"label{label}_count") for label in LABELS}
    for label, count in counts.items():
        if count < 0:
            raise ValueError(f"--label{label}-count {count}: expected 0 or more")
    if not any(counts.values()):
        raise ValueError("nothing to write: give at least one of --label3-count … --label0-count above 0")
    for option in ("batch_size", "max_rounds"):
        if getattr(arguments, option) < 1:
            value = getattr(arguments, option)
            raise ValueError(f"--{option.replace('_', '-')} {value}: expected 1 or more")
    return {label: count for label, count in counts.items() if count}


def dry_run(plan: WritingPlan, counts: dict[int, int], arguments: argparse.Namespace) -> None:
    """Print a prompt of each kind and an estimate of requests, tokens and cost, without any call."""
    scenes = rubric.scene_messages(plan.trait, rubric.SETTINGS[:5], rubric.SCENES_PER_REQUEST)
    label = max(counts)
    slots = [
        Slot(
            f"scene-{n}",
            "(a scene from the first step)",
            label,
            rubric.WORD_BANDS[n % 4],
            rubric.VOICES[n % 3],
        )
        for n in range(min(plan.batch_size, counts[label]))
    ]
    sentences = rubric.sentence_messages(plan.trait, plan.seeds, slots, [])
    n_scene_requests = -(-max(counts.values()) // rubric.SCENES_PER_REQUEST)
    n_requests = sum(-(-count // plan.batch_size) for count in counts.values())
    steps = [
        ("scenes", scenes, n_scene_requests, 45 * max(counts.values())),
        ("sentences", sentences, n_requests, 50 * sum(counts.values())),
    ]
    if hasattr(arguments, "judge_batch_size"):
        n_shown = min(arguments.judge_batch_size, sum(counts.values()))
        shown = [(f"s{n:02d}", "(a sentence from the second step)") for n in range(1, n_shown + 1)]
        judge = rubric.judge_messages(plan.trait, plan.seeds, shown)
        n_judged = arguments.judge_votes * -(-sum(counts.values()) // arguments.judge_batch_size)
        steps.append(("judge", judge, n_judged, 15 * sum(counts.values()) * arguments.judge_votes))
    print_estimate(steps, arguments.price_in, arguments.price_out)


def print_estimate(
    steps: Sequence[tuple[str, list[dict[str, str]], int, int]],
    price_in: float | None,
    price_out: float | None,
) -> None:
    """Print the prompt and number of requests of each step, and the sum at four characters a token.

    steps: (name, messages, requests, output tokens).
    """
    tokens_in = tokens_out = n_requests = 0
    for name, messages, requests, out in steps:
        print(f"[{name}: {requests} requests such as this]")
        for message in messages:
            print(f"<{message['role']}>\n{message['content']}\n")
        n_requests += requests
        tokens_in += requests * sum(len(message["content"]) for message in messages) // 4
        tokens_out += out
    cost = ""
    if price_in is not None and price_out is not None:
        cost = f", cost about {(tokens_in * price_in + tokens_out * price_out) / 1e6:.2f}"
    print(
        f"dry run, nothing sent: about {n_requests} requests, {tokens_in:,} tokens in, {tokens_out:,} out"
        f"{cost}, before retries, rejected sentences and reasoning tokens"
    )


def shortfall_lines(
    missing: dict[int, int], counts: dict[int, int], reasons: dict[int, Counter]
) -> list[str]:
    """One line per label that did not get its count, with what became of the sentences asked for."""
    return [
        f"label {label}: {missing[label]} of {counts[label]} missing"
        f"{llm_client.listed(reasons[label]) or ' (not answered)'}"
        for label in sorted(counts, reverse=True)
        if missing[label] > 0
    ]


def run_record(
    arguments: argparse.Namespace, inputs: Sequence[Path], client: LLMClient, started: float
) -> dict:
    """Provenance of an output: arguments, versions, input hashes, usage, seconds. No key is among them."""
    values = {name: str(v) if isinstance(v, Path) else v for name, v in vars(arguments).items()}
    usage = client.usage
    return {
        "format_version": 1,
        "arguments": values | {"base_url": llm_client.public_url(client.settings.base_url)},
        "seed": arguments.seed,
        "libraries": library_versions(),
        "input_sha256": {path.name: sha256_of(path) for path in inputs},
        "usage": {
            "requests": usage.requests,
            "answers_from_journal": usage.from_journal,
            "retries": dict(usage.retries),
            "answers_asked_again": dict(usage.bad_answers),
            "requests_given_up": dict(usage.failed),
            "tokens_in": usage.tokens_in,
            "tokens_out": usage.tokens_out,
            "cost": client.cost(),
        },
        "seconds": round(time.monotonic() - started, 1),
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    rubric.add_trait_arguments(parser)
    add_writing_arguments(parser)
    llm_client.add_endpoint_arguments(parser, judge=False)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, required=True, help="CSV to write: sentence,intended_label,group"
    )
    group.add_argument("--overwrite", action="store_true", help="replace an output that another run wrote")
    group.add_argument("--dry-run", action="store_true", help="print prompts and an estimate, ask nothing")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


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


async def run(
    arguments: argparse.Namespace, plan: WritingPlan, counts: dict[int, int], settings: Settings
) -> int:
    started = time.monotonic()
    journal = open_journal(arguments.output, plan.trait.name, arguments.overwrite)
    try:
        async with LLMClient(settings, journal) as client:
            writer, missing = await write_all(client, plan, counts, arguments.max_rounds)
        rows = sorted(writer.drafts, key=lambda draft: list(writer.scenes).index(draft.group))
        text = csv_text(
            ("sentence", "intended_label", "group"), ((d.sentence, d.intended_label, d.group) for d in rows)
        )
        write_text(arguments.output, text)
        journal.add_output(arguments.output)
        record = run_record(arguments, [arguments.seed_file], client, started)
        write_json(arguments.output.with_suffix(".run.json"), record | {"missing": missing})
    finally:
        journal.close()
    print(client.usage_line())
    for line in shortfall_lines(missing, counts, writer.dropped):
        print(line)
    print(f"wrote {arguments.output}: {len(rows)} sentences in {len(writer.scenes)} scenes; {journal.path}")
    return 1 if any(missing.values()) else 0


def generate(arguments: argparse.Namespace) -> int:
    counts = requested_counts(arguments)
    seeds = read_labelled(arguments.seed_file)
    trait = rubric.find_trait(arguments.trait, arguments.definition, arguments.seed_file)
    plan = WritingPlan(
        trait, seeds, arguments.model, arguments.temperature, arguments.batch_size, arguments.seed
    )
    if arguments.dry_run:
        dry_run(plan, counts, arguments)
        return 0
    llm_client.load_environment()
    settings = llm_client.settings_from(arguments, trait)
    return asyncio.run(run(arguments, plan, counts, settings))


def main(argv: list[str] | None = None) -> int:
    arguments = parse_args(argv)
    return llm_client.exit_status(lambda: generate(arguments))


if __name__ == "__main__":
    sys.exit(main())
