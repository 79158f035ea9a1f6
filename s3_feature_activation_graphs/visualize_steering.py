"""Draws what steering a few features did: dose-response curves beside nulls, prediction, continuations.

Reads the folder that s1's steer_features.py wrote.
"""

import argparse
import sys
import time
from pathlib import Path

from drawing_inputs.option_values import DefaultsHelpFormatter
from drawings.figure_files import figure_bytes
from steering_drawings.continuation_page import build_continuation_page
from steering_drawings.steering_figures import dose_figure, label_figure, prediction_figure
from steering_drawings.steering_results import read_steering
from trajectory_files.run_record import FORMAT_VERSION, open_output
from twins_s3.atomic_files import write_bytes, write_json, write_text
from twins_s3.option_types import whole_number
from twins_s3.provenance import library_versions, plain_arguments, sha256_of

FIGURES = {
    "steering_dose_response": dose_figure,
    "steering_by_label": label_figure,
    "steering_prediction": prediction_figure,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=DefaultsHelpFormatter)
    parser.add_argument(
        "--steering", type=Path, required=True, help="folder written by s1's steer_features.py"
    )
    parser.add_argument("--output", type=Path, default=Path("plots"), help="folder for figures and page")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="file format")
    parser.add_argument("--dpi", type=whole_number(30, 600), default=120, help="dots per inch")
    return parser


def draw(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    results = read_steering(args.steering)
    open_output(args.output)
    for name, figure in FIGURES.items():
        content = figure_bytes(figure(results), args.format, args.dpi)
        write_bytes(args.output / f"{name}.{args.format}", content)
    write_text(args.output / "continuations.html", build_continuation_page(results))
    write_json(
        args.output / "run.json",
        {
            "format_version": FORMAT_VERSION,
            "arguments": plain_arguments(args),
            "inputs_sha256": {
                name: sha256_of(args.steering / name)
                for name in ("run.json", "dose_response.csv", "slopes.csv", "continuations.json")
            },
            "libraries": library_versions("matplotlib", "numpy", "pandas"),
            "seconds": round(time.perf_counter() - started, 2),
        },
    )
    print(
        f"{len(FIGURES)} figures of {len(results.finalists)} features in {args.output}; "
        f"open {args.output / 'continuations.html'}"
    )


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        draw(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
