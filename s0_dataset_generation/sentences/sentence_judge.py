"""Label sentences 0 to 3 with a language model that is not told which label anyone intended."""

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
from generate_sentences import print_estimate, run_record
from llm_client import LLMClient, Question, Settings, open_journal
from rubric import JUDGEMENTS, Trait
from sentence_tables import (
    LABELS,
    LabelledSentence,
    csv_text,
    parse_label,
    read_labelled,
    read_rows,
    write_json,
    write_text,
)
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
    asked again in a new batch, as often as a request may be retried.
    """
    votes = np.full((len(sentences), plan.votes), np.nan)  # [n, votes]
    for attempt in range(client.settings.max_retries + 1):
        questions, batches = [], []
        for vote in range(plan.votes):
            missing = np.flatnonzero(np.isnan(votes[:, vote]))
            order = np.random.default_rng([plan.seed, vote, attempt]).permutation(missing)
            for start in range(0, len(order), plan.batch_size):
                batch = order[start : start + plan.batch_size]
                listed = [(f"s{n:02d}", sentences[i]) for n, i in enumerate(batch, start=1)]
                messages = rubric.judge_messages(plan.trait, plan.seeds, listed)
                name = f"judge {nonce}, vote {vote}, attempt {attempt}"
                questions.append(Question(plan.model, messages, JUDGEMENTS, name))
                batches.append((vote, batch))
        if not questions:
            break
        answers = await client.ask_all(questions, f"{nonce}: judge")
        for (vote, batch), items in zip(batches, answers):
            index_of = {f"s{n:02d}": i for n, i in enumerate(batch, start=1)}
            for item in items:
                index = index_of.pop(item.sentence_id, None)  # an unknown or repeated id says nothing
                if index is not None:
                    votes[index, vote] = item.label
    return votes


def median_labels(votes: np.ndarray) -> list[int | None]:
    """The median of each row of votes [n, votes]; None where any vote is missing. Never a default."""
    return [None if np.isnan(row).any() else int(np.median(row)) for row in votes]


def agreement(intended: Sequence[int], judged: Sequence[int]) -> dict:
    """Quadratic kappa, share of equal labels, and the confusion matrix (rows intended, columns judged).

    The kappa is None where it is undefined: nothing judged, or one and the same label throughout.
    """
    if not len(intended):
        return {"n_judged": 0, "quadratic_kappa": None, "equal": None, "confusion_intended_by_judged": None}
    kappa = None
    if len({*intended, *judged}) > 1:
        kappa = round(float(cohen_kappa_score(intended, judged, labels=LABELS, weights="quadratic")), 4)
    return {
        "n_judged": len(intended),
        "quadratic_kappa": kappa,
        "equal": round(float(np.mean(np.equal(intended, judged))), 4),
        "confusion_intended_by_judged": confusion_matrix(intended, judged, labels=LABELS).tolist(),
    }


def agreement_lines(result: dict, disagreements: Sequence[dict]) -> list[str]:
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
    for entry in disagreements[:SHOWN_DISAGREEMENTS]:
        lines.append(f"  intended {entry['intended']}, judged {entry['judged']}: {entry['sentence']}")
    if len(disagreements) > SHOWN_DISAGREEMENTS:
        lines.append(f"  and {len(disagreements) - SHOWN_DISAGREEMENTS} more in the .run.json")
    return lines


def add_judging_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--judge-votes",
        type=int,
        default=1,
        help="labels asked for each sentence, an odd number; their median counts (default: %(default)s)",
    )
    group.add_argument(
        "--judge-batch-size", type=int, default=20, help="sentences judged per request (default: %(default)s)"
    )
    group.add_argument(
        "--keep",
        choices=("agree", "all"),
        default="agree",
        help="agree: rows whose judged label is the intended one; all: every row, with the judged label "
        "(default: %(default)s)",
    )


def check_judging(arguments: argparse.Namespace) -> None:
    """Raises ValueError naming the option for an even or absent number of votes, or an empty batch."""
    if arguments.judge_votes < 1 or arguments.judge_votes % 2 == 0:
        raise ValueError(
            f"--judge-votes {arguments.judge_votes}: expected an odd number, so that the median is a label"
        )
    if arguments.judge_batch_size < 1:
        raise ValueError(f"--judge-batch-size {arguments.judge_batch_size}: expected 1 or more")


@dataclass(frozen=True)
class Unlabelled:
    sentence: str
    group: str
    intended: int | None


def read_unlabelled(path: Path) -> list[Unlabelled]:
    """Sentences to label; `intended_label` and `group` are taken over where the columns exist.

    Raises ValueError for an empty or repeated sentence, or an intended label other than 0 to 3.
    """
    rows = []
    first_line: dict[str, int] = {}
    for line, fields in read_rows(path, ("sentence",)):
        sentence = " ".join(fields["sentence"].split())
        if not sentence:
            raise ValueError(f"{path}, line {line}: empty sentence; delete the row or write a sentence")
        if sentence in first_line:
            raise ValueError(
                f"{path}, line {line}: the same sentence as line {first_line[sentence]}; delete one"
            )
        first_line[sentence] = line
        intended = fields.get("intended_label", "").strip()
        rows.append(
            Unlabelled(
                sentence,
                fields.get("group", "").strip() or f"row-{line}",
                parse_label(intended, f"{path}, line {line}") if intended else None,
            )
        )
    return rows


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    rubric.add_trait_arguments(parser)
    group = parser.add_argument_group("sentences")
    group.add_argument(
        "--input",
        type=Path,
        required=True,
        help="CSV with the column sentence, and where known intended_label and group",
    )
    group.add_argument(
        "--seed-file",
        type=Path,
        help="CSV of labelled sentences shown to the judge as examples (default: none)",
    )
    add_judging_arguments(parser)
    llm_client.add_endpoint_arguments(parser, judge=True, generator=False)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, required=True, help="CSV to write: sentence,concept_strength_label,group, …"
    )
    group.add_argument("--overwrite", action="store_true", help="replace an output that another run wrote")
    group.add_argument("--dry-run", action="store_true", help="print a prompt and an estimate, ask nothing")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


async def run(
    arguments: argparse.Namespace, plan: JudgingPlan, rows: list[Unlabelled], settings: Settings
) -> int:
    started = time.monotonic()
    journal = open_journal(arguments.output, plan.trait.name, arguments.overwrite)
    try:
        async with LLMClient(settings, journal) as client:
            votes = await judge(client, plan, [row.sentence for row in rows], "sentences")
        labels = median_labels(votes)
        judged = [(row, label) for row, label in zip(rows, labels) if label is not None]
        compared = [(row, label) for row, label in judged if row.intended is not None]
        disagreements = [
            {"sentence": row.sentence, "intended": row.intended, "judged": label}
            for row, label in compared
            if label != row.intended
        ]
        keep_all = arguments.keep == "all"
        kept = [
            (row.sentence, label, row.group, "" if row.intended is None else row.intended)
            for row, label in judged
            if keep_all or row.intended in (None, label)
        ]
        header = ("sentence", "concept_strength_label", "group", "intended_label")
        write_text(arguments.output, csv_text(header, kept))
        journal.add_output(arguments.output)
        unlabelled = [row.sentence for row, label in zip(rows, labels) if label is None]
        result = agreement([row.intended for row, _ in compared], [label for _, label in compared])
        record = run_record(arguments, [arguments.input], client, started)
        record |= {"agreement": result, "disagreements": disagreements, "unlabelled": unlabelled}
        write_json(arguments.output.with_suffix(".run.json"), record)
    finally:
        journal.close()
    print(client.usage_line())
    if compared:
        print("\n".join(agreement_lines(result, disagreements)))
    for sentence in unlabelled:
        print(f"not labelled, no valid answer: {sentence}")
    counts = Counter(label for _, label, *_ in kept)
    print(
        f"wrote {arguments.output}: {len(kept)} of {len(rows)} sentences, "
        f"{'/'.join(str(counts[label]) for label in LABELS)} of labels 0/1/2/3; {journal.path}"
    )
    return 1 if unlabelled else 0


def label(arguments: argparse.Namespace) -> int:
    check_judging(arguments)
    rows = read_unlabelled(arguments.input)
    seeds = read_labelled(arguments.seed_file) if arguments.seed_file else []
    trait = rubric.find_trait(arguments.trait, arguments.definition, arguments.seed_file)
    plan = JudgingPlan(
        trait, seeds, arguments.judge_model, arguments.judge_votes, arguments.judge_batch_size, arguments.seed
    )
    if arguments.dry_run:
        shown = [(f"s{n:02d}", row.sentence) for n, row in enumerate(rows[: plan.batch_size], start=1)]
        n_requests = plan.votes * -(-len(rows) // plan.batch_size)
        messages = rubric.judge_messages(trait, seeds, shown)
        steps = [("judge", messages, n_requests, 15 * len(rows) * plan.votes)]
        print_estimate(steps, arguments.price_in, arguments.price_out)
        return 0
    llm_client.load_environment()
    settings = llm_client.settings_from(arguments, trait)
    return asyncio.run(run(arguments, plan, rows, settings))


def main(argv: list[str] | None = None) -> int:
    arguments = parse_args(argv)
    return llm_client.exit_status(lambda: label(arguments))


if __name__ == "__main__":
    sys.exit(main())
