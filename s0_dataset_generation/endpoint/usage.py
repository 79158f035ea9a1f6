"""What a run has asked, what came of it, and what it cost."""

from collections import Counter
from dataclasses import dataclass, field

from endpoint.settings import Prices


def listed(counter: Counter) -> str:
    """` (reason count, ...)`, the most frequent first, or nothing for an empty counter."""
    return (
        f" ({', '.join(f'{reason}: {count}' for reason, count in counter.most_common())})" if counter else ""
    )


@dataclass
class Usage:
    """Tokens include those of answers that an earlier run had already paid for."""

    prices: Prices | None = None
    requests: int = 0  # sent over the network in this run, retries included
    from_journal: int = 0  # answers that an earlier run had already paid for
    retries: Counter = field(default_factory=Counter)  # reason -> how often
    bad_answers: Counter = field(default_factory=Counter)  # problem -> how often, earlier runs included
    failed: Counter = field(default_factory=Counter)  # reason -> requests given up
    tokens_in: int = 0
    tokens_out: int = 0
    without_token_counts: int = 0

    def count_tokens(self, answer: dict) -> None:
        if answer["tokens_in"] is None:
            self.without_token_counts += 1
        else:
            self.tokens_in += answer["tokens_in"]
            self.tokens_out += answer["tokens_out"]

    def cost(self) -> float | None:
        return None if self.prices is None else self.prices.cost(self.tokens_in, self.tokens_out)

    def short(self) -> str:
        """Tokens and cost, for a progress bar."""
        cost = self.cost()
        return f"{self.tokens_in + self.tokens_out:,} tokens" + ("" if cost is None else f", cost {cost:.4f}")

    def line(self) -> str:
        parts = [
            f"{self.requests} requests sent",
            f"{self.from_journal} answers from the journal",
            f"{self.retries.total()} retries{listed(self.retries)}",
            f"{self.bad_answers.total()} answers asked again{listed(self.bad_answers)}",
            f"tokens {self.tokens_in:,} in, {self.tokens_out:,} out",
        ]
        if self.failed:
            parts.append(f"{self.failed.total()} requests given up{listed(self.failed)}")
        if self.without_token_counts:
            parts.append(f"{self.without_token_counts} answers without token counts")
        if (cost := self.cost()) is not None:
            parts.append(f"cost {cost:.4f}")
        return "; ".join(parts)

    def record(self) -> dict:
        """The part of a run's record."""
        return {
            "requests": self.requests,
            "answers_from_journal": self.from_journal,
            "retries": dict(self.retries),
            "answers_asked_again": dict(self.bad_answers),
            "requests_given_up": dict(self.failed),
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": self.cost(),
        }
