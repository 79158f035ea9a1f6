"""What the figures of this stage share: how labels and features look, grids of panels, legends below."""

import math

from drawing_inputs.feature import Feature
from drawing_inputs.sentence_labels import UNLABELLED, label_title
from drawings.figure_files import new_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from twins_s3.palette import ACCENT, LABEL_COLOURS, SERIES_COLOURS

# Seven colours and ten markers have coprime periods, so 70 features differ; markers tell in greyscale.
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", "h", ">")
DASHES = ("-", (0, (6, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
LABEL_MARKERS = "osD^"
LABEL_DASHES = ((0, (1, 1)), (0, (4, 1, 1, 1)), (0, (5, 1.5)), "-")
HEATMAP_COLOURS = "Blues"  # nearly white at 0


def feature_style(i: int) -> dict:
    return {
        "color": SERIES_COLOURS[i % len(SERIES_COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[(i // len(SERIES_COLOURS)) % len(DASHES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def label_line(label: int) -> dict:
    """How the line of a label looks, or of all sentences where they have no labels."""
    if label == UNLABELLED:
        return {"color": ACCENT, "linestyle": "-"}
    return {"color": LABEL_COLOURS[label], "linestyle": LABEL_DASHES[label]}


def label_mark(label: int) -> dict:
    marker = "o" if label == UNLABELLED else LABEL_MARKERS[label]
    return {"color": label_line(label)["color"], "marker": marker, "linestyle": "none"}


def feature_panels(
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


def legend_below(figure: Figure, handles: list, names: list[str]) -> None:
    """A legend under the panels, in as few rows as its texts need at this width."""
    fitting = (n for n in range(1, len(names)) if legend_inches(names, n) < figure.get_figwidth())
    n_rows = next(fitting, len(names))
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=math.ceil(len(names) / n_rows),
        fontsize=9.5,
        handlelength=3,
    )


def legend_inches(names: list[str], n_rows: int) -> float:
    """About how wide a legend is that is filled column by column: a column is as wide as its longest text."""
    character, handle, frame = 0.075, 0.75, 0.4  # inches: of this size; a handle with its gaps
    columns = [names[start : start + n_rows] for start in range(0, len(names), n_rows)]
    return frame + sum(handle + character * max(map(len, column)) for column in columns)


def label_legend(figure: Figure, counts: dict[int, int]) -> None:
    handles = [Line2D([], [], lw=2, **label_line(label)) for label in counts]
    legend_below(figure, handles, [label_title(label, n) for label, n in counts.items()])
