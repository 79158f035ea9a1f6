"""Check what a run of extract_sae_features.py needs, in a minute or two, before hours are spent.

Prints one line per check. Model and first SAE are loaded (and fetched, as the run would) and eight built-in
sentences go through them.
"""

import argparse
import shutil
import sys
import textwrap
from pathlib import Path

try:
    from extraction.run_options import (
        add_compute_options,
        add_effect_options,
        add_source_options,
        make_plan,
        with_default_output,
    )
    from hub.failures import network_forbidden
    from preflight.doctor_checks import CHECKS, examine
    from preflight.examination import Examination, Result
except ImportError as error:  # a library is missing, or too old to have what is asked of it
    sys.exit(f"error: {error}: `uv sync`, or `pip install -r requirements.txt`")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Exit status: 0 if no check failed, 1 if one did, 2 for bad arguments or input.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--input", type=Path, help="CSV of the planned run, to estimate its size on disk")
    files.add_argument(
        "--output", type=Path, help="folder of the planned run (default: ./<name of the input>_features)"
    )
    add_source_options(parser)
    add_compute_options(parser)
    add_effect_options(parser)
    return parser


def print_row(name: str, result: str, detail: str) -> None:
    name_width = max(len(check.name) for check in CHECKS)
    result_width = max(map(len, Result))
    before = f"{name:<{name_width}}  {result:<{result_width}}  "
    width = max(60, shutil.get_terminal_size((110, 24)).columns)
    # A word that is longer than the column, a path, stays whole.
    lines = textwrap.wrap(detail, width - len(before), break_long_words=False, break_on_hyphens=False)
    print(before + f"\n{' ' * len(before)}".join(lines), flush=True)


def main(argv: list[str] | None = None) -> int:
    args = with_default_output(build_parser().parse_args(argv))
    results = []
    try:
        exam = Examination(make_plan(args))
        print_row("check", "result", "detail")
        with network_forbidden(args.local_files_only):
            for name, result, detail in examine(exam):
                print_row(name, result, detail)
                results.append(result)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(", ".join(f"{results.count(result)} {result}" for result in Result if result in results))
    return 1 if Result.FAILED in results else 0


if __name__ == "__main__":
    sys.exit(main())
