"""Run sentences, labelled or not, through a language model and every residual-stream SAE of it, once.

Phase 1 takes the residual stream after all blocks in one forward pass per padded batch; phase 2 loads
each SAE once and encodes all tokens. A file that exists under its final name is complete, so the same
command started again goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from extraction.extraction import extract
from extraction.extraction_plan import Plan
from extraction.run_options import (
    add_compute_options,
    add_effect_options,
    add_source_options,
    make_plan,
    with_default_output,
)
from extraction.run_record import Laps
from extraction.workers import SharedError, Workers
from hub.failures import network_forbidden


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input",
        type=Path,
        required=True,
        help="CSV with columns sentence,concept_strength_label (the labels may be missing), or .txt with one "
        "sentence a line",
    )
    files.add_argument(
        "--output", type=Path, help="folder to write (default: ./<name of the input>_features)"
    )
    files.add_argument(
        "--overwrite", action="store_true", help="start anew in a folder made with other inputs"
    )
    files.add_argument(
        "--discard-residual-stream",
        action="store_true",
        help="delete the float32 residual stream at the end; adding SAEs later repeats the forward pass",
    )
    add_source_options(parser)
    add_compute_options(parser)
    add_effect_options(parser)
    return parser


def read_inputs(args: argparse.Namespace, workers: Workers) -> Plan:
    """Return the plan with all inputs read but the weights.

    Raises:
        ValueError, FileNotFoundError: an input is missing or wrong; the message says which and why.
    """
    with workers.together():
        plan = workers.first_then_others(lambda: make_plan(args, workers.local_rank, args.overwrite))
        plan.compute.prepare()
        workers.first_then_others(lambda: plan.config)
        plan.require_layers()
        if workers.is_first and not plan.model.is_folder and plan.configurations.model != plan.model.name:
            print(
                f"note: {plan.configurations.file} is for {plan.configurations.model}, "
                f"the model is {plan.model.name}",
                file=sys.stderr,
            )
        if workers.is_first and plan.sentences.note:
            print(f"note: {plan.sentences.note}", file=sys.stderr)
        _ = plan.tokenized  # a sentence that does not fit is found here
    return plan


def main(argv: list[str] | None = None) -> int:
    args = with_default_output(build_parser().parse_args(argv))
    workers, laps = Workers.from_environment(), Laps()
    try:
        with network_forbidden(args.local_files_only):
            plan = read_inputs(args, workers)
            closing_line = extract(
                plan, workers, laps, overwrite=args.overwrite, discard=args.discard_residual_stream
            )
    except SharedError as error:
        if error.is_mine:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on in {args.output}", file=sys.stderr)
        return 130
    if workers.is_first:
        print(closing_line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
