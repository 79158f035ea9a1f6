"""Figures of all sentences together: drawn from the arrays of `trajectories`, computing no statistics."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from drawing_inputs.drawn_run import DrawnRun
from drawing_inputs.feature import Feature
from drawing_inputs.sentence_labels import UNLABELLED, by_label, label_suffix, label_title
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from plotting_utils import (
    HEATMAP_COLOURS,
    feature_panels,
    label_legend,
    label_line,
    label_mark,
    legend_below,
)
from trajectories.curve_bands import Curves
from trajectories.early_detection import EarlyDetection
from trajectories.overviews import SHARES, Overviews
from trajectories.peak_raster import Raster
from twins_s3.atomic_files import write_bytes
from twins_s3.palette import ACCENT, FAINT, INK, MUTED
from twins_s3.progress import progress

from .figure_files import figure_bytes, new_figure

OTHER_FEATURES = "#d4d4d4"  # behind the feature that a panel is about
RANGES = "#c9c9c9"
NO_TOKEN = "#ededed"
DETECTED_ON = {
    "confirmation": "on the confirmation sentences, which took no part in s2's choice",
    "all": "on all sentences (optimistic where these chose the features)",
    "new": "on all sentences, by features that were chosen on others",
}
WORDS_STYLE = {"color": INK, "lw": 1.3, "ls": (0, (4, 2))}


def write_overviews(run: DrawnRun, overviews: Overviews, output: Path, file_format: str, dpi: int) -> int:
    """Write all overview figures, remove those of other features, and return how many there are."""
    figures = overview_figures(run, overviews)
    with progress(len(figures), "figure", "overviews") as bar:
        for name, draw in figures.items():
            write_bytes(output / f"{name}.{file_format}", figure_bytes(draw(), file_format, dpi))
            bar.update()
    for path in output.glob(f"summary_*.{file_format}"):
        if path.stem not in figures:
            path.unlink()
    return len(figures)


def overview_figures(run: DrawnRun, overviews: Overviews) -> dict[str, Callable[[], Figure]]:
    """Name of each overview -> what draws it."""
    features, counts = run.features, run.counts
    figures = {
        "summary_features": partial(summary_figure, features, overviews.statistics, counts),
        "summary_mean_trajectories": partial(mean_trajectory_figure, features, overviews.means, counts),
        "summary_first_firing": partial(first_firing_figure, features, SHARES, overviews.firing, counts),
    }
    if overviews.early is not None:
        figures["summary_early_detection"] = partial(early_detection_figure, features, overviews.early)
    for number, (feature, raster) in enumerate(zip(features, overviews.rasters), start=1):
        name = f"summary_raster_{number:02d}_{feature.slug}"
        figures[name] = partial(raster_figure, feature, raster, counts)
    return figures


def mean_trajectory_figure(
    features: list[Feature], curves: dict[int, Curves], counts: dict[int, int]
) -> Figure:
    """Mean activation per label along the sentence, one panel per feature."""
    figure, axes = feature_panels(
        features,
        f"Mean activation along the sentence{by_label(counts)} (shaded: simultaneous 95 % band)",
        "position in the sentence",
        "mean activation",
    )
    for f, panel in enumerate(axes):
        for label, curve in curves.items():
            style = label_line(label)
            panel.fill_between(curve.x, curve.low[f], curve.high[f], color=style["color"], alpha=0.18, lw=0)
            panel.plot(curve.x, curve.estimate[f], lw=1.8, **style)
        panel.set_ylim(bottom=0)
    label_legend(figure, counts)
    return figure


def first_firing_figure(
    features: list[Feature], shares: np.ndarray, curves: dict[int, np.ndarray], counts: dict[int, int]
) -> Figure:
    """Share of sentences in which a feature has fired by then, one panel per feature."""
    figure, axes = feature_panels(
        features,
        f"Share of sentences in which the feature has fired{by_label(counts)}",
        "share of the sentence read",
        "share of sentences",
    )
    for f, panel in enumerate(axes):
        for label, fired in curves.items():
            # Nothing has fired before the first word.
            x, y = np.append(0, shares), np.append(0, fired[f])
            panel.step(x, y, where="post", lw=1.8, **label_line(label))
        panel.set_ylim(0, 1.02)
        panel.grid(axis="y", color=FAINT, lw=0.6)
    label_legend(figure, counts)
    return figure


def early_detection_figure(features: list[Feature], early: EarlyDetection) -> Figure:
    """AUROC as a function of the share of the sentence read, one panel per feature."""
    figure, axes = feature_panels(
        features,
        _detection_title(early),
        "share of the sentence read",
        "AUROC, label 3 against 0",
        height=2.5,
    )
    bottom = min(0.4, np.nanmin(early.features.low, initial=0.42) - 0.02)
    for f, panel in enumerate(axes):
        _draw_detection(panel, early, f, bottom)
    _detection_legend(figure, with_words=early.words is not None)
    return figure


def _detection_title(early: EarlyDetection) -> str:
    n_0, n_3 = early.n_by_label[0], early.n_by_label[3]
    return f"How early label 3 (n = {n_3}) is told from label 0 (n = {n_0})\n{DETECTED_ON[early.sentences]}"


def _draw_detection(panel: Axes, early: EarlyDetection, f: int, bottom: float) -> None:
    """The curve of feature `f` in front of the others and of the words."""
    curves, words, onset = early.features, early.words, early.onset[f]
    estimate = curves.estimate[f]  # [n_shares]
    panel.axhline(0.5, color=MUTED, lw=0.8)
    panel.plot(curves.x, np.delete(curves.estimate, f, axis=0).T, color=OTHER_FEATURES, lw=0.8)
    if words is not None:
        panel.plot(words.x, words.estimate[0], **WORDS_STYLE)
    panel.fill_between(curves.x, curves.low[f], curves.high[f], color=ACCENT, alpha=0.2, lw=0)
    panel.plot(curves.x, estimate, color=ACCENT, lw=2)
    found = "not told from chance"
    if np.isfinite(onset):
        found = f"above chance from {100 * onset:.0f} % on"
        at = np.argmin(np.abs(curves.x - onset))
        panel.vlines(onset, bottom, estimate[at], color=ACCENT, lw=0.9, ls=(0, (2, 2)))
        panel.plot(onset, estimate[at], "o", color=ACCENT, ms=6.5, mec="white", zorder=5)
    text = f"{found}\nat the end {estimate[-1]:.2f}"
    panel.text(0.03, 0.98, text, transform=panel.transAxes, va="top", size=8.5)
    panel.set_ylim(bottom, 1.13)  # room for the text
    panel.set_yticks(np.arange(math.ceil(bottom * 10) / 10, 1.05, 0.1))


def _detection_legend(figure: Figure, with_words: bool) -> None:
    handles = {
        "this feature": Line2D([], [], color=ACCENT, lw=2),
        "simultaneous 95 % band": Line2D([], [], color=ACCENT, lw=8, alpha=0.2),
        "band above chance from here on": Line2D([], [], color=ACCENT, lw=0, marker="o", ms=6.5, mec="white"),
        "other features": Line2D([], [], color=OTHER_FEATURES, lw=1.2),
        "chance": Line2D([], [], color=MUTED, lw=0.8),
    }
    if with_words:
        handles["words read so far (TF-IDF)"] = Line2D([], [], **WORDS_STYLE)
    legend_below(figure, list(handles.values()), list(handles))


def raster_figure(feature: Feature, raster: Raster, counts: dict[int, int]) -> Figure:
    """Every sentence in which the feature fires, aligned at its peak and grouped by label."""
    figure = new_figure(7.2, 8.2, layout="constrained")
    profile, axes = figure.subplots(2, 1, height_ratios=(1, 4.2), sharex=True)
    _draw_profiles(profile, raster, counts)
    _draw_raster(axes, raster, counts)
    figure.colorbar(axes.images[0], ax=axes, label="activation", shrink=0.6, pad=0.02)
    figure.suptitle(f"{feature.name}: sentences aligned at the peak", x=0.01, ha="left", size=11.5)
    return figure


def _draw_profiles(axes: Axes, raster: Raster, counts: dict[int, int]) -> None:
    """The mean around the peak, one line for each label that fires."""
    for label in sorted(counts, reverse=True):
        if (raster.labels == label).any():
            name = "all sentences" if label == UNLABELLED else f"label {label}"
            axes.plot(raster.tokens_from_peak, raster.profile(label), lw=1.8, label=name, **label_line(label))
    axes.set_ylabel("mean, where it fires")
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(fontsize=9, handlelength=3)


def _draw_raster(axes: Axes, raster: Raster, counts: dict[int, int]) -> None:
    """One row per sentence in blocks by label: label 3 on top, in each the strongest first."""
    x, values = raster.tokens_from_peak, raster.values
    gap = np.full((max(1, round(0.015 * len(values))), len(x)), np.nan, np.float32)  # rows between blocks
    rows, centres, names, ends = [], [], [], []
    height = 0  # rows so far
    for label in sorted(counts, reverse=True):
        block = values[raster.labels == label]
        rows += [block, gap]
        centres.append(height + (len(block) - 1) / 2)
        name = "" if label == UNLABELLED else f"label {label}\n"
        names.append(f"{name}{len(block)} of {counts[label]}\nfire")
        ends.append(height + len(block))
        height += len(block) + len(gap)
    axes.imshow(
        np.ma.masked_invalid(np.concatenate(rows[:-1] if len(values) else rows)),
        cmap=colormaps[HEATMAP_COLOURS].with_extremes(bad=NO_TOKEN),
        vmin=0,
        vmax=np.nanmax(values) if values.size else 1.0,
        aspect="auto",
        interpolation="nearest",
        extent=(x[0] - 0.5, x[-1] + 0.5, max(ends[-1], 1) - 0.5, -0.5),
    )
    for end in ends[:-1]:
        axes.axhspan(end - 0.5, end + len(gap) - 0.5, color="white", lw=0)
    axes.set_yticks(centres, names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("tokens from the peak")


def summary_figure(features: list[Feature], statistics: pd.DataFrame, counts: dict[int, int]) -> Figure:
    """Per feature: share of sentences firing and mean peak by label, and where the peak lies."""
    n = len(features)
    figure = new_figure(13, 0.42 * n + 2.2, layout="constrained")
    firing, peak, position = figure.subplots(1, 3, sharey=True)
    largest = statistics[[f"max_peak_value{label_suffix(k)}" for k in counts]].max(axis=1).replace(0, 1)
    shares = {k: statistics[f"share_firing{label_suffix(k)}"] for k in counts}
    peaks = {k: statistics[f"mean_peak_value{label_suffix(k)}"] / largest for k in counts}
    _draw_by_label(firing, "share of sentences in which it fires", shares, counts)
    _draw_by_label(peak, "mean peak / feature's largest", peaks, counts)
    _draw_peak_positions(position, statistics)
    firing.set_yticks(range(n), [feature.name for feature in features])
    firing.set_ylim(n - 0.5, -0.5)
    figure.suptitle("Where and how strongly the features fire", x=0.01, ha="left", size=11.5)
    legend_below(figure, *firing.get_legend_handles_labels())
    return figure


def _draw_by_label(axes: Axes, x_label: str, by_label: dict[int, pd.Series], counts: dict[int, int]) -> None:
    """One row per feature, in it one mark per label."""
    values = np.stack(list(by_label.values()))  # [n_labels, n_features]
    y = np.arange(values.shape[1])
    axes.hlines(y, values.min(axis=0), values.max(axis=0), color=RANGES, lw=1.5, zorder=1)
    for k, row in zip(by_label, values):
        axes.plot(row, y, ms=8, mec="white", label=label_title(k, counts[k]), **label_mark(k))
    axes.set_xlim(-0.02, 1.05 * max(values.max(), 0.2))
    axes.set_xlabel(x_label)
    axes.grid(axis="y", color=FAINT, lw=0.6)


def _draw_peak_positions(axes: Axes, statistics: pd.DataFrame) -> None:
    y = np.arange(len(statistics))
    axes.axvline(0.5, color=MUTED, lw=0.8)
    axes.hlines(y, statistics["peak_position_low"], statistics["peak_position_high"], color=ACCENT, lw=2)
    axes.plot(statistics["mean_peak_position"], y, "o", color=ACCENT, ms=7, mec="white")
    for row, activator in zip(y, statistics["activator"]):
        axes.text(1.01, row, activator, va="center", size=9, transform=axes.get_yaxis_transform())
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean position of the peak (95 % interval)")
    axes.grid(axis="y", color=FAINT, lw=0.6)
