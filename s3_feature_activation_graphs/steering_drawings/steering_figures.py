"""Figures of a steering run: dose-response curves beside null directions, prediction against measurement."""

import math

import numpy as np
from drawing_inputs.sentence_labels import LABEL_NAMES
from drawings.figure_files import new_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from plotting_utils import LABEL_DASHES, legend_below
from twins_s3.palette import ACCENT, CONTRAST, FAINT, INK, LABEL_COLOURS, MUTED

from .steering_results import SteeringResults
from .steering_statistics import agreement

NULL_BANDS = {"null_direction": "#e6e6e6", "null_feature": "#bdbdbd"}  # the one behind the other
NULL_NAMES = {"null_feature": "other features", "null_direction": "Gaussian directions"}
PREDICTED = {"color": INK, "lw": 1, "ls": (0, (4, 2))}
Finalist = tuple[int, int, int]


def dose_figure(results: SteeringResults) -> Figure:
    """D(α) of every feature, with the band that null directions of its SAE span."""
    figure, axes = finalist_panels(results, "change of D, nats per token")
    for finalist, panel in zip(results.finalists, axes):
        draw_null_bands(panel, results, finalist)
        gap = results.doses_of(finalist)
        gap = gap[gap["measure"] == "log_prob_gap"]
        draw_curve(panel, gap, ACCENT)
        if gap["predicted"].notna().all():
            panel.plot(gap["alpha"], gap["predicted"], **PREDICTED)
        slope = results.slope_of(finalist)
        interval = f"slope {slope['slope']:+.3f} [{slope['slope_low']:.3f}, {slope['slope_high']:.3f}]"
        title = "\n".join([name_of(finalist), interval, *place_of(results, finalist).split(", ")])
        panel.set_title(title.replace("-", "−"), size=8.5, loc="left")
    figure.suptitle(
        "Does adding the feature favour sentences of the trait? D: log-probability of label 3 minus label 0",
        x=0.01,
        ha="left",
        size=11.5,
    )
    handles = [Line2D([], [], color=ACCENT, lw=2), Line2D([], [], **PREDICTED)]
    handles += [Patch(color=band) for band in NULL_BANDS.values()]
    names = ["measured, 95 %", "first order"]
    names += [f"95 % of {NULL_NAMES[kind]} of equal norm" for kind in NULL_BANDS]
    legend_below(figure, handles, names)
    return figure


def label_figure(results: SteeringResults) -> Figure:
    """The change by label: a gap can open because one side rises or because the other falls."""
    figure, axes = finalist_panels(results, "change of log-probability,\nnats per token")
    for finalist, panel in zip(results.finalists, axes):
        doses = results.doses_of(finalist)
        for label, colour in enumerate(LABEL_COLOURS):
            own = doses[doses["measure"] == f"log_prob_label_{label}"]
            alpha, value = with_origin(own)
            panel.plot(alpha, value, color=colour, linestyle=LABEL_DASHES[label], lw=1.8)
        neutral = doses[doses["measure"] == "neutral_log_prob"]
        if len(neutral):
            panel.plot(*with_origin(neutral), color=MUTED, lw=1.3, marker="o", ms=3)
        panel.set_title(name_of(finalist), size=9, loc="left")
    figure.suptitle("What steering does to sentences of each label", x=0.01, ha="left", size=11.5)
    handles = [
        Line2D([], [], color=colour, linestyle=LABEL_DASHES[label], lw=2)
        for label, colour in enumerate(LABEL_COLOURS)
    ]
    names = [f"label {label}: {name}" for label, name in enumerate(LABEL_NAMES)]
    handles.append(Line2D([], [], color=MUTED, lw=1.3, marker="o", ms=3))
    legend_below(figure, handles, [*names, "neutral text"])
    return figure


def prediction_figure(results: SteeringResults) -> Figure:
    """Measured slope against the first-order prediction, features and null directions alike."""
    figure = new_figure(6.4, 5.6, layout="constrained")
    axes = figure.subplots()
    slopes = results.slopes
    looks = {
        "null_direction": (NULL_BANDS["null_feature"], "o", NULL_NAMES["null_direction"]),
        "null_feature": (MUTED, "o", NULL_NAMES["null_feature"]),
        "feature": (CONTRAST, "D", "steered features"),
    }
    handles, names = [], []
    for kind, (colour, marker, name) in looks.items():
        own = slopes[(slopes["kind"] == kind) & slopes["predicted_slope"].notna()]
        if own.empty:
            continue
        axes.scatter(
            own["predicted_slope"], own["slope"], c=colour, marker=marker, s=26, edgecolor="white", lw=0.5
        )
        handles.append(Line2D([], [], color=colour, marker=marker, ls="", ms=6))
        fit = agreement(own["predicted_slope"].to_numpy(float), own["slope"].to_numpy(float))
        found = "" if fit is None else f", R² {fit.r_squared:.2f}, r {fit.correlation:.2f}"
        names.append(f"{name}: n {len(own)}{found}".replace("-", "−"))
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], **PREDICTED)
    axes.set_xlim(low, high)
    axes.set(xlabel="predicted slope, nats per token", ylabel="measured slope, nats per token")
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    title = "first order against α = ±1" if handles else "no prediction: the feature folder has no gradients"
    axes.set_title(title, size=11, loc="left")
    if handles:
        legend_below(figure, handles, names)
    return figure


def finalist_panels(results: SteeringResults, y_label: str) -> tuple[Figure, list[Axes]]:
    """A panel for each steered feature, five to a row, α on the x axis."""
    n = len(results.finalists)
    n_columns = min(5, n)
    n_rows = math.ceil(n / n_columns)
    figure = new_figure(max(2.9 * n_columns, 9.5), 2.7 * n_rows + 1.1, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.set_visible(False)
    for i, panel in enumerate(axes[:n]):
        panel.axhline(0, color=MUTED, lw=0.8)
        panel.axvline(0, color=MUTED, lw=0.8)
        panel.tick_params(labelsize=9)
        if i % n_columns == 0:
            panel.set_ylabel(y_label, size=9.5)
        if i >= n - n_columns:
            panel.set_xlabel("dose α, in largest activations", size=9.5)
    return figure, list(axes[:n])


def draw_curve(panel: Axes, rows, colour: str) -> None:
    """The values with their intervals; no dose, no change."""
    alpha, value = with_origin(rows)
    panel.plot(alpha, value, color=colour, lw=1.8, marker="o", ms=3.5)
    errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
    panel.errorbar(
        rows["alpha"], rows["value"], yerr=errors, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6
    )


def with_origin(rows) -> tuple[np.ndarray, np.ndarray]:
    """Doses and values with the point (0, 0) in its place."""
    alpha, value = np.append(rows["alpha"], 0.0), np.append(rows["value"], 0.0)
    order = np.argsort(alpha, kind="stable")
    return alpha[order], value[order]


def draw_null_bands(panel: Axes, results: SteeringResults, finalist: Finalist) -> None:
    """What 95 % of null directions do, scaled to this feature's norm, as straight lines through no dose."""
    norm = results.slope_of(finalist)["norm"]
    reach = results.doses_of(finalist)["alpha"].abs().max()
    alpha = np.array([-reach, 0, reach])
    for depth, (kind, band) in enumerate(NULL_BANDS.items()):
        nulls = results.nulls_of(finalist, kind)
        if nulls.empty:
            continue
        low, high = np.quantile(nulls["slope"] / nulls["norm"] * norm, [0.025, 0.975])
        edges = np.sort(np.stack([alpha * low, alpha * high]), axis=0)
        panel.fill_between(alpha, *edges, color=band, lw=0, zorder=depth / 10)


def name_of(finalist: Finalist) -> str:
    layer, average_l0, feature_id = finalist
    return f"layer {layer}, L0 {average_l0}, feature {feature_id}"


def place_of(results: SteeringResults, finalist: Finalist) -> str:
    """How many of the nulls of each kind do less than the feature, per unit of norm; empty without nulls."""
    slope = results.slope_of(finalist)
    own = abs(slope["slope"]) / slope["norm"]
    counts = []
    for kind, name in NULL_NAMES.items():
        nulls = results.nulls_of(finalist, kind)
        if len(nulls):
            below = int(((nulls["slope"] / nulls["norm"]).abs() < own).sum())
            counts.append(f"{below} of {len(nulls)} {name}")
    return f"beyond {', '.join(counts)}" if counts else ""
