"""Figures of the emergence study, drawn from the content of emergence.json."""

from pathlib import Path

import numpy as np
import pandas as pd
from figures.figure_files import new_figure, save
from figures.layer_axes import label_lines, metric_title, set_layer_axis
from figures.sentence_panels import draw_sentences, sets_apart, sets_of_transfer
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from twins_s5.palette import FAINT, INK, MUTED, SERIES_COLOURS

PROBE_COLOURS = dict(zip(("logistic", "ridge", "diffmeans"), SERIES_COLOURS))
PROBE_NAMES = {"logistic": "logistic probe", "ridge": "ridge probe", "diffmeans": "difference of means"}
FLOORS = {"tfidf": ("TF-IDF", "-"), "length": ("length", (0, (4, 2))), "majority": ("majority", (0, (1, 2)))}
SHUFFLED_COLOUR = SERIES_COLOURS[5]
LANDMARKS = (("onset", "o", "onset"), ("half_maximum", "d", "half-maximum"), ("peak", "^", "peak"))
SPARSE, DENSE = np.array(to_rgb(SERIES_COLOURS[5])), np.array(to_rgb(INK))  # SAEs of lowest and highest L0


def draw_probes(axis: Axes, entry: dict, lead: str, metric: str) -> None:
    """Every probe by layer, the lead probe with its simultaneous band, above floors and shuffled labels."""
    layers = np.array(entry["layers"])
    for name, (_, style) in FLOORS.items():
        axis.axhline(entry["floors"][name][metric]["value"], color=MUTED, lw=1, ls=style, zorder=1)
    tfidf = entry["floors"]["tfidf"][metric]
    axis.axhspan(tfidf["low"], tfidf["high"], color=MUTED, alpha=0.16, lw=0, zorder=0)
    for probe in reversed(entry["probes"]):
        figures = entry["probes"][probe][metric]
        colour, is_lead = PROBE_COLOURS[probe], probe == lead
        if is_lead:
            axis.fill_between(
                layers,
                figures["shuffled_low"],
                figures["shuffled_high"],
                color=SHUFFLED_COLOUR,
                alpha=0.25,
                lw=0,
            )
            axis.fill_between(
                layers, figures["band_low"], figures["band_high"], color=colour, alpha=0.2, lw=0
            )
        axis.plot(
            layers,
            figures["value"],
            color=colour,
            lw=2 if is_lead else 1.1,
            marker="o" if is_lead else None,
            ms=3.4,
            zorder=3 if is_lead else 2,
        )
    axis.set_ylabel(metric_title(metric, entry["classes"]))
    set_layer_axis(axis, layers)


def draw_onset(axis: Axes, entry: dict, lead: str, metric: str) -> None:
    """Mark the onset above the panel, and along the bottom the layers that clear every floor."""
    figures, layers = entry["probes"][lead][metric], np.array(entry["layers"])
    cleared = layers[np.array(figures["clears"], bool)]
    axis.plot(
        cleared,
        np.full(len(cleared), 0.018),
        "s",
        color=INK,
        ms=2.8,
        transform=axis.get_xaxis_transform(),
        zorder=5,
    )
    if figures["onset"] is None:
        axis.set_title("no onset: no two layers clear every floor", fontsize=8, color=INK, loc="left")
        return
    axis.axvline(figures["onset"], color=INK, lw=0.9, ls=(0, (3, 2)), zorder=1)
    low, high = ("none" if end is None else f"{end:g}" for end in figures["onset_interval"])
    axis.annotate(
        f"onset {figures['onset']:g} [{low}, {high}]",
        (figures["onset"], 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center" if figures["onset"] > layers[0] + 1 else "left",
        va="bottom",
        fontsize=8,
        color=INK,
    )


def draw_rungs(axis: Axes, rungs: pd.DataFrame) -> list[Line2D]:
    """The best single feature of each SAE at its confirmation AUROC with interval; returns the legend's keys.

    Colour is the SAE's sparsity, so that depth is read along one colour. SAEs of one layer stand side by
    side. Without a confirmation part, discovery figures are drawn hollow.
    """
    confirmed = "confirm_auroc" in rungs and rungs["confirm_auroc"].notna().any()
    column = "confirm_auroc" if confirmed else "auroc"
    shown = rungs[rungs[column].notna()].sort_values(["layer", "average_l0"])
    l0s = np.log(shown["average_l0"].clip(lower=1))
    span = max(float(l0s.max() - l0s.min()), 1e-9)
    place = shown.groupby("layer").cumcount() - (shown.groupby("layer")["layer"].transform("size") - 1) / 2
    for row, share, x in zip(shown.itertuples(), (l0s - l0s.min()) / span, shown["layer"] + 0.16 * place):
        colour = tuple(SPARSE + share * (DENSE - SPARSE))
        if confirmed:
            interval = [row.confirm_auroc_low, row.confirm_auroc_high]
            axis.plot([x, x], interval, color=colour, lw=0.9, alpha=0.7)
        face, edge = (colour, "white") if confirmed else ("none", colour)
        axis.plot(x, getattr(row, column), "D", mfc=face, mec=edge, mew=0.5, ms=4.4)
    part = "confirmation sentences" if confirmed else "discovery sentences: optimistic"
    ends = {int(shown["average_l0"].min()): SPARSE, int(shown["average_l0"].max()): DENSE}
    return [
        Line2D(
            [], [], color=tuple(colour), marker="D", ms=4.4, lw=0.9, label=f"best feature, L0 {l0} ({part})"
        )
        for l0, colour in ends.items()
    ]


def draw_trait(path: Path, trait: str, entry: dict, content: dict, rungs: pd.DataFrame | None) -> None:
    """The figure of one trait: all labels, then the two ends of the scale; then the lead probe on other
    sentences, and on plain and hard ones apart, where the study has them.
    """
    lead, metric = content["lead_probe"], content["metric"]
    second = "auroc" if metric != "auroc" else "kappa"
    panels = [(sets_of_transfer(entry, lead, "auroc"), "auroc")] if "transfer" in entry else []
    if "difficulty" in entry.get("apart", {}):
        panels.append((sets_apart(entry["apart"]["difficulty"], lead, metric), metric))
    columns, rows = (3, 1) if len(panels) == 1 else (2, 1 + len(panels) // 2)
    figure, axes = new_figure(4.8 * columns, 4.2 * rows, columns, rows)
    keys = [
        Line2D([], [], color=PROBE_COLOURS[probe], lw=2 if probe == lead else 1.1, label=PROBE_NAMES[probe])
        for probe in entry["probes"]
    ]
    keys += [
        Patch(color=PROBE_COLOURS[lead], alpha=0.2, lw=0, label=f"95 % band of the {PROBE_NAMES[lead]}"),
        Patch(color=MUTED, alpha=0.16, lw=0, label="95 % interval of TF-IDF"),
        Patch(color=SHUFFLED_COLOUR, alpha=0.25, lw=0, label="range under shuffled labels"),
        Line2D([], [], color=INK, marker="s", ms=2.8, ls="", label="layer clears every floor"),
    ]
    for axis, name in zip(axes, (metric, second)):
        draw_probes(axis, entry, lead, name)
        if name == "auroc" and rungs is not None and len(rungs):
            keys += draw_rungs(axis, rungs)
        label_lines(axis, {title: entry["floors"][key][name]["value"] for key, (title, _) in FLOORS.items()})
        draw_onset(axis, entry, lead, name)
    for axis, (sets, name) in zip(axes[2:], panels):
        draw_sentences(axis, np.array(entry["layers"]), sets, PROBE_NAMES[lead])
        axis.set_ylabel(metric_title(name, entry["classes"]))
    figure.suptitle(f"{trait}: {entry['n_sentences']} sentences", x=0.01, ha="left", fontsize=11)
    figure.legend(handles=keys, frameon=False, fontsize=7.8, ncols=4, loc="outside lower center")
    save(figure, path)


def draw_landmarks(axis: Axes, content: dict) -> None:
    """Onset, half-maximum and peak of every trait with intervals; an open end runs to the last layer."""
    lead, metric = content["lead_probe"], content["metric"]
    traits = list(content["traits"])
    for k, trait in enumerate(traits):
        entry, colour = content["traits"][trait], SERIES_COLOURS[k % len(SERIES_COLOURS)]
        figures, last = entry["probes"][lead][metric], entry["layers"][-1]
        for (name, marker, title), shift in zip(LANDMARKS, (0.25, 0.0, -0.25)):
            y = len(traits) - 1 - k + shift
            low, high = figures[f"{name}_interval"]
            if low is not None:
                axis.plot([low, last if high is None else high], [y, y], color=colour, lw=1.8, alpha=0.45)
                if high is None:
                    axis.plot(last, y, ">", color=colour, ms=4)
            if figures[name] is None:
                axis.annotate(f"no {title}", (last, y), ha="right", va="center", fontsize=7, color=colour)
            else:
                axis.plot(figures[name], y, marker, color=colour, ms=6, mec="white", mew=0.6)
    axis.set_yticks(range(len(traits)), traits[::-1])
    axis.set_ylim(-0.5, len(traits) - 0.5)
    axis.grid(axis="x", color=FAINT, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    set_layer_axis(axis, np.array(content["traits"][traits[0]]["layers"]))
    keys = [
        Line2D([], [], color=INK, marker=marker, ms=6, ls="", label=title) for _, marker, title in LANDMARKS
    ]
    axis.legend(
        handles=keys, frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )


def draw_traits(path: Path, content: dict) -> None:
    """The lead probe of all traits above their TF-IDF floors, and the landmarks with their intervals."""
    lead, metric = content["lead_probe"], content["metric"]
    figure, (left, right) = new_figure(9.6, 2.4 + 0.42 * len(content["traits"]), columns=2)
    heights, colours = {}, {}
    for k, (trait, entry) in enumerate(content["traits"].items()):
        colour, figures = SERIES_COLOURS[k % len(SERIES_COLOURS)], entry["probes"][lead][metric]
        left.plot(entry["layers"], figures["value"], color=colour, lw=1.8)
        cleared = np.array(figures["clears"], bool)
        left.plot(
            np.array(entry["layers"])[cleared],
            np.array(figures["value"])[cleared],
            "o",
            color=colour,
            ms=4,
            mec="white",
            mew=0.5,
        )
        left.axhline(entry["floors"]["tfidf"][metric]["value"], color=colour, lw=0.9, ls=(0, (1, 2)))
        heights[trait], colours[trait] = figures["value"][-1], colour
    left.set_ylabel(metric_title(metric, max((e["classes"] for e in content["traits"].values()), key=len)))
    set_layer_axis(left, np.array(next(iter(content["traits"].values()))["layers"]))
    label_lines(left, heights, colours)
    left.set_title(
        f"{PROBE_NAMES[lead]}; dots: layers that clear every floor; dotted: TF-IDF",
        fontsize=8,
        color=INK,
        loc="left",
    )
    draw_landmarks(right, content)
    save(figure, path)
