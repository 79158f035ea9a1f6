"""The figure of what follows the label against what steers: all features of each SAE, a panel an SAE."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from feature_ranking.ranking import CorrelationMap
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from twins_s2.palette import ACCENT, CONTRAST, FAINT, INK, MUTED

from .report_figures import STYLE

N_CELLS = 90  # per side of a panel; features are counted by cell, which keeps the page small
N_NAMED = 4  # finalists named in a panel at most, the best first
NAME_INCHES = (0.42, 0.13)  # of a name: no two are printed over each other
WIDTH = 11.6  # inches
DENSITY = LinearSegmentedColormap.from_list("density", ["#C3C8CC", INK])


def plot_correlations(
    correlations: CorrelationMap, best_per_sae: pd.DataFrame, marked: pd.DataFrame
) -> Figure:
    """Discovery rho of activation (x) and of steering sensitivity (y) of all eligible features."""
    n_panels = len(correlations.saes)
    n_columns = min(n_panels, next((n for n in (3, 4, 5, 6) if n_panels <= 2 * n), 9))
    n_rows = -(-n_panels // n_columns)
    side = min(WIDTH / n_columns, 3.9)
    height = 0.82 * side * n_rows + 0.7
    reach = tuple(
        1.08 * max(np.nanmax(np.abs(rho), initial=0.1) for rho in of_saes)
        for of_saes in (correlations.activation, correlations.steering)
    )
    with mpl.rc_context(STYLE | {"font.size": 9}):
        figure = Figure(figsize=(side * n_columns, height))
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0.62 / side / n_columns,
            right=1 - 0.06 / side / n_columns,
            bottom=0.5 / height,
            top=1 - 0.28 / height,
            wspace=0.06,
            hspace=0.3 / (0.82 * side - 0.3),
        )
        for panel, sae, x, y in zip(
            panels, correlations.saes, correlations.activation, correlations.steering
        ):
            layer, l0 = best_per_sae.loc[sae, ["layer", "average_l0"]]
            draw_features(panel, x, y, reach, correlations.critical)
            draw_finalists(panel, marked[(marked["layer"] == layer) & (marked["average_l0"] == l0)], reach)
            panel.set_title(f"layer {layer}, L0 {l0}", fontsize=9, color=INK, pad=4)
        for place, panel in enumerate(panels):
            panel.locator_params(nbins=max(2, int(1.8 * side)))
            if place % n_columns:
                panel.set_yticks([])
            if place + n_columns < n_panels:  # a panel is below it
                panel.set_xticks([])
            panel.set_visible(place < n_panels)
        figure.supxlabel("ρ of activation and label", fontsize=10, y=0.06 / height)
        figure.supylabel("ρ of steering sensitivity and label", fontsize=10, x=0.04 / side / n_columns)
    return figure


def draw_features(
    panel: Axes,
    x: np.ndarray,
    y: np.ndarray,
    reach: tuple[float, float],
    critical: tuple[float, float] | None,
) -> None:
    """All features of one SAE as a density, with the lines beyond which p maxT is at most alpha."""
    edges = [np.linspace(-limit, limit, N_CELLS + 1) for limit in reach]
    known = np.isfinite(y)  # a sensitivity that is the same in all sentences has no correlation
    counts = np.histogram2d(x[known], y[known], bins=edges)[0].T
    panel.imshow(
        np.ma.masked_equal(counts, 0),
        origin="lower",
        extent=(-reach[0], reach[0], -reach[1], reach[1]),
        aspect="auto",
        cmap=DENSITY,
        norm=LogNorm(1, max(counts.max(), 10)),
        interpolation="nearest",
        zorder=0.5,
    )
    for line, limit in zip((panel.axvline, panel.axhline), critical or ()):
        line(0, color=FAINT, linewidth=1, zorder=0)
        for at in (-limit, limit) if np.isfinite(limit) else ():
            line(at, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    panel.set_xlim(-reach[0], reach[0])
    panel.set_ylim(-reach[1], reach[1])


def draw_finalists(panel: Axes, marked: pd.DataFrame, reach: tuple[float, float]) -> None:
    """The marked features of one SAE, those that steer in the accent colour, the best with their ids."""
    marked = marked.dropna(subset=["spearman_corr", "steer_spearman"])
    steers = marked["evidence"].isin(["steers", "both"])
    for rows, colour in ((marked[~steers], CONTRAST), (marked[steers], ACCENT)):
        panel.scatter(
            rows["spearman_corr"],
            rows["steer_spearman"],
            s=20,
            color=colour,
            edgecolor="white",
            linewidth=0.6,
            zorder=3,
        )
    places = marked[["spearman_corr", "steer_spearman"]].to_numpy()  # [k, 2]
    inches = panel.get_position().size * panel.figure.get_size_inches()
    room = 2 * np.array(reach) * NAME_INCHES / inches
    named: list[int] = []
    for k in range(len(marked)):
        if len(named) < N_NAMED and (np.abs(places[named] - places[k]) > room).any(axis=1).all():
            named.append(k)
            panel.annotate(
                str(marked["feature_id"].iloc[k]),
                places[k],
                xytext=(-5, 4),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=INK,
                zorder=4,
            )
