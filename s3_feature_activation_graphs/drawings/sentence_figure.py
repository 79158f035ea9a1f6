"""Draws the arrays of `activation_trajectories.py` with matplotlib; no statistics are computed here."""

import functools
import io
import math
import os
import textwrap
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from activation_trajectories import LABELS, Curves, EarlyDetection, Raster
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.lines import Line2D
from PIL import Image
from trajectory_inputs import Feature

LABEL_NAMES = ("unrelated", "same domain, no trait", "partial", "plainly the trait")
# Okabe and Ito's colours without yellow; colour and marker have coprime periods, so 70 features differ, and
# the markers carry the figure in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", "h", ">")
DASHES = ("-", (0, (6, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
# Lightness falls with the label, so its order survives greyscale.
LABEL_COLOURS = ("#C4B15A", "#DD8440", "#BE3A62", "#3B0F5C")
LABEL_DASHES = ((0, (1, 1)), (0, (4, 1, 1, 1)), (0, (5, 1.5)), "-")
GREY, LIGHT_GREY = "#6b6b6b", "#e2e2e2"
HEATMAP_COLOURS = "Blues"  # nearly white at 0

LEFT, RIGHT, TOP = 1.0, 3.05, 1.3  # inches of a sentence figure: axis labels, legend, title
TOKEN_SIZE = 10.0  # points
TOKEN_SPACING = 13.5  # points from token to token at least; below it slanted texts collide
TOKEN_ANGLE = 55  # degrees
CHARACTER_WIDTH = 0.62  # of the font size: DejaVu Sans on average


# --- text -------------------------------------------------------------------------------------------


def columns(text: str) -> int:
    """Width of `text` in columns: a wide (CJK) character takes two."""
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def wrap(text: str, width: int, max_lines: int) -> str:
    """Wrap `text` to `width` columns, the last line ending in an ellipsis where it does not fit."""
    characters = max(2, round(width * len(text) / columns(text))) if text else width
    return "\n".join(textwrap.wrap(text, characters, max_lines=max_lines, placeholder="…"))


@functools.cache
def _codepoints(family: str) -> frozenset[int]:
    """The characters that the fonts of that family have."""
    points: set[int] = set()
    for path in sorted({font.fname for font in fontManager.ttflist if font.name == family}):
        try:
            points.update(get_font(path).get_charmap())
        except (RuntimeError, OSError):  # a bitmap font, as colour emoji are: matplotlib cannot draw with it
            continue
    return frozenset(points)


@dataclass(frozen=True)
class Typography:
    """The font families of a run, in the order in which a glyph is looked up, and what none of them has."""

    families: tuple[str, ...] = ("DejaVu Sans",)
    missing: frozenset[str] = frozenset()

    @classmethod
    def covering(cls, texts: Iterable[str]) -> "Typography":
        """Choose among the installed fonts until every character of `texts` has one, if there is one.

        matplotlib warns for every glyph that it does not find, and by default it looks in one family only.
        """
        characters = set().union(*texts)
        needed = {ord(c) for c in characters if not unicodedata.category(c).startswith("C")}
        families = ["DejaVu Sans"]  # comes with matplotlib
        missing = needed - _codepoints(families[0])
        # matplotlib's last resort has every character, as a box that names its script.
        installed = {font.name for font in fontManager.ttflist if not font.name.startswith("Last Resort")}
        while missing:
            best = max(sorted(installed), key=lambda name: len(missing & _codepoints(name)), default=None)
            if best is None or not missing & _codepoints(best):
                break
            families.append(best)
            missing -= _codepoints(best)
        return cls(tuple(families), frozenset(map(chr, missing)))

    def drawable(self, text: str) -> str:
        """`text` with every character replaced that would draw as nothing or as a warning."""
        return "".join(self._drawable_character(c) for c in text)

    def _drawable_character(self, c: str) -> str:
        if c in "\n\t\u00a0":
            return {"\n": "⏎", "\t": "⇥", "\u00a0": " "}[c]
        if c in "\ufe0e\ufe0f":  # variation selectors only choose between two forms of an emoji
            return ""
        if unicodedata.category(c).startswith("C"):
            return f"\\u{ord(c):04x}"
        return "□" if c in self.missing else c

    def token(self, token: str, max_len: int) -> str:
        """The axis label of a token: a space as `·`, so that word starts show; cut at `max_len` columns."""
        text = self.drawable(token.replace("▁", " ")).replace(" ", "·")
        if columns(text) <= max_len:
            return text
        while columns(text) > max_len - 1:
            text = text[:-1]
        return text + "…"

    def rc_settings(self) -> dict:
        """The rcParams that all figures are drawn under."""
        return {
            "font.family": list(self.families),
            "text.parse_math": False,  # a token may hold "$"
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": GREY,
            "axes.axisbelow": True,
            "axes.labelsize": 10,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "xtick.labelcolor": "black",
            "ytick.labelcolor": "black",
            "legend.frameon": False,
            "svg.hashsalt": "trait-tracing",
            "pdf.fonttype": 42,
        }


def word_starts(tokens: np.ndarray) -> np.ndarray:
    """[m] bool: tokens that begin a word, by a space before them or at the end of the token before."""
    starts = np.char.startswith(tokens, " ") | np.char.startswith(tokens, "▁")
    starts[1:] |= np.char.endswith(tokens[:-1], " ")
    starts[:1] = True
    return starts


# --- files ------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name and rename it, so that a file of the name `path` is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def figure_bytes(figure: Figure, file_format: str, dpi: int) -> bytes:
    """The figure as a file; the time of day is kept out of it, so the same input gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(file_format, {})
    figure.savefig(buffer, format=file_format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float, **options) -> Figure:
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


# --- one sentence -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SentenceStyle:
    """How sentence figures look; width and height in inches, of a figure with one row of tokens."""

    kind: str = "lines"  # lines, heatmap or both
    relative: bool = True  # draw each feature's lines as a share of its largest activation
    width: float = 14.0
    height: float = 7.0
    dpi: int = 120
    file_format: str = "png"
    max_token_len: int = 14

    @property
    def tokens_per_row(self) -> int:
        return max(1, int((self.width - LEFT - RIGHT) * 72 / TOKEN_SPACING))

    @property
    def token_height(self) -> float:
        """Inches that the slanted token texts take under each row."""
        length = self.max_token_len * CHARACTER_WIDTH * TOKEN_SIZE
        return (length * math.sin(math.radians(TOKEN_ANGLE)) + TOKEN_SIZE + 12) / 72


def feature_style(i: int) -> dict:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[(i // len(COLOURS)) % len(DASHES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


class SentenceFigure:
    """A figure for all sentences that fill `n_rows` rows of tokens; its artists are updated, not made anew.

    Axes, ticks and legend take longer to draw than the lines, and are the same for every sentence: a PNG
    is drawn over a copy of their pixels.
    """

    def __init__(
        self,
        features: list[Feature],
        scale: np.ndarray,
        typography: Typography,
        style: SentenceStyle,
        n_rows: int,
    ):
        self.style, self.typography, self.n_rows = style, typography, n_rows
        panel = style.height - TOP - style.token_height
        # The rows of a long sentence are flatter, or the figure would not fit on a page.
        row_height = panel if n_rows == 1 else max(1.3, (0.8 if style.kind == "both" else 0.5) * panel)
        height = TOP + n_rows * (row_height + style.token_height)
        self.figure = new_figure(style.width, height, dpi=style.dpi)
        left, width = LEFT / style.width, (style.width - LEFT - RIGHT) / style.width
        self.rows = []
        for r in range(n_rows):
            bottom = height - TOP - (r + 1) * row_height - r * style.token_height
            box = (left, bottom / height, width, row_height / height)
            self.rows.append(_TokenRow(self.figure, box, features, scale, style))
        right = (style.width - RIGHT + 0.12) / style.width
        self._add_legend(features, scale, right, 1 - TOP / height, panel)
        if style.kind != "lines":
            bar = self.figure.add_axes((right, 1 - 0.5 / height, 1.9 / style.width, 0.13 / height))
            self.figure.colorbar(self.rows[0].image, cax=bar, orientation="horizontal", ticks=[0, 0.5, 1])
            bar.set_title("activation / feature's largest", size=8.5, pad=3)
            bar.tick_params(labelsize=8, length=2)
        self.title_bottom, self.line_height = 1 - (TOP - 0.14) / height, 11.5 * 1.45 / 72 / height
        self.heading = self.figure.text(left, 0, "", va="bottom", weight="bold", size=12)
        self.sentence = self.figure.text(
            left, self.title_bottom, "", va="bottom", size=11.5, linespacing=1.25
        )
        self.dynamic = [self.heading, self.sentence, *(artist for row in self.rows for artist in row.dynamic)]
        self._background = None

    def _add_legend(
        self, features: list[Feature], scale: np.ndarray, left: float, top: float, height: float
    ) -> None:
        size = min(8.5, height * 72 / (3.2 * len(features)))  # points
        two_lines = size >= 6
        if not two_lines:
            size = min(8.5, height * 72 / (1.6 * len(features)))
        labels = []
        for feature, largest in zip(features, scale):
            score = "" if feature.score is None else f"score {feature.score:.2f}"
            peak = f"largest {largest:.3g}" if largest > 0 else "never fires"
            details = ", ".join(filter(None, [score, peak if two_lines else ""]))
            labels.append(("\n" if two_lines else ", ").join(filter(None, [feature.name, details])))
        lines = self.style.kind != "heatmap"
        self.figure.legend(
            [
                Line2D([], [], lw=1.8, ms=6.5, **feature_style(i)) if lines else Line2D([], [])
                for i in range(len(features))
            ],
            labels,
            loc="upper left",
            bbox_to_anchor=(left, top),
            borderaxespad=0,
            borderpad=0,
            fontsize=size,
            labelspacing=0.75 if two_lines else 0.3,
            handlelength=3.4 if lines else 0,
            handletextpad=0.8 if lines else 0,
        )

    def draw(
        self, sentence_index: int, label: int, sentence: str, tokens: np.ndarray, activations: np.ndarray
    ) -> None:
        """Show one sentence: `tokens` [m] str, `activations` [m, n_features]."""
        self.heading.set_text(f"Label {label} ({LABEL_NAMES[label]}), sentence {sentence_index}")
        # With a colour bar in the corner the title stops short of it.
        width = self.style.width - LEFT - (0.4 if self.style.kind == "lines" else RIGHT)
        text = wrap(self.typography.drawable(sentence), int(width * 72 / (11.5 * 0.58)), 3)
        self.sentence.set_text(text)
        self.heading.set_y(self.title_bottom + (text.count("\n") + 1) * self.line_height)
        starts = word_starts(tokens)  # [m] bool
        texts = [self.typography.token(token, self.style.max_token_len) for token in tokens]
        per_row = math.ceil(len(tokens) / self.n_rows)
        for r, row in enumerate(self.rows):
            part = slice(r * per_row, (r + 1) * per_row)
            row.draw(texts[part], starts[part], activations[part], per_row)

    def image_bytes(self) -> bytes:
        """The figure as a file of the style's format."""
        if self.style.file_format != "png":
            return figure_bytes(self.figure, self.style.file_format, self.style.dpi)
        canvas = self.figure.canvas
        if self._background is None:
            for artist in self.dynamic:
                artist.set_animated(True)  # leaves it out of the background
            canvas.draw()
            self._background = canvas.copy_from_bbox(self.figure.bbox)
        canvas.restore_region(self._background)
        renderer = canvas.get_renderer()
        for artist in self.dynamic:
            artist.draw(renderer)
        buffer = io.BytesIO()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        image.save(buffer, format="png", dpi=(self.style.dpi,) * 2, compress_level=4)
        return buffer.getvalue()


class _TokenRow:
    """One row of tokens with the lines, the heat map or both over it."""

    def __init__(
        self,
        figure: Figure,
        box: tuple[float, float, float, float],
        features: list[Feature],
        scale: np.ndarray,
        style: SentenceStyle,
    ):
        self.kind = style.kind
        self.largest = np.where(scale > 0, scale, 1)  # [n_features]
        self.unit = self.largest if style.relative else np.ones_like(self.largest)
        self.dynamic: list = []
        self.lines: list[Line2D] = []
        left, bottom, width, height = box
        heat_height = {"lines": 0.0, "heatmap": 1.0, "both": 0.45}[style.kind] * height
        if style.kind != "lines":
            token_axes = figure.add_axes((left, bottom, width, heat_height))
            self._add_heatmap(token_axes, features)
        if style.kind != "heatmap":
            gap = 0.06 * height if style.kind == "both" else 0.0
            line_box = (left, bottom + heat_height + gap, width, height - heat_height - gap)
            line_axes = figure.add_axes(line_box)
            self._add_lines(line_axes, len(features), 1.0 if style.relative else self.largest.max())
            line_axes.set_ylabel(
                "activation /\nfeature's largest" if style.relative else "activation", size=9
            )
            token_axes = token_axes if style.kind == "both" else line_axes
        self.all_axes = figure.axes[-2:] if style.kind == "both" else [token_axes]
        self.texts = [
            token_axes.text(
                0, -0.02, "", transform=token_axes.get_xaxis_transform(), va="top", size=TOKEN_SIZE
            )
            for _ in range(style.tokens_per_row)
        ]
        self.dynamic += self.texts
        self.spacing = width * style.width * 72  # points, of all tokens of the row together

    def _add_lines(self, axes: Axes, n_features: int, top: float) -> None:
        axes.set_ylim(-0.03 * top, 1.06 * top)
        axes.set_xticks([])
        axes.grid(axis="y", color=LIGHT_GREY, lw=0.6)
        self.boundaries = LineCollection(
            [], colors="#d0d0d0", lw=0.7, zorder=1, transform=axes.get_xaxis_transform()
        )
        axes.add_collection(self.boundaries, autolim=False)
        for i in range(n_features):
            # Above the frame, the best feature on top, whether drawn by us or by matplotlib.
            style = {"zorder": 4 - i / n_features, "clip_on": False, **feature_style(i)}
            self.lines += axes.plot([], [], lw=1.7, ms=7, **style)
        self.dynamic += [self.boundaries, *reversed(self.lines)]

    def _add_heatmap(self, axes: Axes, features: list[Feature]) -> None:
        axes.set_xticks([])
        axes.set_yticks(range(len(features)), [feature.short_name for feature in features])
        axes.tick_params(axis="y", labelsize=min(8.5, 150 / len(features)), length=0)
        axes.spines[:].set_visible(False)
        self.image = axes.imshow(
            np.zeros((len(features), 1)),
            cmap=HEATMAP_COLOURS,
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_ylim(len(features) - 0.5, -0.5)
        self.dynamic.append(self.image)

    def draw(self, texts: list[str], starts: np.ndarray, activations: np.ndarray, per_row: int) -> None:
        """Show at most `per_row` tokens: `starts` [m] bool, `activations` [m, n_features]."""
        m = len(texts)
        for axes in self.all_axes:
            axes.set_xlim(-0.5, per_row - 0.5)
        if self.kind != "heatmap":
            self.boundaries.set_segments(
                [[(x - 0.5, 0), (x - 0.5, 1)] for x in np.flatnonzero(starts) if x > 0]
            )
            for line, values in zip(self.lines, (activations / self.unit).T):
                line.set_data(np.arange(m), values)
                line.set_markevery(np.flatnonzero(values > 0).tolist())  # silence needs no marker
        if self.kind != "lines":
            self.image.set_data((activations / self.largest).T if m else np.zeros((len(self.largest), 1)))
            self.image.set_extent((-0.5, max(m, 1) - 0.5, len(self.largest) - 0.5, -0.5))
            self.image.set_visible(m > 0)
        spacing = self.spacing / per_row
        level = max(map(columns, texts), default=0) * CHARACTER_WIDTH * TOKEN_SIZE < 0.95 * spacing
        for x, artist in enumerate(self.texts):
            artist.set_text(texts[x] if x < m else "")
            artist.set(
                x=x,
                rotation=0 if level else TOKEN_ANGLE,
                ha="center" if level else "right",
                rotation_mode="default" if level else "anchor",
                va="top",
            )


# --- overviews --------------------------------------------------------------------------------------


def _panels(
    features: list[Feature], title: str, x_label: str, y_label: str, height: float = 2.35
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each feature, five to a row, all from 0 to 1 on the x axis."""
    n = len(features)
    n_columns = min(5, n)
    n_rows = math.ceil(n / n_columns)
    figure = new_figure(max(2.75 * n_columns, 9.5), height * n_rows + 1.1, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.set_visible(False)
    for i, (feature, panel) in enumerate(zip(features, axes)):
        panel.set_title(feature.name, size=9, loc="left")
        panel.set_xlim(0, 1.01)
        panel.tick_params(labelsize=9)
        if i % n_columns == 0:
            panel.set_ylabel(y_label, size=9.5)
        if i >= n - n_columns:  # no panel below
            panel.set_xlabel(x_label, size=9.5)
        else:
            panel.tick_params(labelbottom=False)
    figure.suptitle(title, x=0.01, ha="left", size=11.5)
    return figure, list(axes[:n])


def _legend_below(figure: Figure, handles: list, names: list[str]) -> None:
    """A legend under the panels, in as many rows as its texts need at this width."""
    character, handle = 0.075, 0.75  # inches: a character of this size, a handle with its gaps
    needed = sum(character * len(name) + handle for name in names)
    n_rows = math.ceil(needed / (figure.get_figwidth() - 0.4))
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=math.ceil(len(names) / n_rows),
        fontsize=9.5,
        handlelength=3,
    )


def _label_legend(figure: Figure, counts: dict[int, int]) -> None:
    handles = [Line2D([], [], color=LABEL_COLOURS[k], linestyle=LABEL_DASHES[k], lw=2) for k in counts]
    names = [f"label {k}: {LABEL_NAMES[k]} (n = {n})" for k, n in counts.items()]
    _legend_below(figure, handles, names)


def mean_trajectory_figure(
    features: list[Feature], curves: dict[int, Curves], counts: dict[int, int]
) -> Figure:
    """Mean activation per label along the sentence, one panel per feature."""
    figure, axes = _panels(
        features,
        "Mean activation along the sentence, by label (shaded: simultaneous 95 % band)",
        "position in the sentence",
        "mean activation",
    )
    for f, panel in enumerate(axes):
        for label, curve in curves.items():
            colour = LABEL_COLOURS[label]
            panel.fill_between(curve.x, curve.low[f], curve.high[f], color=colour, alpha=0.18, lw=0)
            panel.plot(curve.x, curve.estimate[f], color=colour, ls=LABEL_DASHES[label], lw=1.8)
        panel.set_ylim(bottom=0)
    _label_legend(figure, counts)
    return figure


def first_firing_figure(
    features: list[Feature], shares: np.ndarray, curves: dict[int, np.ndarray], counts: dict[int, int]
) -> Figure:
    """Share of sentences in which a feature has fired by then, one panel per feature."""
    figure, axes = _panels(
        features,
        "Share of sentences in which the feature has fired, by label",
        "share of the sentence read",
        "share of sentences",
    )
    for f, panel in enumerate(axes):
        for label, fired in curves.items():
            # Nothing has fired before the first word.
            x, y = np.append(0, shares), np.append(0, fired[f])
            panel.step(x, y, where="post", color=LABEL_COLOURS[label], ls=LABEL_DASHES[label], lw=1.8)
        panel.set_ylim(0, 1.02)
        panel.grid(axis="y", color=LIGHT_GREY, lw=0.6)
    _label_legend(figure, counts)
    return figure


def early_detection_figure(features: list[Feature], early: EarlyDetection, counts: dict[int, int]) -> Figure:
    """AUROC as a function of the share of the sentence read, one panel per feature."""
    curves, words, onset = early.features, early.words, early.onset
    if early.held_out:
        subject = "on the confirmation sentences, which took no part in s2's choice"
    else:
        subject = "on all sentences (optimistic where these chose the features)"
    n_0, n_3 = early.n_by_label[0], early.n_by_label[3]
    figure, axes = _panels(
        features,
        f"How early label 3 (n = {n_3}) is told from label 0 (n = {n_0})\n{subject}",
        "share of the sentence read",
        "AUROC, label 3 against 0",
        height=2.5,
    )
    bottom = min(0.4, np.nanmin(curves.low, initial=0.42) - 0.02)
    for f, panel in enumerate(axes):
        panel.axhline(0.5, color=GREY, lw=0.8)
        panel.plot(curves.x, np.delete(curves.estimate, f, axis=0).T, color="#d4d4d4", lw=0.8)
        if words is not None:
            panel.plot(words.x, words.estimate[0], color="#222222", lw=1.3, ls=(0, (4, 2)))
        colour = COLOURS[0]
        panel.fill_between(curves.x, curves.low[f], curves.high[f], color=colour, alpha=0.2, lw=0)
        panel.plot(curves.x, curves.estimate[f], color=colour, lw=2)
        told = np.isfinite(onset[f])
        if told:
            at = np.argmin(np.abs(curves.x - onset[f]))
            panel.vlines(onset[f], bottom, curves.estimate[f, at], color=colour, lw=0.9, ls=(0, (2, 2)))
            panel.plot(onset[f], curves.estimate[f, at], "o", color=colour, ms=6.5, mec="white", zorder=5)
        found = f"above chance from {100 * onset[f]:.0f} % on" if told else "not told from chance"
        panel.text(
            0.03,
            0.98,
            f"{found}\nat the end {curves.estimate[f, -1]:.2f}",
            transform=panel.transAxes,
            va="top",
            size=8.5,
        )
        panel.set_ylim(bottom, 1.13)  # room for the text
        panel.set_yticks(np.arange(math.ceil(bottom * 10) / 10, 1.05, 0.1))
    handles = [
        Line2D([], [], color=COLOURS[0], lw=2),
        Line2D([], [], color=COLOURS[0], lw=8, alpha=0.2),
        Line2D([], [], color=COLOURS[0], lw=0, marker="o", ms=6.5, mec="white"),
        Line2D([], [], color="#d4d4d4", lw=1.2),
        Line2D([], [], color=GREY, lw=0.8),
    ]
    names = [
        "this feature",
        "simultaneous 95 % band",
        "band above chance from here on",
        "other features",
        "chance",
    ]
    if words is not None:
        handles.append(Line2D([], [], color="#222222", lw=1.3, ls=(0, (4, 2))))
        names.append("words read so far (TF-IDF)")
    _legend_below(figure, handles, names)
    return figure


def raster_figure(feature: Feature, raster: Raster, counts: dict[int, int]) -> Figure:
    """Every sentence in which the feature fires, aligned at its peak and grouped by label."""
    figure = new_figure(7.2, 8.2, layout="constrained")
    profile, axes = figure.subplots(2, 1, height_ratios=(1, 4.2), sharex=True)
    x = np.arange(-raster.reach, raster.reach + 1)
    labels, values = raster.labels, raster.values  # label 3 on top, in each the strongest first
    present = [label for label in reversed(LABELS) if label in counts]
    largest = np.nanmax(values) if values.size else 1.0
    gap = max(1, round(0.015 * len(values)))  # rows between blocks
    blocks, centres, names = [], [], []
    for label in present:
        block = values[labels == label]
        start = sum(len(b) for b in blocks)
        blocks += [block, np.full((gap, len(x)), np.nan, np.float32)]
        centres.append(start + (len(block) - 1) / 2)
        names.append(f"label {label}\n{len(block)} of {counts[label]}\nfire")
        if len(block):
            style = {"color": LABEL_COLOURS[label], "ls": LABEL_DASHES[label], "label": f"label {label}"}
            profile.plot(x, raster.profile(label), lw=1.8, **style)
    rows = np.concatenate(blocks[:-1])
    image = axes.imshow(
        np.ma.masked_invalid(rows),
        cmap=colormaps[HEATMAP_COLOURS].with_extremes(bad="#ededed"),  # grey: no token there
        vmin=0,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
        extent=(x[0] - 0.5, x[-1] + 0.5, len(rows) - 0.5, -0.5),
    )
    ends = np.cumsum([len(block) for block in blocks[:-1]])[::2]
    for end in ends[:-1]:
        axes.axhspan(end - 0.5, end + gap - 0.5, color="white", lw=0)
    axes.set_yticks(centres, names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("tokens from the peak")
    profile.set_ylabel("mean, where it fires")
    profile.set_ylim(bottom=0)
    if profile.lines:
        profile.legend(fontsize=9, handlelength=3)
    figure.colorbar(image, ax=axes, label="activation", shrink=0.6, pad=0.02)
    figure.suptitle(f"{feature.name}: sentences aligned at the peak", x=0.01, ha="left", size=11.5)
    return figure


def summary_figure(features: list[Feature], statistics: pd.DataFrame, counts: dict[int, int]) -> Figure:
    """Per feature: share of sentences firing and mean peak by label, and where the peak lies."""
    n = len(features)
    figure = new_figure(13, 0.42 * n + 2.2, layout="constrained")
    firing, peak, position = figure.subplots(1, 3, sharey=True)
    y = np.arange(n)
    largest = statistics[[f"max_peak_value_label_{k}" for k in counts]].max(axis=1).replace(0, 1)
    for axes, column, unit in (
        (firing, "share_firing_label_{}", 1),
        (peak, "mean_peak_value_label_{}", largest),
    ):
        values = np.stack([statistics[column.format(k)] / unit for k in counts])  # [n_labels, n_features]
        axes.hlines(y, values.min(axis=0), values.max(axis=0), color="#c9c9c9", lw=1.5, zorder=1)
        for k, row in zip(counts, values):
            axes.plot(
                row,
                y,
                "osD^"[k],
                color=LABEL_COLOURS[k],
                ms=8,
                mec="white",
                label=f"label {k}: {LABEL_NAMES[k]} (n = {counts[k]})",
            )
        axes.set_xlim(-0.02, 1.05 * max(values.max(), 0.2))
    centre = statistics["mean_peak_position"].to_numpy()
    low, high = statistics["peak_position_low"].to_numpy(), statistics["peak_position_high"].to_numpy()
    position.axvline(0.5, color=GREY, lw=0.8)
    position.hlines(y, low, high, color=COLOURS[0], lw=2)
    position.plot(centre, y, "o", color=COLOURS[0], ms=7, mec="white")
    for row, activator in zip(y, statistics["activator"]):
        position.text(1.01, row, activator, va="center", size=9, transform=position.get_yaxis_transform())
    position.set_xlim(0, 1)
    for axes, label in (
        (firing, "share of sentences in which it fires"),
        (peak, "mean peak / feature's largest"),
        (position, "mean position of the peak (95 % interval)"),
    ):
        axes.set_xlabel(label)
        axes.grid(axis="y", color=LIGHT_GREY, lw=0.6)
    firing.set_yticks(y, [feature.name for feature in features])
    firing.set_ylim(n - 0.5, -0.5)
    figure.suptitle("Where and how strongly the features fire", x=0.01, ha="left", size=11.5)
    handles, names = firing.get_legend_handles_labels()
    _legend_below(figure, handles, names)
    return figure
