"""Audit labelled sentence files: balance, duplicates, length, and words that give the label away."""

import argparse
import sys
from pathlib import Path

from audit.audit_files import summary, write_audit
from command_line.exit_status import exit_status
from sentences.labelled_tables import read_labelled
from twins_s0.progress import progress


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        help="CSV files with the columns sentence,concept_strength_label[,group][,register][,difficulty]",
    )
    parser.add_argument(
        "--output-dir", type=Path, help="folder for <name>.audit.json and .png (default: beside each CSV)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 when there is any warning")
    return parser


def audit_files(arguments: argparse.Namespace) -> int:
    warned = 0
    tables = [read_labelled(path) for path in arguments.files]
    with progress(len(tables), "file", "audit") as bar:
        for path, table in zip(arguments.files, tables):
            report = write_audit(table, path, arguments.output_dir or path.parent)
            warned += len(report["warnings"])
            bar.write(summary(report))
            bar.update()
    folder = arguments.output_dir or "the folder of each file"
    print(f"wrote {len(tables)} audits (JSON and PNG) to {folder}; {warned} warnings")
    return 1 if warned and arguments.strict else 0


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: audit_files(arguments))


if __name__ == "__main__":
    sys.exit(main())
