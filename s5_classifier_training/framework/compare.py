"""Compares the frozen versions of experiments on their common test set."""

import argparse
import sys
from pathlib import Path

from experiments.experiment_folder import STAGE, experiments_here, resolve_experiment
from experiments.version_comparison import Comparison, compare_versions, readable_rows, write_comparison
from experiments.versions import Version, load_versions
from twins_s5.option_types import natural_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiments", nargs="*", metavar="experiment", help="experiments to put into one table"
    )
    parser.add_argument("--all", action="store_true", help="every experiment of this stage, one table each")
    options = parser.add_argument_group("comparison")
    options.add_argument(
        "--reference",
        help="version that the others are compared with: v1, v1_svm, or d3_hidden_to_concept/v1 where there "
        "are several experiments (default: the first)",
    )
    options.add_argument(
        "--allow-different-tests",
        action="store_true",
        help="compare versions with different test sets; differences then use the sentences they share",
    )
    options.add_argument("--seed", type=natural_int, default=0, help="seed of the bootstrap (default: 0)")
    options.add_argument(
        "--output",
        type=Path,
        help="path without suffix (default: comparison in the first experiment's folder)",
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.all == bool(args.experiments):
        parser.error("name one or more experiments, or give --all")
    if args.all and args.output:
        parser.error("--output belongs to one table; --all writes one per experiment")
    return args


def tables(args: argparse.Namespace) -> dict[Path, list[Version]]:
    """The versions of each table, by its path without suffix."""
    if args.all:
        found = {path / "comparison": load_versions(path) for path in experiments_here()}
        found = {stem: versions for stem, versions in found.items() if versions}
        if not found:
            raise FileNotFoundError(f"no experiment in {STAGE} has results; run train.py first")
        return found
    experiments = [resolve_experiment(name) for name in args.experiments]
    versions = [version for path in experiments for version in load_versions(path)]
    if not versions:
        raise FileNotFoundError(
            f"{experiments[0].name} has no version and no results; run train.py, then checkpoint.py"
        )
    return {args.output or experiments[0] / "comparison": versions}


def print_table(comparison: Comparison) -> None:
    rows = readable_rows(comparison)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        comparisons = {
            stem: compare_versions(versions, args.reference, args.allow_different_tests, args.seed)
            for stem, versions in tables(args).items()
        }
        for stem, comparison in comparisons.items():
            write_comparison(stem, comparison)
            if args.all:
                print(stem.parent.name)
            print_table(comparison)
            counted = f"{len(comparison.versions)} versions, Δ against {comparison.reference_label}"
            print(f"wrote {stem}.csv, .md and .png: {counted}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
