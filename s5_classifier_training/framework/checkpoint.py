"""Freezes the results in an experiment's working/ folder as a version that is never written again."""

import argparse
import sys

from experiments.experiment_folder import only_user, resolve_experiment, version_name
from experiments.versions import freeze, short_name


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="experiment folder, e.g. d3_hidden_to_concept")
    version = parser.add_argument_group("version")
    version.add_argument(
        "--name", type=short_name, required=True, help="short name; the folder becomes v{N}_{NAME}"
    )
    version.add_argument("--message", help="one line on what this version is")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        experiment = resolve_experiment(args.experiment)
        with only_user(experiment):
            version, is_new = freeze(experiment, args.name, args.message or "")
        if not is_new and version_name(version) != args.name:
            raise ValueError(
                f"working/ holds the results of {version.name}; train something else before the next version"
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if is_new:
        print(f"froze {experiment.name}/{version.name}: {len(list(version.iterdir()))} files, read-only")
    else:
        print(f"{experiment.name}/{version.name} holds these results already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
