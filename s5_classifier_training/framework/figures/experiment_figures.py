"""Figures of a trained experiment, and of versions side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures.figure_files import new_figure, save
from matplotlib.axes import Axes
from measures.predictions import Prediction
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve
from twins_s5.palette import ACCENT, FAINT, INK, LABEL_COLOURS, MUTED

BASELINE_NAMES = {
    "shuffled": "shuffled labels (range)",
    "majority": "majority or mean",
    "length": "sentence length",
    "tfidf": "TF-IDF + linear",
    "diff_means": "difference of means",
}
METRIC_NAMES = {
    "accuracy": "accuracy",
    "kappa": "quadratic weighted kappa",
    "r2": "R²",
    "spearman": "Spearman correlation",
}


def draw_confusion(axis: Axes, y_true: np.ndarray, y_pred: np.ndarray, classes: np.ndarray) -> None:
    """Counts in each cell, shaded by the share of the true class."""
    counts = np.array([[((y_true == a) & (y_pred == b)).sum() for b in classes] for a in classes])  # [K, K]
    shares = counts / counts.sum(axis=1, keepdims=True)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.55 else INK
        axis.text(
            column,
            row,
            f"{count}\n{shares[row, column]:.0%}",
            ha="center",
            va="center",
            color=colour,
            fontsize=9,
        )
    axis.set(
        xticks=range(len(classes)),
        yticks=range(len(classes)),
        xticklabels=classes,
        yticklabels=classes,
        xlabel="predicted label",
        ylabel="true label",
    )
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def draw_calibration(axis: Axes, y_true: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> None:
    """Reliability of all one-against-rest probabilities, in bins of equal size."""
    hits = (y_true[:, None] == classes).ravel()  # [n * K]
    flat = probabilities.ravel()
    observed, stated = calibration_curve(hits, flat, n_bins=8, strategy="quantile")
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--", label="perfect calibration")
    axis.plot(stated, observed, color=ACCENT, marker="o", ms=4, label="all classes, one against rest")
    axis.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="observed share", aspect="equal"
    )
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def draw_roc(axis: Axes, y_true: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> None:
    """One curve per class against the rest."""
    axis.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
    for k, label in enumerate(classes):
        false_rate, true_rate, _ = roc_curve(y_true == label, probabilities[:, k])
        area = np.trapezoid(true_rate, false_rate)
        colour = LABEL_COLOURS[int(label) % len(LABEL_COLOURS)]
        axis.plot(false_rate, true_rate, color=colour, lw=1.6, label=f"label {label}: {area:.2f}")
    axis.set(
        xlim=(0, 1), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate", aspect="equal"
    )
    axis.legend(frameon=False, fontsize=8, title="area under the curve", title_fontsize=8, loc="lower right")


def draw_scatter(axis: Axes, y_true: np.ndarray, y_pred: np.ndarray) -> None:
    """Predicted against measured activation."""
    span = [min(y_true.min(), y_pred.min()), max(y_true.max(), y_pred.max())]
    axis.plot(span, span, color=MUTED, lw=1, ls="--")
    axis.scatter(y_true, y_pred, s=14, color=ACCENT, alpha=0.6, linewidths=0)
    axis.set(xlabel="measured activation", ylabel="predicted activation")


def draw_versions(axis: Axes, versions: list[tuple[str, dict]], baselines: dict, metric: str) -> None:
    """Test metric with its 95 % interval: versions on top in their order, the baselines in grey below."""
    rows = [(BASELINE_NAMES[name], baselines[name], MUTED) for name in BASELINE_NAMES]
    draw_intervals(axis, rows + [(label, results, ACCENT) for label, results in reversed(versions)], metric)


def draw_intervals(axis: Axes, rows: list[tuple[str, dict, str]], metric: str) -> None:
    """A row from below for each label, figures with `test_<metric>` and its interval, and colour."""
    for position, (_, figures, colour) in enumerate(rows):
        value, low, high = (figures[f"test_{metric}{suffix}"] for suffix in ("", "_low", "_high"))
        if value is None or np.isnan(value):
            continue  # a constant prediction has no correlation
        axis.plot([low, high], [position, position], color=colour, lw=2)
        axis.plot(value, position, "o", color=colour, ms=5.5)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.set(xlabel=METRIC_NAMES[metric])
    axis.grid(axis="x", color=FAINT, lw=0.8)
    axis.set_axisbelow(True)


def draw_comparison(
    path: Path, versions: list[tuple[str, dict]], baselines: dict, metrics: Sequence[str]
) -> None:
    """Write the figure that sets versions, (label, results.json) each, above the baselines of one of them."""
    figure, axes = new_figure(8.6, 1.6 + 0.32 * (len(versions) + len(baselines)), columns=len(metrics))
    for axis, metric in zip(axes, metrics):
        draw_versions(axis, versions, baselines, metric)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    save(figure, path)


def draw_apart(path: Path, apart: dict, shown: Sequence[str]) -> None:
    """Write the figure of each kind of test sentences by itself: the model, and under it TF-IDF in grey."""
    rows = []
    for values in apart.values():
        for value, entry in values.items():
            rows.append((f"{value}, {entry['n']} sentences", entry["model"], ACCENT))
            rows.append((BASELINE_NAMES["tfidf"], entry["tfidf"], MUTED))
    figure, axes = new_figure(8.6, 1.2 + 0.26 * len(rows), columns=len(shown))
    for axis, metric in zip(axes, shown):
        draw_intervals(axis, rows[::-1], metric)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    save(figure, path)


def draw_experiment(folder: Path, y: np.ndarray, predicted: Prediction, results: dict) -> None:
    """Write the figures of the task into `folder`, from targets and predictions of the test rows."""
    if predicted.probabilities is None:
        shown, drawn = ("r2", "spearman"), {"scatter": lambda axis: draw_scatter(axis, y, predicted.label)}
    else:
        shown, classes = ("accuracy", "kappa"), results["classes"]
        drawn = {
            "confusion": lambda axis: draw_confusion(axis, y, predicted.label, classes),
            "calibration": lambda axis: draw_calibration(axis, y, predicted.probabilities, classes),
            "roc": lambda axis: draw_roc(axis, y, predicted.probabilities, classes),
        }
    for name, draw in drawn.items():
        figure, (axis,) = new_figure(4.2, 4.0)
        draw(axis)
        save(figure, folder / f"{name}.png")
    versions = [(results["config"]["model"], results)]
    draw_comparison(folder / "baselines.png", versions, results["baselines"], shown)
    if "apart" in results:
        draw_apart(folder / "apart.png", results["apart"], shown)
