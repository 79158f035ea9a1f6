"""Rank the features of every sparse autoencoder by how well they follow the concept strength label.

Reads a `<trait>_features` folder of s1 and writes ranked_features.csv, discovery_ranking.csv,
best_per_sae.csv, feature_examples.json, split.csv, report.html and run.json.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from feature_ranking.analysis_input import open_analysis_input, open_other_runs, with_shuffled_labels
from feature_ranking.other_runs import require_same_saes
from feature_ranking.ranking import rank_features
from feature_ranking.ranking_options import RANKING_COLUMNS, RankingOptions
from feature_ranking.sae_effects import require_effects
from feature_statistics.sentence_split import DISCOVERY, split_groups
from neuronpedia_pages.page_address import NEURONPEDIA, web_address
from neuronpedia_pages.page_cache import fetch_pages, server_at
from ranking_results.feature_examples import feature_examples
from ranking_results.feature_notes import add_notes
from ranking_results.ranking_report import render_report
from ranking_results.results_display import display
from ranking_results.results_files import require_folder_or_nothing, run_record, write_results
from twins_s2.option_types import natural_int, positive_int, real_number, share, share_below_one
from twins_s2.provenance import plain_arguments
from twins_s2.sentence_pooling import POOLINGS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    files = parser.add_argument_group("files")
    files.add_argument("--input", type=Path, help="feature folder of s1 (required unless --display-only)")
    files.add_argument("--output", type=Path, required=True, help="results folder to write")
    files.add_argument(
        "--contrast",
        type=Path,
        nargs="+",
        default=[],
        metavar="FEATURES",
        help="feature folders of other traits, same model and SAEs: how specific are the top features?",
    )
    files.add_argument(
        "--transfer",
        type=Path,
        action="append",
        default=[],
        metavar="FEATURES",
        help="feature folder of sentences from elsewhere, same model and SAEs: do the top features, as they "
        "are, tell label 3 from 0 there? May be given several times",
    )
    ranking = parser.add_argument_group("ranking and filters (on discovery sentences)")
    ranking.add_argument("--pool", choices=POOLINGS, default="max", help="tokens to sentence activation")
    ranking.add_argument("--rank-by", choices=RANKING_COLUMNS, default=RANKING_COLUMNS[0], help="column")
    ranking.add_argument("--top-n", type=positive_int, default=50, help="features to keep")
    ranking.add_argument("--min-pearson", type=real_number(-1, 1), default=0.4, help="least pearson_corr")
    ranking.add_argument("--min-tpr", type=share, default=0.5, help="least tpr, share of label-3 sentences")
    ranking.add_argument(
        "--max-fpr",
        type=share,
        default=0.2,
        help="largest fpr; about 0.05 at most by construction, so this rejects hardly anything (see README)",
    )
    ranking.add_argument(
        "--require-monotonic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="label means must not fall from label 0 to 3",
    )
    ranking.add_argument(
        "--min-firing", type=positive_int, default=10, help="sentences a feature must fire in to be eligible"
    )
    significance = parser.add_argument_group("significance")
    significance.add_argument(
        "--confirm-share",
        type=share_below_one,
        default=0.25,
        help="share of sentences held out to confirm the top features; 0: rank on all, confirm nothing",
    )
    significance.add_argument(
        "--permutations", type=natural_int, default=1000, help="label permutations of the maxT test; 0: none"
    )
    significance.add_argument(
        "--bootstrap", type=positive_int, default=1000, help="resamples of the confirmation intervals"
    )
    significance.add_argument("--alpha", type=share, default=0.05, help="level called significant, confirmed")
    significance.add_argument(
        "--family-correlation", type=share, default=0.9, help="least activation correlation within a family"
    )
    significance.add_argument("--seed", type=natural_int, default=0, help="of split, permutations, bootstrap")
    significance.add_argument(
        "--shuffle-labels",
        action="store_true",
        help="negative control: analyse labels shuffled (by group) with --seed",
    )
    pages = parser.add_argument_group("Neuronpedia")
    pages.add_argument(
        "--neuronpedia",
        action="store_true",
        help="fetch what Neuronpedia says of the ranked features that have a page there, and show it in the "
        "report; with --display-only for a finished result",
    )
    pages.add_argument(
        "--neuronpedia-url", type=web_address, default=NEURONPEDIA, help="address of the server"
    )
    running = parser.add_argument_group("running and display")
    running.add_argument("--jobs", type=positive_int, default=os.cpu_count(), help="SAEs analysed at a time")
    running.add_argument("--examples-per-label", type=positive_int, default=5, help="sentences per label")
    running.add_argument(
        "--display-only", action="store_true", help="print the result in --output, rank nothing"
    )
    running.add_argument("--display-top", type=positive_int, default=10, help="features to print")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.input is None and not args.display_only:
        parser.error("--input is required unless --display-only is given")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        written = "" if args.display_only else analyze(args)
        complete_report(args)
        display(args.output, args.display_top)
        print(f"{written}open {args.output / 'report.html'}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def analyze(args: argparse.Namespace) -> str:
    """Run the whole analysis and write the results folder; say what was written."""
    started = time.perf_counter()
    require_folder_or_nothing(args.output)
    options = RankingOptions.from_arguments(args)
    features = open_analysis_input(args.input)
    if args.rank_by == "steer_spearman":
        require_effects(features)
    contrasts = open_other_runs(args.contrast, features, "--contrast")
    transfers = open_other_runs(args.transfer, features, "--transfer")
    require_same_saes(features, transfers, "--transfer")
    if args.shuffle_labels:
        features = with_shuffled_labels(features, args.seed)
    parts = split_groups(features.labels, features.groups, args.confirm_share, args.seed)
    n_discovery = int((parts == DISCOVERY).sum())
    print(
        f"{features.trait}: {len(parts)} sentences, {n_discovery} for discovery and "
        f"{len(parts) - n_discovery} for confirmation, {len(features.run['saes'])} SAEs"
    )
    ranking = rank_features(features, parts, options, contrasts, transfers)
    examples = feature_examples(ranking, features, args.examples_per_label)
    record = run_record(features, parts, ranking, transfers, plain_arguments(args))
    report = render_report(ranking, examples, record)
    record["seconds"] = round(time.perf_counter() - started, 2)
    write_results(args.output, features, parts, ranking, examples, report, record)
    return (
        f"wrote {len(ranking.ranked)} ranked features, split, examples and report to {args.output} "
        f"in {record['seconds']:.1f} s; "
    )


def complete_report(args: argparse.Namespace) -> None:
    """Put what others say of the features into the finished report, fetched now if asked for."""
    if args.neuronpedia:
        print(fetch_pages(args.output, server_at(args.neuronpedia_url)))
    if args.neuronpedia or not args.display_only:
        add_notes(args.output)


if __name__ == "__main__":
    sys.exit(main())
