"""The audit as a picture: what a reviewer would look at first."""

from collections.abc import Iterable, Sequence

import numpy as np
from audit.objections import SIGNIFICANT
from audit.text_models import word_counts
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sentences.labelled_tables import LABELS, LabelledSentence
from twins_s0.palette import ACCENT, FAINT, INK, LABEL_COLOURS, MUTED


def draw_audit(report: dict, table: Sequence[LabelledSentence], title: str) -> Figure:
    """Label counts, lengths, text-only models, one-sided n-grams, surface cues, registers where known."""
    labels = np.array([row.label for row in table])
    words = word_counts([row.sentence for row in table])
    last_row = ["cues", "registers" if report["registers"] else "cues"]
    figure = Figure(figsize=(10, 11), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplot_mosaic([["counts", "lengths"], ["models", "ngrams"], last_row])
    draw_counts(axes["counts"], report)
    draw_lengths(axes["lengths"], words, labels, report)
    draw_baselines(axes["models"], report)
    draw_ngrams(axes["ngrams"], report)
    draw_cues(axes["cues"], report)
    if report["registers"]:
        draw_registers(axes["registers"], report["registers"])
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_counts(ax: Axes, report: dict) -> None:
    counts = [report["label_counts"][str(label)] for label in LABELS]
    bars = ax.bar(LABELS, counts, color=LABEL_COLOURS)
    ax.bar_label(bars, padding=2)
    ax.margins(y=0.1)
    ax.set(title="Sentences per label", xlabel="concept strength label", ylabel="sentences", xticks=LABELS)


def draw_lengths(ax: Axes, words: np.ndarray, labels: np.ndarray, report: dict) -> None:
    """Cumulative distributions: curves that lie on each other are what length must look like."""
    for label in LABELS:
        own = np.sort(words[labels == label])
        if len(own):
            ax.step(
                np.concatenate([[0], own]),
                np.arange(len(own) + 1) / len(own),
                where="post",
                color=LABEL_COLOURS[label],
                label=f"label {label} (median {np.median(own):g})",
            )
    rho = report["spearman_words_label"]
    ax.set(
        title="Length" if rho is None else f"Length (Spearman with label {rho:+.2f})",
        xlabel="words in the sentence",
        ylabel="share of sentences at most as long",
        xlim=(0, words.max() + 1),
        ylim=(0, 1.02),
    )
    ax.legend(frameon=False, loc="upper left")


def draw_baselines(ax: Axes, report: dict) -> None:
    ax.set_title("Models that see only the text, grouped 5-fold")
    if report["baselines"] is None:
        ax.text(0.5, 0.5, "too few scenes for cross-validation", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    names = {name: model_name(name) for name in report["baselines"]}
    y = np.arange(len(names))
    for shift, key, colour, text in (
        (-0.2, "accuracy", ACCENT, "accuracy"),
        (0.2, "quadratic_kappa", MUTED, "quadratic kappa"),
    ):
        values = [report["baselines"][name][key] or 0.0 for name in names]
        ax.barh(y + shift, values, height=0.38, color=colour, label=text)
        for row, value in zip(y + shift, values):  # to the right of zero also where the value is negative
            ax.text(max(value, 0) + 0.015, row, f"{value:.2f}", va="center", fontsize=9)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set(yticks=y, yticklabels=names.values(), xlim=(min(0, ax.get_xlim()[0]), 1), xlabel="score")
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper right")


def model_name(name: str) -> str:
    known = {"stop_words": "function words", "tfidf": "TF-IDF"}
    return known.get(name, name.replace("tfidf_", "TF-IDF, rows: "))


def draw_ngrams(ax: Axes, report: dict, per_label: int = 5) -> None:
    entries = [
        entry
        for label in LABELS
        for entry in [e for e in report["telling_ngrams"] if e["label"] == label][:per_label]
    ]
    limit = report["telling_limit_z"]
    if not entries:
        ax.text(0.5, 0.5, "no word is frequent enough", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    y = np.arange(len(entries))
    colours = [LABEL_COLOURS[entry["label"]] for entry in entries]
    bars = ax.barh(y, [entry["z"] for entry in entries], color=colours, height=0.8)
    texts = [f"{entry['share_in_label']:.0%} / {entry['share_elsewhere']:.0%}" for entry in entries]
    ax.bar_label(bars, texts, padding=2, fontsize=7)
    ax.axvline(limit, color=INK, linestyle=":", linewidth=1)
    ax.set_yticks(y, [entry["text"] for entry in entries], fontsize=8)
    ax.set_ylim(len(entries) - 0.4, -0.6)
    ax.set(
        title="Most one-sided n-grams of each label",
        xlabel="z, with shares of the label / of the others\n(telling: beyond the dotted line)",
        xlim=(0, 1.2 * max(limit, *(entry["z"] for entry in entries))),
    )


def draw_cues(ax: Axes, report: dict) -> None:
    """The share of each label's sentences that have a cue; dots on each other are what it must look like."""
    names = [entry["cue"].replace("_", " ") for entry in report["surface_cues"]]
    totals = report["label_counts"].values()
    shares = [label_shares(entry["sentences"], totals) for entry in report["surface_cues"]]
    draw_shares(ax, names, np.array(shares))
    for row, entry in enumerate(report["surface_cues"]):
        weight = "bold" if entry["p_adjusted"] < SIGNIFICANT else "normal"
        text = f"p {entry['p_adjusted']:.2g}"
        ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8, weight=weight)
    ax.set(title="Surface cues (Holm-adjusted p)", xlabel="share of the label's sentences that have it")
    ax.legend(frameon=False, loc="upper right", title="label", fontsize=8)


def draw_registers(ax: Axes, registers: dict) -> None:
    counts = registers["sentences"]
    totals = np.sum(list(counts.values()), axis=0)
    draw_shares(ax, list(counts), np.array([label_shares(own, totals) for own in counts.values()]))
    title = f"Registers (chi-squared p {registers['chi_squared_p']:.2g})"
    ax.set(title=title, xlabel="share of the label's sentences")


def label_shares(counts: Iterable[int], totals: Iterable[int]) -> list[float]:
    """Counts by label as shares of the label's sentences, NaN for a label without any."""
    return [count / total if total else np.nan for count, total in zip(counts, totals)]


def draw_shares(ax: Axes, names: Sequence[str], shares: np.ndarray) -> None:
    """One row per name with a dot for each label. shares: float64 [n_names, 4]."""
    y = np.arange(len(names))
    ax.hlines(y, 0, np.nanmax(shares, axis=1), color=FAINT, zorder=0)
    for label in LABELS:
        ax.scatter(shares[:, label], y, color=LABEL_COLOURS[label], s=28, label=str(label), clip_on=False)
    ax.set_yticks(y, names)
    ax.set_xlim(0, 1.05 * max(np.nanmax(shares), 0.1))
    ax.invert_yaxis()
