"""Figures of one trained experiment; each function draws on an Axes."""

from pathlib import Path

import numpy as np
from experiments.experiment_dataset import Dataset
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

INK, MUTED, ACCENT = "#222222", "#9a9a9a", "#1f5fa8"
CLASS_COLOURS = ("#7f8c99", "#e0a030", "#d1603d", "#8b1e3f")  # label 0 to 3: grey, then rising warmth
BASELINE_NAMES = {
    "shuffled": "shuffled labels",
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


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure in inches with `columns` panels and no GUI behind it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes depend on the drawing alone."""
    figure.savefig(path, dpi=160, format="png", metadata={"Software": None})


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
        colour = CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]
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
    rows += [(label, results, ACCENT) for label, results in reversed(versions)]
    for position, (_, figures, colour) in enumerate(rows):
        value, low, high = (figures[f"test_{metric}{suffix}"] for suffix in ("", "_low", "_high"))
        if value is None or np.isnan(value):
            continue  # a constant prediction has no correlation
        axis.plot([low, high], [position, position], color=colour, lw=2)
        axis.plot(value, position, "o", color=colour, ms=5.5)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.set(xlabel=METRIC_NAMES[metric])
    axis.grid(axis="x", color="#e6e6e6", lw=0.8)
    axis.set_axisbelow(True)


def draw_all(folder: Path, dataset: Dataset, outcome: dict) -> None:
    """Write the figures of the task into `folder`."""
    results, classes, predicted = outcome["results"], outcome["classes"], outcome["on_test"]
    y = dataset.y[outcome["split"].test]
    if dataset.task == "classification":
        figure, (axis,) = new_figure(4.2, 4.0)
        draw_confusion(axis, y, predicted["label"], classes)
        save(figure, folder / "confusion.png")
        figure, (axis,) = new_figure(4.2, 4.0)
        draw_calibration(axis, y, predicted["probabilities"], classes)
        save(figure, folder / "calibration.png")
        figure, (axis,) = new_figure(4.2, 4.0)
        draw_roc(axis, y, predicted["probabilities"], classes)
        save(figure, folder / "roc.png")
    else:
        figure, (axis,) = new_figure(4.2, 4.0)
        draw_scatter(axis, y, predicted["label"])
        save(figure, folder / "scatter.png")
    shown = ("accuracy", "kappa") if dataset.task == "classification" else ("r2", "spearman")
    figure, axes = new_figure(8.4, 2.8, columns=2)
    for axis, metric in zip(axes, shown):
        draw_versions(axis, [(results["config"]["model"], results)], results["baselines"], metric)
    axes[1].set_yticklabels([])
    save(figure, folder / "baselines.png")
