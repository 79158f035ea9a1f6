"""Seeds to a dataset: rounds of writing and judging until every label has its count."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from endpoint.llm_client import LLMClient
from sentences.drafts import Draft
from sentences.labelled_tables import LABELS, LabelledSentence
from sentences.sentence_judge import JudgingPlan, judge, median_labels
from sentences.sentence_writer import SentenceWriter, WritingPlan

LOWEST_YIELD = 0.25  # however little came of earlier rounds, ask for at most four times what is missing


@dataclass(frozen=True)
class ExpansionPlan:
    """What does not change while a run expands its seeds."""

    writing: WritingPlan
    judging: JudgingPlan
    counts: Mapping[int, int]  # label -> sentences wanted
    keep_all: bool  # also where the judge disagrees, then under the judged label
    max_rounds: int


@dataclass
class Expansion:
    """What a run has so far; `kept` and `judged` hold (draft, judged label)."""

    writer: SentenceWriter
    kept: list[tuple[Draft, int]] = field(default_factory=list)
    judged: list[tuple[Draft, int]] = field(default_factory=list)
    lost: dict[int, Counter] = field(default_factory=lambda: {label: Counter() for label in LABELS})

    def n_kept(self, label: int) -> int:
        return sum(draft.intended_label == label for draft, _ in self.kept)

    def missing(self, counts: Mapping[int, int]) -> dict[int, int]:
        return {label: count - self.n_kept(label) for label, count in counts.items()}

    def next_order(self, counts: Mapping[int, int]) -> dict[int, int]:
        """What to ask for: what is missing, divided by the share of what was asked for that has been kept."""
        wanted = {}
        for label, missing in self.missing(counts).items():
            asked = self.writer.asked[label]
            share = self.n_kept(label) / asked if asked else 1.0
            if missing > 0:
                wanted[label] = math.ceil(missing / max(share, LOWEST_YIELD))
        return wanted

    def take(self, draft: Draft, label: int | None, plan: ExpansionPlan) -> None:
        """Keep a draft that the judge labelled (None: could not), or note why it is lost."""
        intended = draft.intended_label
        if label is None:
            self.lost[intended]["no valid label from the judge"] += 1
            return
        self.judged.append((draft, label))
        if not plan.keep_all and label != intended:
            self.lost[intended]["judge disagreed"] += 1
        elif self.n_kept(intended) < plan.counts[intended]:
            self.kept.append((draft, label))


async def expand_rounds(client: LLMClient, plan: ExpansionPlan) -> Expansion:
    """Write and judge in rounds until every label has its count, a round brings nothing, or rounds are up."""
    writer = SentenceWriter(client, plan.writing)
    state = Expansion(writer)
    for number in range(1, plan.max_rounds + 1):
        wanted = state.next_order(plan.counts)
        drafts = await writer.write(wanted, number) if wanted else []
        if not drafts:
            break
        votes = await judge(client, plan.judging, [draft.sentence for draft in drafts], f"round {number}")
        for draft, label in zip(drafts, median_labels(votes)):
            state.take(draft, label, plan)
        kept = "/".join(str(state.n_kept(label)) for label in LABELS)
        print(f"round {number}: {len(drafts)} written; kept so far {kept} of intended labels 0/1/2/3")
    for label in LABELS:
        state.lost[label] += writer.dropped[label]
    return state


def merged(seeds: list[LabelledSentence], state: Expansion) -> list[LabelledSentence]:
    """Seeds first, then the kept drafts scene by scene and, within a scene, by label."""
    order = {scene: position for position, scene in enumerate(state.writer.scenes)}
    rows = sorted(state.kept, key=lambda pair: (order[pair[0].group], pair[0].intended_label))
    return seeds + [
        LabelledSentence(draft.sentence, label, draft.group, draft.register, draft.difficulty)
        for draft, label in rows
    ]
