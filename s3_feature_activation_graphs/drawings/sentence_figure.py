"""The figure of one sentence, drawn many times over: a PNG redraws only what differs between sentences."""

import io
import math

import numpy as np
from drawing_inputs.feature import Feature
from drawing_inputs.sentence_labels import sentence_heading
from matplotlib.lines import Line2D
from PIL import Image
from plotting_utils import feature_style

from .figure_files import figure_bytes, new_figure
from .sentence_style import LEFT, RIGHT, TOP, SentenceStyle
from .token_row import TokenRow
from .typography import Typography, word_starts, wrap


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
            self.rows.append(TokenRow(self.figure, box, features, scale, style))
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
        self.heading.set_text(sentence_heading(label, sentence_index))
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
