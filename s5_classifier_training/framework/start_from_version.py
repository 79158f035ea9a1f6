"""Starts the next run of an experiment from a frozen version's configuration."""

import argparse
import os
import sys
from pathlib import Path

from experiments.experiment_dataset import (
    apply_overrides,
    read_json,
    resolve_experiment,
    sha256_of,
    validate_config,
    versions_of,
    write_json,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="experiment folder, e.g. d3_hidden_to_concept")
    parser.add_argument(
        "--from", required=True, dest="version", metavar="VERSION", help="v1, or its full name"
    )
    changes = parser.add_argument_group("changes")
    changes.add_argument("--model", help="model to use instead, with its default parameters and no grid")
    changes.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="as in train.py"
    )
    changes.add_argument(
        "--discard", action="store_true", help="delete results in working/ that no version holds"
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def find_version(experiment: Path, name: str) -> Path:
    """The version folder called `v1` or `v1_svm`."""
    versions = versions_of(experiment)
    for version in versions:
        if name in (version.name, version.name.split("_")[0]):
            return version
    known = ", ".join(version.name for version in versions) or "none yet; freeze one with checkpoint.py"
    raise FileNotFoundError(f"{experiment.name} has no version {name!r}; versions: {known}")


def start(experiment: Path, version: Path, model: str | None, settings: list[str], discard: bool) -> dict:
    """Write the new working/config.json and clear earlier results; return the configuration."""
    working = experiment / "working"
    results = working / "results.json"
    if results.is_file() and not discard:
        frozen = {
            read_json(v / "version.json", "freeze it again")["files"].get("results.json")
            for v in versions_of(experiment)
        }
        if sha256_of(results) not in frozen:
            raise ValueError(
                f"{working} holds results that no version keeps; freeze them with checkpoint.py, or "
                "give --discard"
            )
    config = read_json(version / "config.json", "freeze the version again")
    if model is not None:
        config |= {"model": model, "parameters": {}, "grid": {}}
    config = validate_config(apply_overrides(config, settings), str(version / "config.json"))
    partial = working / f".config.{os.getpid()}.tmp"
    write_json(partial, config)
    for path in working.iterdir():
        if path.name not in ("config.json", partial.name):
            path.unlink()
    os.replace(partial, working / "config.json")
    return config


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        experiment = resolve_experiment(args.experiment)
        version = find_version(experiment, args.version)
        config = start(experiment, version, args.model, args.settings, args.discard)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"wrote {experiment.name}/working/config.json from {version.name}: model {config['model']}; "
        "now run train.py"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
