"""What a run would ask, and about what it would cost, without asking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from endpoint.settings import Prices
from prompts.messages import judge_messages, scene_messages, sentence_messages
from prompts.scene_plan import SETTINGS, Slot
from sentences.sentence_judge import JudgingPlan
from sentences.sentence_writer import SCENES_PER_REQUEST, SETTINGS_PER_REQUEST, WritingPlan

TOKENS_PER_SCENE, TOKENS_PER_SENTENCE, TOKENS_PER_JUDGEMENT = 45, 50, 15  # of an answer, about
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Step:
    """Requests of one kind: what one looks like, how many there are, and the tokens of all their answers."""

    name: str
    messages: list[dict[str, str]]
    requests: int
    tokens_out: int


def n_batches(items: int, size: int) -> int:
    return -(-items // size)


def writing_steps(plan: WritingPlan, counts: Mapping[int, int]) -> list[Step]:
    """The scenes for all labels, and the sentences: shown are those of the strongest label."""
    label, n_scenes, n_sentences = max(counts), max(counts.values()), sum(counts.values())
    scene = "(a scene from the first step)"
    n_slots = min(plan.batch_size, counts[label])
    slots = [Slot.of_scene(n, f"scene-{n}", scene, label) for n in range(n_slots)]
    n_requests = sum(n_batches(count, plan.batch_size) for count in counts.values())
    return [
        Step(
            "scenes",
            scene_messages(plan.trait, SETTINGS[:SETTINGS_PER_REQUEST], SCENES_PER_REQUEST),
            n_batches(n_scenes, SCENES_PER_REQUEST),
            TOKENS_PER_SCENE * n_scenes,
        ),
        Step(
            "sentences",
            sentence_messages(plan.trait, plan.seeds, slots, []),
            n_requests,
            TOKENS_PER_SENTENCE * n_sentences,
        ),
    ]


def judging_step(plan: JudgingPlan, sentences: Sequence[str]) -> Step:
    shown = [(f"s{n:02d}", sentence) for n, sentence in enumerate(sentences[: plan.batch_size], start=1)]
    return Step(
        "judge",
        judge_messages(plan.trait, plan.seeds, shown),
        plan.votes * n_batches(len(sentences), plan.batch_size),
        TOKENS_PER_JUDGEMENT * len(sentences) * plan.votes,
    )


def print_estimate(steps: Sequence[Step], prices: Prices | None) -> None:
    """Print the prompt and number of requests of each step, and the sum of requests, tokens and cost."""
    for step in steps:
        print(f"[{step.name}: {step.requests} requests such as this]")
        for message in step.messages:
            print(f"<{message['role']}>\n{message['content']}\n")
    tokens_in = sum(
        step.requests * sum(len(message["content"]) for message in step.messages) // CHARACTERS_PER_TOKEN
        for step in steps
    )
    tokens_out = sum(step.tokens_out for step in steps)
    cost = "" if prices is None else f", cost about {prices.cost(tokens_in, tokens_out):.2f}"
    print(
        f"dry run, nothing sent: about {sum(step.requests for step in steps)} requests, {tokens_in:,} tokens "
        f"in, {tokens_out:,} out{cost}, before retries, rejected sentences and reasoning tokens"
    )
