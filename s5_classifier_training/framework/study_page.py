"""Writes study.html: what a study ran, found and could not show, each trait and all together, on one page."""

import argparse
import sys
import webbrowser
from pathlib import Path

from study_report.emergence_findings import read_emergence_files
from study_report.page_rendering import render
from study_report.study_content import StudyContent, study_content
from study_report.study_places import STAGE, StudyPlaces, chosen_names
from study_report.trait_study import read_trait
from twins_s5.atomic_files import write_text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="TRAIT",
        help="traits as the folders are named, such as dishonesty for dishonesty_results (default: all "
        "with results of stage 2)",
    )
    parser.add_argument(
        "--output", type=Path, default=STAGE / "study.html", help="page to write (default: study.html)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    places = parser.add_argument_group("places", "where the stages wrote; by default, in this repository")
    for option, what in (
        ("features", "TRAIT_features and TRAIT_steering of stage 1"),
        ("results", "TRAIT_results of stage 2"),
        ("plots", "folders TRAIT of stage 3"),
        ("experiments", "d1_… to d4_… of stage 5"),
        ("emergence", "emergence.json, or folders with one, of stage 5"),
    ):
        places.add_argument(f"--{option}", type=Path, metavar="FOLDER", help=f"folder that holds the {what}")
    return parser


def chosen_places(args: argparse.Namespace) -> StudyPlaces:
    given = {name: getattr(args, name) for name in vars(StudyPlaces())}
    for name, folder in given.items():
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"--{name} {folder} is no folder; give the one that the stage wrote to")
    return StudyPlaces(**{name: folder for name, folder in given.items() if folder is not None})


def write_page(args: argparse.Namespace) -> None:
    places = chosen_places(args)
    names = chosen_names(places, args.names)
    emergence_files = read_emergence_files(places)
    studies = [read_trait(name, places, emergence_files) for name in names]
    content = study_content(studies, emergence_files)
    write_text(args.output, render(content, args.output))
    print(closing_line(content, args.output))
    if args.open and not webbrowser.open(args.output.resolve().as_uri()):
        print("no browser was found here: open the page yourself")


def closing_line(content: StudyContent, output: Path) -> str:
    names = ", ".join(card.study.name for card in content.cards)
    missing = f"; {content.n_missing} parts missing, named on the page" if content.n_missing else ""
    return f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB): {names}{missing}"


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        write_page(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
