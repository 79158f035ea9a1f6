"""Repeats the grid of the original study: logistic regression and an RBF SVM at five depths and two sizes."""

import argparse
import sys
from pathlib import Path

from emergence_curves.published_grid import as_markdown, load_for_grid, run_grid
from experiments.experiment_folder import STAGE
from models.fitting import warnings_as_lines
from threadpoolctl import threadpool_limits
from twins_s5.atomic_files import write_atomically, write_text
from twins_s5.option_types import natural_int, positive_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "dataset", type=Path, help="NPZ of stage 4: hidden-to-concept --layers all, final token"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=STAGE / "emergence" / "study",
        help="path without suffix for .csv and .md",
    )
    parser.add_argument(
        "--draws", type=positive_int, default=10, help="draws of 100 sentences to average over (default: 10)"
    )
    parser.add_argument("--seed", type=natural_int, default=0, help="seed of draws and folds (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        dataset = load_for_grid(args.dataset)
        with threadpool_limits(1), warnings_as_lines():
            table = run_grid(dataset, args.draws, args.seed)
        text = as_markdown(table, dataset)
        write_atomically(Path(f"{args.output}.csv"), lambda path: table.to_csv(path, index=False))
        write_text(Path(f"{args.output}.md"), text)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    print(f"wrote {args.output}.csv and .md: {len(table)} cells")
    return 0


if __name__ == "__main__":
    sys.exit(main())
