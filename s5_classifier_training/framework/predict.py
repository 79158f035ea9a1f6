"""Applies a trained version to other sentences, and measures it there where they have labels."""

import argparse
import sys
import time
from pathlib import Path

from experiments.experiment_dataset import load_sentences
from experiments.experiment_folder import LIBRARIES, resolve_experiment
from new_sentences.frozen_probe import load_probe
from new_sentences.measured_predictions import measure_probe
from new_sentences.prediction_files import describe, said, write_predictions
from threadpoolctl import threadpool_limits
from twins_s5.provenance import library_versions, plain_arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="experiment folder, e.g. d3_hidden_to_concept")
    parser.add_argument("version", help="v1, its full name, or working")
    parser.add_argument(
        "--dataset",
        type=Path,
        required=True,
        help="NPZ of stage 4 with the inputs that the version was trained on, of other sentences; labels are "
        "optional",
    )
    return parser


def predict(args: argparse.Namespace) -> None:
    """Predict, measure, and replace the files of this version and dataset."""
    started = time.monotonic()
    probe = load_probe(resolve_experiment(args.experiment), args.version)
    new = load_sentences(args.dataset)
    with threadpool_limits(1):
        results = measure_probe(probe, new)
    record = {
        "arguments": plain_arguments(args),
        "seed": probe.config.seed,
        "libraries": library_versions(*LIBRARIES),
        "seconds": round(time.monotonic() - started, 2),
    }
    table, figures = write_predictions(probe, new, results, record)
    for note in said(results):
        print(f"note: {note}", file=sys.stderr)
    for line in describe(probe, results):
        print(line)
    print(f"wrote {table} and {figures.name}")


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        predict(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
