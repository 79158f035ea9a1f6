"""Freezes the results in an experiment's working/ folder as a version that is never written again."""

import argparse
import json
import os
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from experiments.experiment_dataset import (
    library_versions,
    read_json,
    resolve_experiment,
    sha256_of,
    versions_of,
    write_json,
)

TRAIN = "run framework/train.py first"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="experiment folder, e.g. d3_hidden_to_concept")
    version = parser.add_argument_group("version")
    version.add_argument("--name", required=True, help="short name; the folder becomes v{N}_{NAME}")
    version.add_argument("--message", default="", help="one line on what this version is")
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    args = build_parser().parse_args(argv)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", args.name):
        build_parser().error(
            f"--name {args.name!r}: use lower-case letters, digits, _ and -, for example svm_rbf"
        )
    return args


def verified_files(folder: Path, record: str) -> dict[str, str]:
    """File names and SHA-256 that `record` (run.json or version.json) lists; ValueError where one differs."""
    files = read_json(folder / record, TRAIN)["files"]
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing though {record} lists it; train again")
        if sha256_of(path) != sha256:
            raise ValueError(f"{path} was changed after it was written; train again, or restore the file")
    return files


def freeze(experiment: Path, name: str, message: str) -> Path:
    """Copy the verified results into the next `v{N}_{name}/`, read-only, and return it."""
    working = experiment / "working"
    files = verified_files(working, "run.json")
    run = read_json(working / "run.json", TRAIN)
    earlier = versions_of(experiment)
    for version in earlier:
        if version.name.split("_", 1)[1] == name:
            raise ValueError(f"{version} exists and versions are never overwritten; choose another --name")
        if json.loads((version / "version.json").read_text(encoding="utf-8"))["files"].get(
            "results.json"
        ) == files.get("results.json"):
            raise ValueError(
                f"working/ holds the results of {version.name}; train something else before the next version"
            )
    number = int(earlier[-1].name[1:].split("_")[0]) + 1 if earlier else 0
    target = experiment / f"v{number}_{name}"
    partial = experiment / f".{target.name}.{os.getpid()}.tmp"
    partial.mkdir()
    try:
        for file in (*files, "run.json"):
            shutil.copyfile(working / file, partial / file)
        # The configuration that was run, with any change made on the command line.
        write_json(partial / "config.json", run["config"])
        write_json(
            partial / "version.json",
            {
                "format_version": 1,
                "version": number,
                "name": name,
                "message": message,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "dataset_sha256": run["dataset_sha256"],
                "libraries": run["libraries"],
                "frozen_with": library_versions(),
                "files": {path.name: sha256_of(path) for path in sorted(partial.iterdir())},
            },
        )
        for path in partial.iterdir():
            path.chmod(0o444)
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        target = freeze(resolve_experiment(args.experiment), args.name, args.message)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"froze {target.parent.name}/{target.name}: {len(list(target.iterdir()))} files, read-only")
    return 0


if __name__ == "__main__":
    sys.exit(main())
