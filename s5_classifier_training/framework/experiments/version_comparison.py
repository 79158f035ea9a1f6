"""Versions set side by side on their common test sentences."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from experiments.versions import Version
from figures.experiment_figures import draw_comparison
from measures.metrics import LOWER_IS_BETTER
from measures.predictions import Prediction, task_metrics
from twins_s5.atomic_files import write_atomically, write_text
from twins_s5.group_statistics import group_bootstrap, percentile_interval

N_BOOTSTRAP = 2000
SHOWN = {"classification": ("accuracy", "kappa", "mae", "auroc"), "regression": ("r2", "spearman", "mae")}


@dataclass(frozen=True)
class Comparison:
    """Versions of one or several experiments, and the one that the others are held against."""

    versions: list[Version]
    reference: Version
    table: pd.DataFrame  # one row per version: test metrics, cross-validation, paired differences

    def label(self, version: Version) -> str:
        return label_among(self.versions, version)

    @property
    def reference_label(self) -> str:
        return self.label(self.reference)


def label_among(versions: list[Version], version: Version) -> str:
    """The version's name, with that of its experiment where there are several."""
    several = len({each.experiment for each in versions}) > 1
    return f"{version.experiment}/{version.name}" if several else version.name


def compare_versions(
    versions: list[Version], reference_name: str | None, allow_different_tests: bool, seed: int
) -> Comparison:
    """Check that the versions compare, and compare them."""
    reference = versions[0] if reference_name is None else named_version(versions, reference_name)
    comparison = Comparison(versions, reference, pd.DataFrame())
    ours = comparison.reference_label
    for version in versions:
        if version.task != reference.task:
            raise ValueError(
                f"{comparison.label(version)} is {version.task}, {ours} {reference.task}: no common metric"
            )
        if version.test_identity != reference.test_identity and not allow_different_tests:
            raise ValueError(
                f"{comparison.label(version)} and {ours} were tested on different sentences or targets, so "
                "their figures do not compare; train both on one dataset and seed, or give "
                "--allow-different-tests"
            )
    rows = [_row(version, comparison.label(version)) for version in versions]
    for row, version in zip(rows, versions):
        if version is not reference:
            row |= paired_differences(version, reference, seed)
    return Comparison(versions, reference, pd.DataFrame(rows))


def named_version(versions: list[Version], name: str) -> Version:
    """The version called `v1`, `v1_svm` or `working`; `d3_hidden_to_concept/v1` is one of that experiment."""
    experiment, _, wanted = name.rpartition("/")
    found = [
        version
        for version in versions
        if wanted in (version.name, version.name.partition("_")[0]) and experiment in ("", version.experiment)
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(label_among(versions, version) for version in found or versions)
    fault = "may be any of" if found else "is none of"
    raise ValueError(f"--reference {name!r} {fault} {known}")


def _row(version: Version, label: str) -> dict:
    """What the version's results.json says."""
    results = version.results
    row = {
        "version": label,
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
    return row


def paired_differences(version: Version, reference: Version, seed: int) -> dict[str, float]:
    """`diff_<metric>` = version - reference on their common test sentences, with a 95 % interval.

    Paired: every resample draws the same groups for both. NaN where they share fewer than two groups.
    """
    common = np.intersect1d(version.test["sentence_index"], reference.test["sentence_index"])
    ours, theirs = (v.test[v.test["sentence_index"].isin(common)] for v in (version, reference))
    names = SHOWN[version.task]
    if version.source_and_target != reference.source_and_target or ours["group"].nunique() < 2:
        return {f"diff_{name}{suffix}": float("nan") for name in names for suffix in ("", "_low", "_high")}
    weights = group_bootstrap(ours["group"].to_numpy(), N_BOOTSTRAP, np.random.default_rng(seed))
    pairs = [(version, ours), (reference, theirs)]
    point, point_of_reference = (_metrics(v, rows, None) for v, rows in pairs)
    resampled, resampled_of_reference = (_metrics(v, rows, weights) for v, rows in pairs)
    figures = {"n_common": len(common)}
    for name in names:
        figures[f"diff_{name}"] = float(point[name][0] - point_of_reference[name][0])
        low, high = percentile_interval(resampled[name] - resampled_of_reference[name])
        figures[f"diff_{name}_low"], figures[f"diff_{name}_high"] = low, high
    return figures


def _metrics(version: Version, rows: pd.DataFrame, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """The task's metrics on some test rows under each row of weights."""
    classes = np.array(version.results["classes"] or [])
    probabilities = rows[[f"p_{label}" for label in classes]].to_numpy() if len(classes) else None
    predicted = Prediction(rows["y_pred"].to_numpy(), probabilities)
    return task_metrics(rows["y_true"].to_numpy(), predicted, classes, weights)


def readable_rows(comparison: Comparison) -> list[list[str]]:
    """Header and rows for people: versions, then the baselines of the reference."""
    reference = comparison.reference
    names = SHOWN[reference.task]
    marks = {name: " (lower is better)" if name in LOWER_IS_BETTER else "" for name in names}
    header = ["version", "model", *[f"test {name}{marks[name]}" for name in names]]
    rows = [header + [f"Δ {name}" for name in names[:2]]]
    for _, row in comparison.table.iterrows():
        cells = [_with_interval(row, f"test_{name}") for name in names]
        cells += [_with_interval(row, f"diff_{name}") for name in names[:2]]
        rows.append([row["version"], row["model"], *cells])
        rows += _rows_apart(comparison, row["version"], names)
    for key, figures in reference.results["baselines"].items():
        cells = [_with_interval(pd.Series(figures, dtype=float), f"test_{name}") for name in names]
        label = f"baseline: {key}" + (" (range)" if key == "shuffled" else "")
        rows.append([label, "", *cells, "", ""])
    return rows


def _rows_apart(comparison: Comparison, label: str, names: tuple[str, ...]) -> list[list[str]]:
    """The rows of a version on the test sentences of each difficulty apart, where they have one."""
    (version,) = (version for version in comparison.versions if comparison.label(version) == label)
    return [
        [f"{label}: {value}, {entry['n']} sentences", ""]
        + [_with_interval(pd.Series(entry["model"], dtype=float), f"test_{name}") for name in names]
        + ["", ""]
        for value, entry in version.results.get("apart", {}).get("difficulty", {}).items()
    ]


def _with_interval(row: pd.Series, key: str) -> str:
    """`0.612 [0.51, 0.71]`, empty where there is no value."""
    if key not in row or pd.isna(row[key]):
        return ""
    return f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"


def notes(comparison: Comparison) -> list[str]:
    """What has to be known to read the table, a line each."""
    reference = comparison.reference
    lines = [
        "Test figures with bootstrap 95 % intervals over groups; "
        f"Δ is against {comparison.reference_label}, paired. "
        f"Shuffled: mean and range of {reference.results['config']['shuffles']} fits."
    ]
    for version in comparison.versions:
        lines += [f"{comparison.label(version)}: {text}." for text in version.results.get("caveats", ())]
    return lines


def write_comparison(stem: Path, comparison: Comparison) -> None:
    """CSV with every column, Markdown with the readable ones, and the figure."""
    write_atomically(Path(f"{stem}.csv"), lambda path: comparison.table.to_csv(path, index=False))
    header, *rows = readable_rows(comparison)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    for note in notes(comparison):
        lines += ["", note]
    write_text(Path(f"{stem}.md"), "\n".join(lines) + "\n")
    results = [(comparison.label(version), version.results) for version in comparison.versions]
    baselines, shown = comparison.reference.results["baselines"], SHOWN[comparison.reference.task][:2]
    write_atomically(Path(f"{stem}.png"), lambda path: draw_comparison(path, results, baselines, shown))
