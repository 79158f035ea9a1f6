"""Write sentences of each label with a language model: scenes first, then a sentence per scene and label."""

import argparse
import sys

from command_line.dry_run import print_estimate, writing_steps
from command_line.exit_status import exit_status
from command_line.options import (
    add_endpoint_arguments,
    add_output_arguments,
    add_trait_arguments,
    add_writing_arguments,
    requested_counts,
)
from command_line.run_record import RunRecord
from endpoint.answer_journal import open_journal
from endpoint.llm_client import ask
from endpoint.settings import prices_from, settings_from
from prompts.rubric import find_trait
from sentences.drafts import drafts_text
from sentences.labelled_tables import read_labelled
from sentences.sentence_writer import WritingPlan, shortfall_lines, write_all
from twins_s0.atomic_files import write_text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_trait_arguments(parser)
    add_writing_arguments(parser)
    add_endpoint_arguments(parser, judge=False)
    add_output_arguments(parser, "CSV to write: sentence,intended_label,group")
    return parser


def generate(arguments: argparse.Namespace) -> int:
    counts = requested_counts(arguments)
    seeds = read_labelled(arguments.seed_file)
    trait = find_trait(arguments.trait, arguments.definition, arguments.seed_file)
    plan = WritingPlan(
        trait, seeds, arguments.model, arguments.temperature, arguments.batch_size, arguments.seed
    )
    output = arguments.output
    if arguments.dry_run:
        print_estimate(writing_steps(plan, counts), prices_from(arguments))
        return 0
    settings = settings_from(arguments, trait)
    record = RunRecord.begin(arguments, trait, [arguments.seed_file])
    with open_journal(output, trait.name, arguments.overwrite) as journal:
        (writer, missing), usage = ask(
            settings, journal, lambda client: write_all(client, plan, counts, arguments.max_rounds)
        )
        drafts = writer.drafts_by_scene()
        write_text(output, drafts_text(drafts))
        journal.add_output(output)
        record.write(output, {"missing": missing}, usage, settings.url)
    print(usage.line())
    for line in shortfall_lines(missing, counts, writer.dropped):
        print(line)
    print(f"wrote {output}: {len(drafts)} sentences in {len(writer.scenes)} scenes; {journal.path}")
    return 1 if any(missing.values()) else 0


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: generate(arguments))


if __name__ == "__main__":
    sys.exit(main())
