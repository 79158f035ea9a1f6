"""Renders report.html: one self-contained page from the tables of a finished analysis."""

import io
from itertools import pairwise
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from feature_ranking.ranking import Ranking
from markupsafe import Markup
from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report_template.html")
BLUE, ORANGE, GREY = "#1f5a85", "#d9731a", "#9aa3ab"
LABEL_NAMES = {
    3: "plainly about the trait",
    2: "trait present, weak or partial",
    1: "same domain, trait not shown",
    0: "irrelevant",
}
N_NEAREST_MISSES = 15
N_OWN_TICKS = 8  # up to here each layer or L0 gets a tick of its own
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#55606a",
    "axes.labelcolor": "#2a3138",
    "xtick.color": "#55606a",
    "ytick.color": "#55606a",
}


def render_report(ranking: Ranking, examples: list[dict], record: dict, trait: str) -> str:
    """The page as HTML text; `examples` is the content of feature_examples.json, `record` of run.json."""
    features = ranking.ranked.astype(object).where(ranking.ranked.notna(), None).to_dict("records")
    members = ranking.ranked.groupby("family_id")["rank"].agg(list).to_dict()
    for feature, example in zip(features, examples):
        means = np.array([feature[f"mean_label_{label}"] for label in range(4)])
        feature["bars"] = (means / max(means.max(), 1e-12)).tolist()  # share of the highest mean
        feature["family"] = members[feature["family_id"]]
        feature["examples"] = example["examples"]
        feature["peak"] = max(
            (max(e["activations"]) for by_label in example["examples"].values() for e in by_label),
            default=1.0,
        )
    missed = ranking.discovery[ranking.discovery["failed_filters"] != ""].head(N_NEAREST_MISSES)
    has_confirmation = record["summary"]["n_confirmed"] is not None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    environment.globals["zip"] = zip
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        trait=trait.replace("_", " "),
        record=record,
        summary=record["summary"],
        arguments=record["arguments"],
        has_confirmation=has_confirmation,
        contrasts=[
            c.removeprefix("contrast_share_") for c in ranking.ranked if c.startswith("contrast_share_")
        ],
        features=features,
        misses=missed.to_dict("records"),
        label_names=LABEL_NAMES,
        scatter=to_svg(plot_confirmation(ranking.ranked), "scatter")
        if has_confirmation and features
        else None,
        sae_map=to_svg(plot_sae_map(ranking.best_per_sae, has_confirmation), "map"),
    )


def format_number(value: float | None, digits: int = 3) -> str:
    """A figure for a table cell: fixed decimals, `<` below the last one, empty where there is no value."""
    if value is None or not np.isfinite(value):
        return ""
    if 0 < value < 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def plot_confirmation(ranked: pd.DataFrame) -> Figure:
    """Spearman's rho of each ranked feature: discovery (x), held-out sentences with 95 % intervals (y)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        x, y = ranked["spearman_corr"].to_numpy(), ranked["confirm_spearman"].to_numpy()
        low, high = ranked["confirm_spearman_low"].to_numpy(), ranked["confirm_spearman_high"].to_numpy()
        confirmed = ranked["confirmed"].to_numpy(dtype=bool)
        for chosen, color, name in ((confirmed, BLUE, "confirmed"), (~confirmed, ORANGE, "not confirmed")):
            if chosen.any():
                axes.vlines(x[chosen], low[chosen], high[chosen], color=color, alpha=0.3, linewidth=1.2)
                label = f"{name} ({chosen.sum()})"
                axes.scatter(x[chosen], y[chosen], s=26, color=color, label=label, zorder=3, linewidth=0)
        axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="equal")
        axes.axhline(0, color="#d5dade", linewidth=1, zorder=0)
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
            edgecolor="#2a3138",
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
                color="#2a3138",
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
        axes.grid(color="#edf0f2", zorder=0)
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
