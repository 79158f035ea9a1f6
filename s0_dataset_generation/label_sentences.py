"""Label sentences 0 to 3 with a language model that is not told which label anyone intended."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from command_line.dry_run import judging_step, print_estimate
from command_line.exit_status import exit_status
from command_line.options import (
    add_endpoint_arguments,
    add_judging_arguments,
    add_output_arguments,
    add_trait_arguments,
)
from command_line.run_record import RunRecord
from endpoint.answer_journal import open_journal
from endpoint.llm_client import ask
from endpoint.settings import prices_from, settings_from
from prompts.rubric import find_trait
from sentences.drafts import judged_text, read_drafts
from sentences.labelled_tables import LABELS, read_labelled
from sentences.sentence_judge import (
    JudgingPlan,
    agreement,
    agreement_lines,
    disagreements,
    judge,
    median_labels,
)
from twins_s0.atomic_files import write_text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_trait_arguments(parser)
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
    add_endpoint_arguments(parser, judge=True, generator=False)
    add_output_arguments(parser, "CSV to write: sentence,concept_strength_label,group, …")
    return parser


def label(arguments: argparse.Namespace) -> int:
    drafts = read_drafts(arguments.input)
    sentences = [draft.sentence for draft in drafts]
    seeds = read_labelled(arguments.seed_file) if arguments.seed_file else []
    trait = find_trait(arguments.trait, arguments.definition, arguments.seed_file)
    plan = JudgingPlan(
        trait, seeds, arguments.judge_model, arguments.judge_votes, arguments.judge_batch_size, arguments.seed
    )
    output = arguments.output
    if arguments.dry_run:
        print_estimate([judging_step(plan, sentences)], prices_from(arguments))
        return 0
    settings = settings_from(arguments, trait)
    inputs = [arguments.input, *([arguments.seed_file] if arguments.seed_file else [])]
    record = RunRecord.begin(arguments, trait, inputs)
    with open_journal(output, trait.name, arguments.overwrite) as journal:
        votes, usage = ask(settings, journal, lambda client: judge(client, plan, sentences, "sentences"))
        labels = median_labels(votes)
        judged = [(draft, label) for draft, label in zip(drafts, labels) if label is not None]
        kept = [
            pair for pair in judged if arguments.keep == "all" or pair[0].intended_label in (None, pair[1])
        ]
        write_text(output, judged_text(kept))
        journal.add_output(output)
        differing = disagreements(judged)
        result = agreement(judged)
        unlabelled = [sentence for sentence, label in zip(sentences, labels) if label is None]
        results = {"agreement": result, "disagreements": differing, "unlabelled": unlabelled}
        record.write(output, results, usage, settings.url)
    print(usage.line())
    if result["n_judged"]:
        print("\n".join(agreement_lines(result, differing)))
    for sentence in unlabelled:
        print(f"not labelled, no valid answer: {sentence}")
    counts = Counter(label for _, label in kept)
    print(
        f"wrote {output}: {len(kept)} of {len(drafts)} sentences, "
        f"{'/'.join(str(counts[label]) for label in LABELS)} of labels 0/1/2/3; {journal.path}"
    )
    return 1 if unlabelled else 0


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: label(arguments))


if __name__ == "__main__":
    sys.exit(main())
