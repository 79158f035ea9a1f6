"""Labels from a language model that is not told which label anyone intended, and how far they agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from endpoint.chat_request import Question
from endpoint.llm_client import LLMClient
from prompts.answer_forms import JUDGEMENTS
from prompts.messages import judge_messages
from prompts.rubric import Trait
from sentences.drafts import Draft
from sentences.labelled_tables import LABELS, LabelledSentence
from sklearn.metrics import cohen_kappa_score, confusion_matrix

SHOWN_DISAGREEMENTS = 5


@dataclass(frozen=True)
class JudgingPlan:
    """Who judges, against which examples, how often."""

    trait: Trait
    seeds: list[LabelledSentence]  # examples with known labels; may be empty
    model: str
    votes: int
    batch_size: int  # sentences per request
    seed: int


async def judge(client: LLMClient, plan: JudgingPlan, sentences: Sequence[str], nonce: str) -> np.ndarray:
    """Votes of the judge, float64 [n, votes] with NaN where no valid answer came.

    Each vote sees all sentences in another random order, under meaningless ids. What an answer leaves out is
    asked again in a new batch, as often as a request may be retried; a batch whose request failed that often
    already is not.
    """
    votes = np.full((len(sentences), plan.votes), np.nan)  # [n, votes]
    given_up = np.zeros(votes.shape, dtype=bool)
    for attempt in range(client.settings.max_retries + 1):
        questions, batches = [], []
        for vote in range(plan.votes):
            missing = np.flatnonzero(np.isnan(votes[:, vote]) & ~given_up[:, vote])
            order = np.random.default_rng([plan.seed, vote, attempt]).permutation(missing)
            for start in range(0, len(order), plan.batch_size):
                batch = order[start : start + plan.batch_size]
                listed = [(f"s{n:02d}", sentences[i]) for n, i in enumerate(batch, start=1)]
                messages = judge_messages(plan.trait, plan.seeds, listed)
                name = f"judge {nonce}, vote {vote}, attempt {attempt}"
                questions.append(Question(plan.model, messages, JUDGEMENTS, name, seed_offset=attempt))
                batches.append((vote, batch))
        if not questions:
            break
        replies = await client.ask_all(questions, f"{nonce}: judge", answers=1)
        for (vote, batch), reply in zip(batches, replies):
            index_of = {f"s{n:02d}": i for n, i in enumerate(batch, start=1)}
            for item in reply.items:
                index = index_of.pop(item.sentence_id, None)  # an unknown or repeated id says nothing
                if index is not None:
                    votes[index, vote] = item.label
            if reply.given_up and not reply.given_up.refused:
                given_up[batch, vote] = True
    return votes


def median_labels(votes: np.ndarray) -> list[int | None]:
    """The median of each row of votes [n, votes]; None where any vote is missing. Never a default."""
    return [None if np.isnan(row).any() else int(np.median(row)) for row in votes]


def disagreements(judged: Sequence[tuple[Draft, int]]) -> list[dict]:
    """The drafts whose judged label is not the intended one."""
    return [
        {"sentence": draft.sentence, "intended": draft.intended_label, "judged": label}
        for draft, label in judged
        if draft.intended_label not in (None, label)
    ]


def agreement(judged: Sequence[tuple[Draft, int]]) -> dict:
    """Quadratic kappa, share of equal labels, and the confusion matrix (rows intended, columns judged).

    Of the drafts with an intended label. The kappa is None where it is undefined: nothing judged, or one and
    the same label throughout.
    """
    compared = [(draft.intended_label, label) for draft, label in judged if draft.intended_label is not None]
    if not compared:
        return {"n_judged": 0, "quadratic_kappa": None, "equal": None, "confusion_intended_by_judged": None}
    intended, labels = zip(*compared)
    kappa = None
    if len({*intended, *labels}) > 1:
        kappa = round(float(cohen_kappa_score(intended, labels, labels=LABELS, weights="quadratic")), 4)
    return {
        "n_judged": len(compared),
        "quadratic_kappa": kappa,
        "equal": round(float(np.mean(np.equal(intended, labels))), 4),
        "confusion_intended_by_judged": confusion_matrix(intended, labels, labels=LABELS).tolist(),
    }


def agreement_lines(result: dict, differing: Sequence[dict]) -> list[str]:
    """The agreement as text: the figures, the confusion matrix, and the first disagreements."""
    if not result["n_judged"]:
        return ["judge against intention: nothing was judged"]
    kappa = "undefined" if result["quadratic_kappa"] is None else f"{result['quadratic_kappa']:.3f}"
    lines = [
        f"judge against intention: quadratic kappa {kappa}, {result['equal']:.1%} equal of "
        f"{result['n_judged']}",
        "  intended \\ judged " + "".join(f"{label:>6}" for label in LABELS),
    ]
    for label, row in zip(LABELS, result["confusion_intended_by_judged"]):
        lines.append(f"  {label:>17} " + "".join(f"{count:>6}" for count in row))
    for entry in differing[:SHOWN_DISAGREEMENTS]:
        lines.append(f"  intended {entry['intended']}, judged {entry['judged']}: {entry['sentence']}")
    if len(differing) > SHOWN_DISAGREEMENTS:
        lines.append(f"  and {len(differing) - SHOWN_DISAGREEMENTS} more in the .run.json")
    return lines
