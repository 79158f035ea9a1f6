"""Rank the features of every sparse autoencoder by how well they follow the concept strength label.

Reads a `<trait>_features` folder of s1 and writes ranked_features.csv, discovery_ranking.csv,
best_per_sae.csv, feature_examples.json, split.csv, report.html and run.json.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from feature_ranking.analysis_input import FeatureRun, open_feature_run
from feature_ranking.ranking import Ranking, rank_features
from feature_statistics.feature_metrics import POOLINGS
from feature_statistics.permutation_test import DISCOVERY, permuted_labels, split_groups
from ranking_results.feature_examples import top_examples
from ranking_results.ranking_report import render_report

FORMAT_VERSION = 1
RANKING_COLUMNS = (
    "interpretability_score",
    "spearman_corr",
    "pearson_corr",
    "separation_score",
    "auroc",
    "tpr",
)
LIBRARIES = ("numpy", "scipy", "pandas", "joblib", "jinja2", "matplotlib")


def _number(kind: type, lowest: float, highest: float, below_highest: bool = False):
    """An argparse type: a number of that kind within the bounds."""

    def parse(text: str):
        value = kind(text)
        if not lowest <= value <= highest or (below_highest and value == highest):
            end = f"below {highest}" if below_highest else f"at most {highest}"
            raise argparse.ArgumentTypeError(f"{text} is not at least {lowest} and {end}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its message for text that is no number
    return parse


_positive_int = _number(int, 1, np.inf)
_natural_int = _number(int, 0, np.inf)
_share = _number(float, 0, 1)
_share_below_one = _number(float, 0, 1, below_highest=True)


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
    ranking = parser.add_argument_group("ranking and filters (on discovery sentences)")
    ranking.add_argument("--pool", choices=POOLINGS, default="max", help="tokens to sentence activation")
    ranking.add_argument("--rank-by", choices=RANKING_COLUMNS, default=RANKING_COLUMNS[0], help="column")
    ranking.add_argument("--top-n", type=_positive_int, default=50, help="features to keep")
    ranking.add_argument("--min-pearson", type=float, default=0.4, help="least pearson_corr")
    ranking.add_argument("--min-tpr", type=_share, default=0.5, help="least tpr, share of label-3 sentences")
    ranking.add_argument(
        "--max-fpr", type=_share, default=0.2, help="largest fpr, share of label-0 sentences"
    )
    ranking.add_argument(
        "--require-monotonic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="label means must not fall from label 0 to 3",
    )
    ranking.add_argument(
        "--min-firing", type=_positive_int, default=10, help="sentences a feature must fire in to be eligible"
    )
    significance = parser.add_argument_group("significance")
    significance.add_argument(
        "--confirm-share",
        type=_share_below_one,
        default=0.25,
        help="share of sentences held out to confirm the top features; 0: rank on all, confirm nothing",
    )
    significance.add_argument(
        "--permutations", type=_natural_int, default=1000, help="label permutations of the maxT test; 0: none"
    )
    significance.add_argument(
        "--bootstrap", type=_positive_int, default=1000, help="resamples of the confirmation intervals"
    )
    significance.add_argument(
        "--alpha", type=_share, default=0.05, help="level called significant, confirmed"
    )
    significance.add_argument(
        "--family-correlation", type=_share, default=0.9, help="least activation correlation within a family"
    )
    significance.add_argument(
        "--seed", type=_natural_int, default=0, help="of split, permutations, bootstrap"
    )
    significance.add_argument(
        "--shuffle-labels",
        action="store_true",
        help="negative control: analyse labels shuffled (by group) with --seed",
    )
    running = parser.add_argument_group("running and display")
    running.add_argument("--jobs", type=_positive_int, default=os.cpu_count(), help="SAEs analysed at a time")
    running.add_argument("--examples-per-label", type=_positive_int, default=5, help="sentences per label")
    running.add_argument(
        "--display-only", action="store_true", help="print the result in --output, compute nothing"
    )
    running.add_argument("--display-top", type=_positive_int, default=10, help="features to print")
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
        if args.display_only:
            display(args.output, args.display_top)
            return 0
        analyze(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def analyze(args: argparse.Namespace) -> None:
    """Run the whole analysis and write the results folder."""
    started = time.perf_counter()
    feature_run = open_feature_run(args.input)
    contrasts = [open_feature_run(folder) for folder in args.contrast]
    if args.shuffle_labels:
        rng = np.random.default_rng([args.seed, 0])
        shuffled = permuted_labels(feature_run.labels, feature_run.groups, 1, rng)[0]
        feature_run = dataclasses.replace(feature_run, labels=shuffled)
    parts = split_groups(feature_run.labels, feature_run.groups, args.confirm_share, args.seed)
    n_discovery = int((parts == DISCOVERY).sum())
    print(
        f"{feature_run.trait}: {len(parts)} sentences, {n_discovery} for discovery and "
        f"{len(parts) - n_discovery} for confirmation, {len(feature_run.run['saes'])} SAEs"
    )
    ranking = rank_features(feature_run, parts, contrasts, args)
    examples = feature_examples(ranking, feature_run, args.examples_per_label)
    record = run_record(feature_run, ranking, args)
    report = render_report(ranking, examples, record, feature_run.trait)
    record["seconds"] = round(time.perf_counter() - started, 2)
    write_results(args.output, feature_run, parts, ranking, examples, report, record)
    display(args.output, args.display_top)
    print(
        f"wrote {len(ranking.ranked)} ranked features, split, examples and report to {args.output} "
        f"in {record['seconds']:.1f} s; open {args.output / 'report.html'}"
    )


def feature_examples(ranking: Ranking, feature_run: FeatureRun, per_label: int) -> list[dict]:
    """The content of feature_examples.json, in rank order."""
    examples = top_examples(
        ranking.token_acts,
        ranking.pooled,
        feature_run.sentences["sentence"].tolist(),
        feature_run.labels,
        feature_run.tokens,
        feature_run.sentence_offsets,
        per_label,
    )
    columns = ["rank", "layer", "average_l0", "feature_id", "neuronpedia_url", "threshold"]
    features = ranking.ranked[columns].to_dict("records")
    return [feature | {"examples": by_label} for feature, by_label in zip(features, examples)]


def run_record(feature_run: FeatureRun, ranking: Ranking, args: argparse.Namespace) -> dict:
    """The content of run.json, but for the wall time."""
    arguments = {key: _plain(value) for key, value in vars(args).items()}
    return {
        "format_version": FORMAT_VERSION,
        "trait": feature_run.trait,
        "features_run": {
            "path": str(feature_run.folder),
            **{
                key: feature_run.run.get(key)
                for key in ("input_sha256", "model", "model_revision", "n_sentences", "n_tokens")
            },
        },
        "pool": args.pool,
        "arguments": arguments,
        "seed": args.seed,
        "labels_shuffled": args.shuffle_labels,
        "duplicate_saes_left_out": [
            entry["sae_id"] for entry in feature_run.run["saes"] if entry.get("duplicate_of")
        ],
        "summary": ranking.summary,
        "input_sha256": {
            name: hashlib.sha256((feature_run.folder / name).read_bytes()).hexdigest()
            for name in ("run.json", "sentences.csv", "tokens.npz")
        },
        "libraries": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
    }


def write_results(
    output: Path,
    feature_run: FeatureRun,
    parts: np.ndarray,
    ranking: Ranking,
    examples: list[dict],
    report: str,
    record: dict,
) -> None:
    """Write every file of the results folder, each under a temporary name first, run.json last."""
    output.mkdir(parents=True, exist_ok=True)
    split = pd.DataFrame(
        {
            "sentence_index": feature_run.sentences["sentence_index"],
            "group": feature_run.groups,
            "concept_strength_label": feature_run.labels,
            "part": parts,
        }
    )
    texts = {
        "ranked_features.csv": ranking.ranked.to_csv(index=False, lineterminator="\n"),
        "discovery_ranking.csv": ranking.discovery.to_csv(index=False, lineterminator="\n"),
        "best_per_sae.csv": ranking.best_per_sae.to_csv(index=False, lineterminator="\n"),
        "split.csv": split.to_csv(index=False, lineterminator="\n"),
        "feature_examples.json": json.dumps(examples, indent=1, ensure_ascii=False) + "\n",
        "report.html": report,
        "run.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        temporary = output / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, output / name)


def display(output: Path, n_rows: int) -> None:
    """Print the summary and the best rows of a finished results folder, or the nearest misses."""
    for name in ("run.json", "ranked_features.csv", "discovery_ranking.csv"):
        if not (output / name).is_file():
            raise FileNotFoundError(
                f"{output / name} is missing, so there is no finished result to print; "
                "run without --display-only"
            )
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    print(summary_line(record))
    columns = ["rank", "layer", "average_l0", "feature_id", "interpretability_score", "pearson_corr", "auroc"]
    ranked = pd.read_csv(output / "ranked_features.csv")
    if len(ranked):
        columns += ["p_maxt", "family_id"]
        if record["summary"]["n_confirmed"] is not None:
            columns += ["confirm_spearman", "confirm_auroc", "confirm_p"]
        print(ranked[columns].head(n_rows).to_string(index=False, float_format="{:.3g}".format))
        return
    misses = pd.read_csv(output / "discovery_ranking.csv").head(n_rows)
    if misses.empty:
        print(
            f"no feature fires in {record['arguments']['min_firing']} discovery sentences; see --min-firing"
        )
        return
    print("no feature passed the filters; the nearest misses, with the filters they failed:")
    columns += ["tpr", "fpr", "p_maxt", "failed_filters"]
    print(misses[columns].to_string(index=False, float_format="{:.3g}".format))


def summary_line(record: dict) -> str:
    """What the run found, in one line."""
    summary, arguments = record["summary"], record["arguments"]
    line = (
        f"{summary['n_features']:,} features in {summary['n_saes']} SAEs, "
        f"{summary['n_eligible']:,} eligible, "
        f"{summary['n_significant_bh']:,} with q_bh <= {arguments['alpha']}"
    )
    if summary["n_significant_maxt"] is not None:
        line += f", {summary['n_significant_maxt']:,} with p_maxt <= {arguments['alpha']}"
    line += f"; {summary['n_passing']:,} pass the filters, {summary['n_ranked']} ranked"
    if summary["n_confirmed"] is None:
        return f"{line}, none held out to confirm"
    return (
        f"{line} in {summary['n_families']} families, {summary['n_confirmed']} confirmed "
        f"({summary['n_families_confirmed']} families)"
    )


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
