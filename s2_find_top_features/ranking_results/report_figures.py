"""The figures of report.html: held-out against discovery correlations, and where features lie."""

import io
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from twins_s2.palette import ACCENT, CONTRAST, FAINT, INK, MUTED

N_OWN_TICKS = 8  # up to here each layer or L0 gets a tick of its own
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def plot_confirmation(ranked: pd.DataFrame) -> Figure:
    """Spearman's rho of each ranked feature: discovery (x), held-out sentences with 95 % intervals (y)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        x, y = ranked["spearman_corr"].to_numpy(), ranked["confirm_spearman"].to_numpy()
        low, high = ranked["confirm_spearman_low"].to_numpy(), ranked["confirm_spearman_high"].to_numpy()
        confirmed = ranked["confirmed"].to_numpy(dtype=bool)
        for chosen, color, name in (
            (confirmed, ACCENT, "confirmed"),
            (~confirmed, CONTRAST, "not confirmed"),
        ):
            if chosen.any():
                axes.vlines(x[chosen], low[chosen], high[chosen], color=color, alpha=0.3, linewidth=1.2)
                label = f"{name} ({chosen.sum()})"
                axes.scatter(x[chosen], y[chosen], s=26, color=color, label=label, zorder=3, linewidth=0)
        axes.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="equal")
        axes.axhline(0, color=FAINT, linewidth=1, zorder=0)
        axes.set_xlim(x.min() - 0.03, x.max() + 0.03)
        axes.set_ylim(min(0, np.nanmin(low, initial=0)) - 0.04, np.nanmax(high, initial=x.max()) + 0.04)
        axes.set_xlabel("Spearman ρ on discovery sentences (selected on)")
        axes.set_ylabel("Spearman ρ on held-out sentences")
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def plot_sae_map(best_per_sae: pd.DataFrame, has_confirmation: bool) -> Figure:
    """One disc per SAE over layer (x) and average L0 (y, log): its best feature, how many pass."""
    column = "confirm_spearman" if has_confirmation else "spearman_corr"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        axes.set_yscale("log")
        value = best_per_sae[column].to_numpy(dtype=float)
        n_passing = best_per_sae["n_passing"].to_numpy()
        layer, l0 = best_per_sae["layer"].to_numpy(), best_per_sae["average_l0"].to_numpy()
        discs = axes.scatter(
            layer,
            l0,
            s=36 + 34 * np.sqrt(n_passing),
            c=value,
            cmap="viridis",
            vmin=0,
            vmax=max(0.1, np.nanmax(value, initial=0)),
            plotnonfinite=True,
            edgecolor=INK,
            linewidth=np.where(n_passing > 0, 1.2, 0),
        )
        for i in np.flatnonzero(n_passing):
            axes.annotate(
                str(n_passing[i]),
                (layer[i], l0[i]),
                xytext=(0, 9 + 0.9 * np.sqrt(n_passing[i])),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=INK,
            )
        where = "held-out" if has_confirmation else "all"
        figure.colorbar(discs, ax=axes, label=f"best feature's ρ,\n{where} sentences", pad=0.015)
        axes.set_xlabel("layer")
        axes.set_ylabel("average L0 of the SAE")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(np.unique(layer)) <= N_OWN_TICKS:
            axes.set_xticks(np.unique(layer))
        ticks = l0_ticks(l0)
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.margins(x=0.04, y=0.14)
        axes.grid(color=FAINT, zorder=0)
        axes.set_axisbelow(True)
    return figure


def l0_ticks(l0: np.ndarray) -> list[int]:
    """The L0s themselves where they are few and apart, else 1, 2 and 5 times the powers of ten."""
    own = np.unique(l0).tolist()
    if len(own) <= N_OWN_TICKS:
        # 31 and 32 would be printed over each other: of such neighbours the larger is named.
        return [low for low, high in pairwise(own) if high / low > 1.08] + own[-1:]
    ticks = [mantissa * 10**exponent for exponent in range(6) for mantissa in (1, 2, 5)]
    return [tick for tick in ticks if own[0] / 1.5 <= tick <= own[-1] * 1.5]


def to_svg(figure: Figure, name: str) -> Markup:
    """The figure as an inline SVG element, the same bytes for the same figure."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
