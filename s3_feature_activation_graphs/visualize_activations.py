"""Draws how SAE features switch on over the tokens of sentences: one picture per sentence, overviews, a page.

Reads what s2 found (`--s2-results`) and what s1 computed (`--s1-data`).
"""

import argparse
import os
import sys
import time
from pathlib import Path

import matplotlib
from drawing_inputs.drawn_run import load_run
from drawing_inputs.option_values import (
    MAX_FEATURES,
    DefaultsHelpFormatter,
    feature_list,
    figure_size,
    label_list,
)
from drawing_inputs.quoted_pages import read_quoted_pages
from drawing_inputs.sentence_choice import choose_sentences
from drawings.overview_figures import write_overviews
from drawings.sentence_drawing import draw_sentences
from drawings.sentence_style import SentenceStyle
from drawings.trajectory_page import build_page
from drawings.typography import fonts_for
from trajectories.overviews import compute_overviews
from trajectories.positions import peak_values
from trajectory_files.run_record import open_output, write_run_record
from trajectory_files.saved_data import save_data
from trajectory_files.summary_files import write_summary
from twins_s3.atomic_files import write_text
from twins_s3.option_types import whole_number
from twins_s3.provenance import plain_arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=DefaultsHelpFormatter)
    files = parser.add_argument_group("input and output")
    files.add_argument("--s1-data", type=Path, required=True, help="folder written by s1 (<trait>_features)")
    files.add_argument(
        "--s2-results", type=Path, help="folder written by s2; may be left out when --features is given"
    )
    files.add_argument(
        "--frozen",
        action="store_true",
        help="take the features of --s2-results as they are to other sentences, labelled or not",
    )
    files.add_argument("--output", type=Path, default=Path("plots"), help="folder for the figures")
    files.add_argument(
        "--save-data", action="store_true", help="also write the arrays behind the figures to OUTPUT/data"
    )

    choice = parser.add_argument_group("what is drawn")
    choice.add_argument(
        "--top-n", type=whole_number(1, MAX_FEATURES), default=10, help="number of features, best first"
    )
    choice.add_argument("--features", type=feature_list, help="these features instead, as layer:l0:id,…")
    choice.add_argument(
        "--labels", type=label_list, default="0,1,2,3", help="labels of the sentences drawn, as 2,3"
    )
    choice.add_argument(
        "--max-sentences",
        type=whole_number(1),
        help="most sentences drawn, taken from each label in turn (default: all)",
    )
    choice.add_argument(
        "--sort",
        choices=("index", "peak"),
        default="index",
        help="order of the sentences: as in the data, or strongest peak of the first feature first",
    )

    look = parser.add_argument_group("how it is drawn")
    look.add_argument(
        "--kind", choices=("lines", "heatmap", "both"), default="lines", help="form of a sentence's figure"
    )
    look.add_argument(
        "--scale",
        choices=("relative", "raw"),
        default="relative",
        help="lines as a share of the feature's largest activation in the run, or as raw activations",
    )
    look.add_argument(
        "--figsize",
        type=figure_size,
        default="14,7",
        help="width,height of a sentence's figure, inches; long sentences get further rows",
    )
    look.add_argument("--dpi", type=whole_number(30, 600), default=120, help="dots per inch")
    look.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="file format")
    look.add_argument(
        "--max-token-len", type=whole_number(3, 60), default=14, help="longest token text, characters"
    )

    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--jobs",
        type=whole_number(1, 256),
        default=os.cpu_count() or 1,
        help="processes that draw sentences (default: number of cores, here %(default)s)",
    )
    computing.add_argument(
        "--bootstrap", type=whole_number(100, 100_000), default=1000, help="draws for the 95%% bands"
    )
    computing.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), default=0, help="seed of the bootstrap and the text folds"
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.s2_results is None and args.features is None:
        parser.error("--s2-results is required unless --features names the features")
    if args.frozen and args.s2_results is None:
        parser.error("--frozen needs --s2-results, which chose the features")
    return args


def draw(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    output = args.output
    run = load_run(args.s1_data, args.s2_results, args.features, args.top_n, args.frozen)
    pages = read_quoted_pages(args.s2_results)
    strength = peak_values(run.activations, run.s1.sentence_offsets)[:, 0]  # [n] of the first feature
    rows = choose_sentences(run.labels, strength, args.labels, args.max_sentences, args.sort)
    open_output(output)
    typography = fonts_for([*run.s1.sentences["sentence"], *run.s1.tokens])
    overviews = compute_overviews(run, args.bootstrap, args.seed)
    write_summary(run, overviews, output)
    if args.save_data:
        save_data(run, overviews, output / "data")
    write_text(output / "trajectories.html", build_page(run, rows, pages))
    with matplotlib.rc_context(typography.rc_settings()):
        n_overviews = write_overviews(run, overviews, output, args.format, args.dpi)
        n_drawn = draw_sentences(run, rows, typography, sentence_style(args), output, args.jobs)
    write_run_record(run, plain_arguments(args), output, started)
    print(
        f"{len(rows)} sentence figures ({n_drawn} drawn now), {n_overviews} overviews and "
        f"summary_statistics.csv in {output}; open {output / 'trajectories.html'}"
    )


def sentence_style(args: argparse.Namespace) -> SentenceStyle:
    width, height = args.figsize
    return SentenceStyle(
        args.kind, args.scale == "relative", width, height, args.dpi, args.format, args.max_token_len
    )


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        draw(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
