"""What explaining would ask, and about what it would cost."""

from dataclasses import dataclass

from .explanation_prompts import detection_messages, explanation_messages
from .explanation_run import ExplanationPlan, untestable

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_EXPLANATION, TOKENS_PER_DETECTION = 60, 15  # of an answer, about


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in any currency."""

    tokens_in: float
    tokens_out: float

    def cost(self, n_in: int, n_out: int) -> float:
        return (n_in * self.tokens_in + n_out * self.tokens_out) / 1e6


def prices_of(tokens_in: float | None, tokens_out: float | None) -> Prices | None:
    """The two prices, or None where none is given; ValueError for one alone."""
    if (tokens_in is None) != (tokens_out is None):
        raise ValueError("--price-in and --price-out go together: give both or neither")
    return None if tokens_in is None else Prices(tokens_in, tokens_out)


def estimate(plan: ExplanationPlan, prices: Prices | None) -> str:
    """The questions about the first feature, and the sum of requests, tokens and cost of all."""
    questions, tokens_out = [], 0
    stand_in = "(the explanation from the first answer)"
    for evidence in plan.evidence:
        batches = [] if untestable(evidence) else plan.batches(evidence)
        questions.append(
            [explanation_messages(evidence), *(detection_messages(stand_in, batch) for batch in batches)]
        )
        tokens_out += TOKENS_PER_EXPLANATION + TOKENS_PER_DETECTION * sum(map(len, batches))
    shown = [message for question in questions[:1] for message in question[:2]]
    flat = [question for of_feature in questions for question in of_feature]
    tokens_in = sum(len(part["content"]) for question in flat for part in question) // CHARACTERS_PER_TOKEN
    cost = "" if prices is None else f", cost about {prices.cost(tokens_in, tokens_out):.4f}"
    lines = [f"<{part['role']}>\n{part['content']}\n" for question in shown for part in question]
    return "\n".join(
        [
            *lines,
            f"dry run, nothing sent: {len(plan.evidence)} features, {len(flat)} requests such as these, "
            f"about {tokens_in:,} tokens in, {tokens_out:,} out{cost}, before retries and reasoning tokens",
        ]
    )
