"""Steer the model along a few features, and measure whether it moves towards the trait, beside nulls.

Adds α times a feature's largest activation times its decoder row after the feature's layer, and measures how
the likelihood of held-out sentences changes by label, what neutral text loses, and what the model then
writes.
"""

import argparse
import sys
from pathlib import Path

from extraction.run_options import add_compute_options, add_source_options
from finite_steering.steering_plan import ALPHAS, alpha_list, make_steering_plan
from finite_steering.steering_run import run_steering
from hub.failures import network_forbidden
from twins_s1.option_types import natural_int, positive_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = parser.add_argument_group("files")
    files.add_argument(
        "--features",
        type=Path,
        required=True,
        help="CSV with layer,average_l0,feature_id, such as s2's ranking",
    )
    files.add_argument("--input", type=Path, required=True, help="feature folder that they were found in")
    files.add_argument("--output", type=Path, help="folder to write (default: ./<trait>_steering)")
    files.add_argument(
        "--split",
        type=Path,
        help="s2's split.csv, to measure on held-out sentences (default: beside --features)",
    )
    files.add_argument(
        "--overwrite", action="store_true", help="start anew in a folder made with other inputs"
    )
    measured = parser.add_argument_group("what is measured")
    measured.add_argument("--top-n", type=positive_int, default=10, help="rows of --features (default: 10)")
    measured.add_argument(
        "--alphas",
        type=alpha_list,
        default=ALPHAS,
        metavar="LIST",
        help="doses, in units of a feature's largest activation (default: -2,-1,-0.5,0.5,1,2)",
    )
    measured.add_argument(
        "--max-sentences", type=positive_int, default=20, help="sentences of each label (default: 20)"
    )
    measured.add_argument(
        "--nulls",
        type=positive_int,
        default=20,
        help="null features, and Gaussian directions, an SAE (default: 20)",
    )
    measured.add_argument(
        "--neutral",
        type=Path,
        nargs="+",
        help="labelled CSVs whose label 0 is neutral text, or .txt of lines (default: the other CSVs beside "
        "the folder's input)",
    )
    measured.add_argument(
        "--words",
        type=positive_int,
        default=32768,
        help="words of the vocabulary in the normaliser, the likely ones and some that stand for the others; "
        "as many as there are: exact, and as much slower (default: 32768)",
    )
    measured.add_argument(
        "--bootstrap", type=positive_int, default=1000, help="resamples of the intervals (default: 1000)"
    )
    measured.add_argument(
        "--seed", type=natural_int, default=0, help="of sentences, nulls, bootstrap, sampling (default: 0)"
    )
    writing = parser.add_argument_group("continuations")
    writing.add_argument("--prompts", type=Path, help="text file, an opening a line (default: built-in ones)")
    writing.add_argument(
        "--continuation-tokens", type=positive_int, default=24, help="tokens to write (default: 24)"
    )
    judge = parser.add_argument_group("judge", "The key is read from OPENAI_API_KEY, or from .env.")
    judge.add_argument(
        "--judge",
        metavar="MODEL",
        help="model that rates the continuations, at an OpenAI-compatible endpoint (default: none does)",
    )
    judge.add_argument(
        "--concept", metavar="TEXT", help="what it looks for, in a few words (default: the trait's name)"
    )
    judge.add_argument(
        "--judge-instructions",
        action="store_true",
        help="the openings are instructions: rate also whether continuations keep to them",
    )
    judge.add_argument(
        "--base-url",
        metavar="URL",
        help="of the endpoint, as http://localhost:8000/v1 (default: OPENAI_BASE_URL, then OpenAI's own)",
    )
    add_source_options(parser, chooses_layers=False)
    add_compute_options(parser, encodes=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with network_forbidden(args.local_files_only):
            print(run_steering(make_steering_plan(args)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
