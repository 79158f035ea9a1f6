"""Compares the frozen versions of experiments on their common test set."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from checkpoint import verified_files
from experiments.experiment_dataset import STAGE, read_json, resolve_experiment, sha256_of, versions_of
from figures.experiment_figures import draw_versions, new_figure, save
from measures.metrics import (
    LOWER_IS_BETTER,
    bootstrap_weights,
    classification_metrics,
    percentile_interval,
    regression_metrics,
)

N_BOOTSTRAP = 2000
SHOWN = {"classification": ("accuracy", "kappa", "mae", "auroc"), "regression": ("r2", "spearman", "mae")}


@dataclass(frozen=True)
class Version:
    """One trained state of an experiment, with its test predictions."""

    label: str
    message: str
    results: dict
    test: pd.DataFrame  # rows of predictions.csv with part == test, by sentence_index

    @property
    def task(self) -> str:
        return self.results["config"]["task"]

    @property
    def test_identity(self) -> tuple:
        """Equal for two versions exactly if they were tested on the same sentences with the same targets."""
        metadata = self.results["dataset"]["metadata"]
        return (
            metadata["source"]["input_sha256"],
            json.dumps(metadata["target"], sort_keys=True),
            tuple(self.test["sentence_index"]),
            tuple(self.test["y_true"]),
        )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiments", nargs="*", metavar="experiment", help="experiments to put into one table"
    )
    parser.add_argument("--all", action="store_true", help="every experiment of this stage, one table each")
    options = parser.add_argument_group("comparison")
    options.add_argument(
        "--reference", default="", help="version that the others are compared with (default: the first)"
    )
    options.add_argument(
        "--allow-different-tests",
        action="store_true",
        help="compare versions with different test sets; differences then use the sentences they share",
    )
    options.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    options.add_argument(
        "--output",
        type=Path,
        help="path without suffix (default: comparison in the first experiment's folder)",
    )
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.all == bool(args.experiments):
        parser.error("name one or more experiments, or give --all")
    if args.all and args.output:
        parser.error("--output belongs to one table; --all writes one per experiment")
    return args


def load_version(folder: Path, record: str, label: str) -> Version:
    """Read one version after checking that no file changed since it was written."""
    verified_files(folder, record)
    predictions = pd.read_csv(folder / "predictions.csv")
    test = predictions[predictions["part"] == "test"].sort_values("sentence_index", ignore_index=True)
    message = read_json(folder / record, "train again").get("message", "not frozen")
    return Version(label, message, read_json(folder / "results.json", "train again"), test)


def load_versions(experiment: Path, prefix: str) -> list[Version]:
    """All frozen versions, then working/ if it holds results that no version does."""
    folders = versions_of(experiment)
    versions = [load_version(folder, "version.json", prefix + folder.name) for folder in folders]
    working = experiment / "working"
    frozen = {sha256_of(folder / "results.json") for folder in folders}
    if (working / "run.json").is_file() and sha256_of(working / "results.json") not in frozen:
        versions.append(load_version(working, "run.json", f"{prefix}working"))
    return versions


def resampled_metrics(
    version: Version, rows: pd.DataFrame, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The task's metrics on some test rows under each row of weights."""
    y_true, y_pred = rows["y_true"].to_numpy(), rows["y_pred"].to_numpy()
    if version.task == "regression":
        return regression_metrics(y_true, y_pred, weights)
    classes = np.array(version.results["classes"])
    probabilities = rows[[f"p_{label}" for label in classes]].to_numpy()
    return classification_metrics(y_true, y_pred, probabilities, classes, weights)


def paired_differences(version: Version, reference: Version, seed: int) -> dict[str, float]:
    """`diff_<metric>` = version - reference on their common test sentences, with a 95 % interval.

    Paired: every resample draws the same groups for both. NaN where they share fewer than two groups.
    """
    common = np.intersect1d(version.test["sentence_index"], reference.test["sentence_index"])
    same_source = version.test_identity[:2] == reference.test_identity[:2]
    ours, theirs = (v.test[v.test["sentence_index"].isin(common)] for v in (version, reference))
    names = SHOWN[version.task]
    if not same_source or ours["group"].nunique() < 2:
        return {f"diff_{name}{suffix}": float("nan") for name in names for suffix in ("", "_low", "_high")}
    weights = bootstrap_weights(ours["group"].to_numpy(), N_BOOTSTRAP, np.random.default_rng(seed))
    points = [resampled_metrics(v, rows, None) for v, rows in ((version, ours), (reference, theirs))]
    resampled = [resampled_metrics(v, rows, weights) for v, rows in ((version, ours), (reference, theirs))]
    figures = {"n_common": len(common)}
    for name in names:
        figures[f"diff_{name}"] = float(points[0][name][0] - points[1][name][0])
        low, high = percentile_interval(resampled[0][name] - resampled[1][name])
        figures[f"diff_{name}_low"], figures[f"diff_{name}_high"] = low, high
    return figures


def comparison_table(versions: list[Version], reference: Version, seed: int) -> pd.DataFrame:
    """One row per version: test metrics, cross-validation, and the difference from the reference."""
    rows = []
    for version in versions:
        results = version.results
        row = {
            "version": version.label,
            "model": results["config"]["model"],
            "parameters": json.dumps(results["chosen_parameters"] or results["config"]["parameters"]),
            "n_inputs": results["n_inputs"],
            "n_test": len(version.test),
            "dataset_sha256": results["dataset"]["sha256"],
            "message": version.message,
        }
        for name in results["cv_mean"]:
            row |= {key: results[key] for key in (f"test_{name}", f"test_{name}_low", f"test_{name}_high")}
            row[f"cv_mean_{name}"], row[f"cv_std_{name}"] = results["cv_mean"][name], results["cv_std"][name]
        if version is not reference:
            row |= paired_differences(version, reference, seed)
        rows.append(row)
    return pd.DataFrame(rows)


def with_interval(row: pd.Series, key: str) -> str:
    """`0.612 [0.51, 0.71]`, empty where there is no value."""
    if key not in row or pd.isna(row[key]):
        return ""
    return f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"


def readable(table: pd.DataFrame, task: str, baselines: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows for people: versions, then the baselines of the reference."""
    names = SHOWN[task]
    marks = {name: " (lower is better)" if name in LOWER_IS_BETTER else "" for name in names}
    header = ["version", "model", *[f"test {name}{marks[name]}" for name in names]]
    header += [f"Δ {name}" for name in names[:2]]
    rows = [
        [row["version"], row["model"], *[with_interval(row, f"test_{name}") for name in names]]
        + [with_interval(row, f"diff_{name}") for name in names[:2]]
        for _, row in table.iterrows()
    ]
    for key, figures in baselines.items():
        cells = [with_interval(pd.Series(figures, dtype=float), f"test_{name}") for name in names]
        rows.append([f"baseline: {key}", "", *cells, "", ""])
    return header, rows


def write_outputs(
    stem: Path, table: pd.DataFrame, header: list[str], rows: list[list[str]], versions, reference
) -> None:
    """CSV with every column, Markdown with the readable ones, and the figure."""
    task = reference.task
    partial = stem.with_name(f".{stem.name}.{os.getpid()}.tmp")
    table.to_csv(partial, index=False)
    os.replace(partial, f"{stem}.csv")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        f"Test figures with bootstrap 95 % intervals over groups; Δ is against {reference.label}, paired.",
    ]
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, f"{stem}.md")
    figure, axes = new_figure(
        8.6, 1.6 + 0.32 * (len(versions) + len(reference.results["baselines"])), columns=2
    )
    for axis, metric in zip(axes, SHOWN[task][:2]):
        draw_versions(axis, [(v.label, v.results) for v in versions], reference.results["baselines"], metric)
    axes[1].set_yticklabels([])
    save(figure, partial)
    os.replace(partial, f"{stem}.png")


def compare(experiments: list[Path], args: argparse.Namespace) -> None:
    """Tabulate the versions of these experiments together."""
    several = len(experiments) > 1
    versions = [v for path in experiments for v in load_versions(path, f"{path.name}/" if several else "")]
    if not versions:
        raise FileNotFoundError(
            f"{experiments[0].name} has no version and no results; run train.py, then checkpoint.py"
        )
    named = [v for v in versions if args.reference in ("", v.label, v.label.split("_")[0])]
    if not named:
        raise ValueError(f"--reference {args.reference!r} is none of {', '.join(v.label for v in versions)}")
    reference = named[0]
    for version in versions:
        if version.task != reference.task:
            raise ValueError(
                f"{version.label} is {version.task}, {reference.label} {reference.task}: no common metric"
            )
        if version.test_identity != reference.test_identity and not args.allow_different_tests:
            raise ValueError(
                f"{version.label} and {reference.label} were tested on different sentences or targets, so "
                "their figures do not compare; train both on one dataset and seed, or give "
                "--allow-different-tests"
            )
    table = comparison_table(versions, reference, args.seed)
    header, rows = readable(table, reference.task, reference.results["baselines"])
    stem = args.output or experiments[0] / "comparison"
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_outputs(stem, table, header, rows, versions, reference)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"wrote {stem}.csv, .md and .png: {len(versions)} versions, Δ against {reference.label}")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        if args.all:
            found = [path for path in sorted(STAGE.glob("d*")) if (path / "working").is_dir()]
            trained = [
                path for path in found if versions_of(path) or (path / "working" / "run.json").is_file()
            ]
            if not trained:
                raise FileNotFoundError(f"no experiment in {STAGE} has results; run train.py first")
            for experiment in trained:
                print(experiment.name)
                compare([experiment], args)
        else:
            compare([resolve_experiment(name) for name in args.experiments], args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
