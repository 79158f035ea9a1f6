"""Turns the activations of stage 1 into one table of inputs and targets per learning problem."""

import argparse
import sys
import time
from pathlib import Path

from classifier_datasets.dataset_files import (
    dataset_metadata,
    require_file_or_nothing,
    summary_line,
    write_dataset,
)
from classifier_datasets.dataset_options import DatasetOptions
from classifier_datasets.example_dataset import read_example
from classifier_datasets.strategies import STRATEGIES
from load_sentence_data import open_results
from twins_s4.feature_folder import FeatureFolder, open_feature_folder
from twins_s4.option_types import layer_list, positive_int
from twins_s4.provenance import plain_arguments
from twins_s4.sentence_pooling import POOLINGS
from utils import parse_label_pair

DEFAULT_K = 16
TO_FEATURE = ("embedding-to-feature", "hidden-to-feature")
CONCERNS = {  # option -> the strategies that use it
    "layer": ("hidden-to-concept",),
    "layers": ("hidden-to-concept",),
    "binary": ("hidden-to-concept", "features-to-concept"),
    "k": ("features-to-concept",),
    "input_layer": ("hidden-to-feature",),
    "target_layer": TO_FEATURE,
    "target_l0": TO_FEATURE,
    "target_feature": TO_FEATURE,
    "target_pool": TO_FEATURE,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--input", type=Path, required=True, help="feature folder written by stage 1")
    files.add_argument(
        "--output", type=Path, required=True, help="NPZ file to write; <name>.run.json goes beside it"
    )
    files.add_argument(
        "--like",
        type=Path,
        help="NPZ of this stage, made from other sentences: the same inputs in the same order for these, "
        "labelled or not",
    )
    files.add_argument(
        "--s2-results",
        type=Path,
        help="result folder of stage 2: source of features-to-concept, and of a target when none is named",
    )
    problem = parser.add_argument_group("learning problem")
    problem.add_argument(
        "--strategy", choices=STRATEGIES, help="what is predicted from what; required unless --like says it"
    )
    problem.add_argument(
        "--binary",
        type=parse_label_pair,
        metavar="A,B",
        help="keep two labels only, e.g. 0,3 (concept strategies)",
    )
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument(
        "--pool",
        choices=POOLINGS,
        help="how the tokens of a sentence become one input row (default: final; "
        "features-to-concept: the pooling of the stage 2 run)",
    )
    inputs.add_argument("--layer", type=int, help="hidden-to-concept: one layer")
    inputs.add_argument(
        "--layers",
        type=layer_list,
        default=argparse.SUPPRESS,
        help="hidden-to-concept: layers, e.g. 0-5,12 or all",
    )
    inputs.add_argument(
        "--input-layer", type=int, help="hidden-to-feature: input layer (default: the target's layer)"
    )
    inputs.add_argument(
        "--k",
        type=positive_int,
        help=f"features-to-concept: number of best discovery features (default: {DEFAULT_K})",
    )
    target = parser.add_argument_group("target feature (embedding-to-feature, hidden-to-feature)")
    target.add_argument(
        "--target-layer", type=int, help="layer of the target's SAE (default: stage 2's best feature)"
    )
    target.add_argument(
        "--target-l0", type=int, help="average L0 of that SAE; needed where a layer has several"
    )
    target.add_argument("--target-feature", type=int, help="feature_id in that SAE")
    target.add_argument(
        "--target-pool",
        choices=POOLINGS,
        help="how the target's tokens become one number (default: the pooling of the stage 2 run, or max)",
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse and reject options that --like or the chosen strategy would silently ignore."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.like is not None:
        for name in ("strategy", "s2_results", "pool", *CONCERNS):
            if getattr(args, name, None) is not None or (name == "layers" and hasattr(args, name)):
                parser.error(
                    f"--like takes everything from that dataset; leave out --{name.replace('_', '-')}"
                )
        return args
    if args.strategy is None:
        parser.error("--strategy is required unless --like names a dataset")
    for name, strategies in CONCERNS.items():
        given = hasattr(args, name) if name == "layers" else getattr(args, name) is not None
        if given and args.strategy not in strategies:
            parser.error(
                f"--{name.replace('_', '-')} belongs to {' and '.join(strategies)}, not to {args.strategy}"
            )
    if args.strategy == "hidden-to-concept" and (args.layer is None) == (not hasattr(args, "layers")):
        parser.error("hidden-to-concept needs either --layer or --layers")
    if args.strategy == "features-to-concept" and args.s2_results is None:
        parser.error("features-to-concept needs --s2-results")
    named = (args.target_layer is not None, args.target_feature is not None)
    if args.strategy in TO_FEATURE and named not in {(True, True), (False, False)}:
        parser.error("--target-layer and --target-feature go together")
    if args.target_l0 is not None and not named[0]:
        parser.error("--target-l0 needs --target-layer and --target-feature")
    if args.strategy == "features-to-concept" and args.k is None:
        args.k = DEFAULT_K
    return args


def dataset_options(args: argparse.Namespace, features: FeatureFolder) -> DatasetOptions:
    """As given, or those of the dataset whose inputs are wanted for other sentences."""
    if args.like is None:
        return DatasetOptions.from_arguments(args)
    return DatasetOptions.from_example(read_example(args.like, features))


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    started = time.monotonic()
    try:
        require_file_or_nothing(args.output)
        features = open_feature_folder(args.input, needs_labels=False)
        results = open_results(args.s2_results, features) if args.s2_results else None
        labels = "" if features.labels is not None else " without labels"
        print(
            f"read {len(features.groups)} sentences{labels}, {len(features.tokens)} tokens of "
            f"{features.run['model']} from {args.input}"
        )
        options = dataset_options(args, features)
        inputs, target = STRATEGIES[options.strategy](options, features, results)
        metadata = dataset_metadata(options, inputs, target, features, results, plain_arguments(args))
        write_dataset(args.output, inputs, target, features, results, metadata, started)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary_line(args.output, inputs, target, features))
    return 0


if __name__ == "__main__":
    sys.exit(main())
