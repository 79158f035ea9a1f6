"""Starts the next run of an experiment from a frozen version's configuration."""

import argparse
import sys

from experiments.experiment_config import changed_config, parse_config
from experiments.experiment_folder import only_user, read_json, resolve_experiment
from experiments.versions import find_version, start_from


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


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        experiment = resolve_experiment(args.experiment)
        with only_user(experiment):
            version = find_version(experiment, args.version)
            path = version / "config.json"
            content = read_json(path, "restore the file, or start from another version")
            content = changed_config(content, model=args.model, settings=args.settings)
            config = parse_config(content, str(path))
            start_from(experiment, config, args.discard)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"wrote {experiment.name}/working/config.json from {version.name}: model {config.model}; "
        "now run train.py"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
