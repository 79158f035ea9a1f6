"""Trains one experiment: cross-validation on the training part, then one look at the held-out test part."""

import argparse
import os
import sys
import time
from pathlib import Path

from experiments.experiment_config import changed_config, parse_config
from experiments.experiment_dataset import load_dataset
from experiments.experiment_folder import LIBRARIES, only_user, read_json, resolve_experiment
from experiments.experiment_results import apart_lines, headline, write_results
from experiments.experiment_run import run_experiment
from experiments.versions import freeze, short_name
from models.fitting import warnings_as_lines
from threadpoolctl import threadpool_limits
from twins_s5.option_types import positive_int
from twins_s5.provenance import library_versions, plain_arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiment", help="experiment folder, e.g. d3_hidden_to_concept; reads its working/config.json"
    )
    changes = parser.add_argument_group("changes to the configuration, for this run")
    changes.add_argument("--dataset", type=Path, help="NPZ of stage 4 to use instead")
    changes.add_argument("--model", help="model to use instead, with its default parameters and no grid")
    changes.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="set a configuration key, e.g. seed=1 or parameters.C=0.01; may be repeated",
    )
    version = parser.add_argument_group("version")
    version.add_argument(
        "--freeze",
        type=short_name,
        metavar="NAME",
        help="freeze the results as v{N}_{NAME} before another command can replace them, "
        "unless a version holds them already",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--threads",
        type=positive_int,
        default=1,
        help="threads of the linear algebra (default: 1; other numbers can change the last digits)",
    )
    return parser


def train(args: argparse.Namespace) -> None:
    """Measure the experiment and replace the results in its working/ folder."""
    started = time.monotonic()
    experiment = resolve_experiment(args.experiment)
    with only_user(experiment):
        path = experiment / "working" / "config.json"
        # The command line is relative to the shell's folder, config.json to the folder of the experiments.
        dataset_key = args.dataset and os.path.relpath(args.dataset.resolve(), experiment.parent)
        content = read_json(path, "start from another experiment's config.json")
        content = changed_config(content, model=args.model, dataset=dataset_key, settings=args.settings)
        config = parse_config(content, str(path))
        dataset = load_dataset(experiment.parent / config.dataset)
        n, n_inputs = dataset.X.shape
        print(f"{experiment.name}: {config.model} on {n} rows × {n_inputs:,} inputs from {dataset.path}")
        with threadpool_limits(args.threads), warnings_as_lines():
            outcome = run_experiment(dataset, config)
        for caveat in outcome.split.caveats:
            print(f"warning: {caveat}", file=sys.stderr)
        record = {
            "arguments": plain_arguments(args),
            "config": config.as_json(),
            "seed": config.seed,
            "dataset_sha256": dataset.sha256,
            "libraries": library_versions(*LIBRARIES),
            "seconds": round(time.monotonic() - started, 2),
        }
        results = write_results(experiment / "working", outcome, record)
        print(f"wrote {experiment.name}/working: results.json, predictions.csv, model.skops and figures")
        if args.freeze:
            version, is_new = freeze(experiment, args.freeze)
            print(f"froze {version.name}" if is_new else f"{version.name} holds these results already")
    for line in (*apart_lines(results), headline(results)):
        print(line)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        train(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
