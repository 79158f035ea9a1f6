"""Make a test set of Anthropic's persona evaluations (persona/*.jsonl of model-written-evals)."""

import argparse
import sys
from pathlib import Path

from command_line.exit_status import exit_status
from command_line.options import add_output_arguments, refuse_existing
from command_line.run_record import RunRecord
from human_text.persona_statements import persona_test_set
from human_text.test_sets import write_test_set
from prompts.rubric import Trait
from twins_s0.option_types import natural_int, share


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_argument_group("statements")
    group.add_argument("--input", type=Path, required=True, help="<behaviour>.jsonl whose statements show it")
    group.add_argument(
        "--unrelated",
        type=Path,
        nargs="+",
        required=True,
        help="<behaviour>.jsonl of behaviours that have nothing to do with it: label 0",
    )
    group.add_argument(
        "--min-confidence",
        type=share,
        default=0.0,
        help="leave out statements whose label_confidence is lower (default: %(default)s)",
    )
    group.add_argument(
        "--with-opposite",
        action="store_true",
        help="take statements that someone with the behaviour rejects into the test set, as label 1",
    )
    group.add_argument(
        "--seed", type=natural_int, default=0, help="seed of the choice of statements (default: %(default)s)"
    )
    add_output_arguments(parser, "test set to write, e.g. human_data/agreeableness.csv", dry_run=False)
    return parser


def import_persona(arguments: argparse.Namespace) -> int:
    refuse_existing(arguments.output, arguments.overwrite)
    behaviour, others = arguments.input, arguments.unrelated
    if behaviour in others:
        raise ValueError(f"--unrelated {behaviour}: also the --input; give other behaviours")
    rows = persona_test_set(
        behaviour, others, arguments.min_confidence, arguments.seed, arguments.with_opposite
    )
    trait = Trait(behaviour.stem, f"the behaviour of the statements of {behaviour.name}")
    record = RunRecord.begin(arguments, trait, [behaviour, *others])
    write_test_set(arguments.output, rows, record)
    return 0


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: import_persona(arguments))


if __name__ == "__main__":
    sys.exit(main())
