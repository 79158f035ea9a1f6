"""One row of tokens with the lines, the heat map or both over it."""

import numpy as np
from drawing_inputs.feature import Feature
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from plotting_utils import HEATMAP_COLOURS, feature_style
from twins_s3.palette import FAINT

from .sentence_style import CHARACTER_WIDTH, TOKEN_ANGLE, TOKEN_SIZE, SentenceStyle
from .typography import columns


class TokenRow:
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
        axes.grid(axis="y", color=FAINT, lw=0.6)
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
