"""Turn seed sentences into a labelled dataset: write, judge, merge with the seeds, audit."""

import argparse
import os
import sys
from pathlib import Path

from audit.audit_files import summary, write_audit
from command_line.dry_run import judging_step, print_estimate, writing_steps
from command_line.exit_status import exit_status
from command_line.options import (
    add_endpoint_arguments,
    add_judging_arguments,
    add_output_arguments,
    add_trait_arguments,
    add_writing_arguments,
    requested_counts,
)
from command_line.run_record import RunRecord
from endpoint.answer_journal import open_journal
from endpoint.llm_client import ask
from endpoint.settings import STAGE, prices_from, settings_from
from prompts.rubric import find_trait, slug
from sentences.expansion import ExpansionPlan, expand_rounds, merged
from sentences.labelled_tables import labelled_text, read_labelled
from sentences.sentence_judge import JudgingPlan, agreement, agreement_lines, disagreements
from sentences.sentence_writer import WritingPlan, shortfall_lines
from twins_s0.atomic_files import write_text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_trait_arguments(parser)
    add_writing_arguments(parser)
    add_judging_arguments(parser)
    add_endpoint_arguments(parser, judge=True)
    add_output_arguments(
        parser, "CSV to write (default: expanded_data/<trait>.csv in this folder)", required=False
    )
    return parser


def plan_from(arguments: argparse.Namespace) -> ExpansionPlan:
    counts = requested_counts(arguments)
    seeds = read_labelled(arguments.seed_file)
    trait = find_trait(arguments.trait, arguments.definition, arguments.seed_file)
    writing = WritingPlan(
        trait, seeds, arguments.model, arguments.temperature, arguments.batch_size, arguments.seed
    )
    judging = JudgingPlan(
        trait,
        seeds,
        arguments.judge_model or arguments.model,
        arguments.judge_votes,
        arguments.judge_batch_size,
        arguments.seed,
    )
    return ExpansionPlan(writing, judging, counts, arguments.keep == "all", arguments.max_rounds)


def expand(arguments: argparse.Namespace) -> int:
    plan = plan_from(arguments)
    trait = plan.writing.trait
    if arguments.output is None:
        folder = Path(os.path.relpath(STAGE / "expanded_data"))
        arguments.output = folder / f"{slug(trait.name)}.csv"
    output = arguments.output
    if arguments.dry_run:
        sentences = ["(a sentence from the second step)"] * sum(plan.counts.values())
        steps = [*writing_steps(plan.writing, plan.counts), judging_step(plan.judging, sentences)]
        print_estimate(steps, prices_from(arguments))
        return 0
    settings = settings_from(arguments, trait)
    record = RunRecord.begin(arguments, trait, [arguments.seed_file])
    with open_journal(output, trait.name, arguments.overwrite) as journal:
        state, usage = ask(settings, journal, lambda client: expand_rounds(client, plan))
        table = merged(plan.writing.seeds, state)
        write_text(output, labelled_text(table))
        journal.add_output(output)
        missing = state.missing(plan.counts)
        differing = disagreements(state.judged)
        result = agreement(state.judged)
        results = {
            "missing": missing,
            "not_kept": {label: dict(lost) for label, lost in state.lost.items()},
            "agreement": result,
            "disagreements": differing,
        }
        record.write(output, results, usage, settings.url)
    print(usage.line())
    print("\n".join(agreement_lines(result, differing)))
    print(summary(write_audit(table, output, output.parent)))
    for line in shortfall_lines(missing, plan.counts, state.lost):
        print(line)
    print(
        f"wrote {output}: {len(table)} sentences ({len(plan.writing.seeds)} seeds, {len(state.kept)} new), "
        f"with .audit.json, .audit.png, .run.json and .journal.jsonl beside it"
    )
    return 1 if any(missing.values()) else 0


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: expand(arguments))


if __name__ == "__main__":
    sys.exit(main())
