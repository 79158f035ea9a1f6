"""What every panel over layers has: the layer axis, names at the right edge, and the metric's title."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from twins_s5.palette import MUTED

LABEL_GAP = 0.045  # of the axis height


def metric_title(metric: str, classes: list[int]) -> str:
    """The metric and the labels that it is about."""
    if metric == "auroc":
        return f"AUROC, label {classes[-1]} against {classes[0]}"
    if len(classes) == 2:
        name = "Cohen's kappa" if metric == "kappa" else metric
        return f"{name}, labels {classes[0]} and {classes[1]}"
    return f"{'quadratic weighted kappa' if metric == 'kappa' else metric}, all labels"


def label_lines(axis: Axes, heights: dict[str, float], colours: dict[str, str] | None = None) -> None:
    """Write each name at the right edge at its height, moved up where two would overlap."""
    low, high = axis.get_ylim()
    reached = -np.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        place = max((height - low) / (high - low), reached + LABEL_GAP)
        reached = place
        axis.annotate(
            name,
            (1, place),
            xycoords="axes fraction",
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=(colours or {}).get(name, MUTED),
        )


def set_layer_axis(axis: Axes, layers: np.ndarray) -> None:
    """Whole layer numbers and a little room on both sides."""
    axis.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("layer (residual stream after the block)")
