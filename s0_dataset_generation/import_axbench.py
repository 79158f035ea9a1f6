"""Make a test set of one concept of AxBench (data.parquet of Concept10, Concept500, Concept16K)."""

import argparse
import sys
from pathlib import Path

from command_line.exit_status import exit_status
from command_line.options import add_output_arguments, refuse_existing
from command_line.run_record import RunRecord
from human_text.axbench_outputs import axbench_test_set
from human_text.test_sets import write_test_set
from prompts.rubric import Trait
from twins_s0.option_types import natural_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("texts")
    group.add_argument("--input", type=Path, required=True, help="data.parquet of AxBench")
    group.add_argument("--concept", required=True, help="the concept, as in the column output_concept")
    group.add_argument(
        "--seed", type=natural_int, default=0, help="seed of the choice of texts (default: %(default)s)"
    )
    add_output_arguments(parser, "test set to write, e.g. human_data/apologies.csv", dry_run=False)
    return parser


def import_axbench(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.output, arguments.overwrite)
    rows = axbench_test_set(arguments.input, arguments.concept, arguments.seed)
    record = RunRecord.begin(arguments, Trait(arguments.concept, arguments.concept), [arguments.input])
    write_test_set(arguments.output, rows, record)
    return 0


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: import_axbench(arguments))


if __name__ == "__main__":
    sys.exit(main())
