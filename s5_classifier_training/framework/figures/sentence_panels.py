"""One probe by layer on several sets of sentences: ours and other people's, or plain and hard ones."""

from dataclasses import dataclass

import numpy as np
from figures.layer_axes import set_layer_axis
from matplotlib.axes import Axes
from twins_s5.palette import SERIES_COLOURS

ROOM_FOR_PEAKS = 0.12  # of the axis height, below the curves


@dataclass(frozen=True)
class SentenceSet:
    """A probe's curve on some sentences, and what TF-IDF tells of them."""

    name: str
    curve: dict  # `value`, `band_low`, `band_high`, `peak`, `peak_interval`
    tfidf: float


def set_of(name: str, block: dict, probe: str, metric: str) -> SentenceSet:
    title = f"{name}, {block['n_sentences']} sentences"
    return SentenceSet(title, block["probes"][probe][metric], block["floors"]["tfidf"][metric]["value"])


def sets_of_transfer(entry: dict, probe: str, metric: str) -> list[SentenceSet]:
    """A trait's own sentences (out of fold), and other sentences."""
    other = entry["transfer"]
    return [set_of("own", entry, probe, metric), set_of(other["name"], other, probe, metric)]


def sets_apart(values: dict[str, dict], probe: str, metric: str) -> list[SentenceSet]:
    """The sentences of each value of a column."""
    return [set_of(value, block, probe, metric) for value, block in values.items()]


def draw_sentences(axis: Axes, layers: np.ndarray, sets: list[SentenceSet], probe_name: str) -> None:
    """Each curve with its band, TF-IDF on the same sentences dotted, and along the bottom where it peaks."""
    for k, (shown, colour) in enumerate(zip(sets, SERIES_COLOURS)):
        low, high = (np.array(shown.curve[f"band_{end}"], float) for end in ("low", "high"))
        axis.fill_between(layers, low, high, color=colour, alpha=0.16, lw=0)
        axis.plot(layers, shown.curve["value"], color=colour, lw=2, marker="o", ms=3.4, label=shown.name)
        axis.axhline(shown.tfidf, color=colour, lw=1, ls=(0, (1, 2)), zorder=1)
        if shown.curve["peak"] is not None:
            height, bottom = 0.03 + 0.05 * k, axis.get_xaxis_transform()
            axis.plot(
                shown.curve["peak_interval"], [height] * 2, color=colour, lw=1.6, alpha=0.5, transform=bottom
            )
            axis.plot(
                shown.curve["peak"], height, "^", color=colour, ms=6, mec="white", mew=0.6, transform=bottom
            )
    set_layer_axis(axis, layers)
    low, high = axis.get_ylim()
    axis.set_ylim(low - ROOM_FOR_PEAKS * (high - low), high)
    axis.legend(
        title=f"{probe_name}; ▲ its peak, with interval; dotted: TF-IDF",
        title_fontsize=8,
        frameon=False,
        fontsize=8,
        ncols=len(sets),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
