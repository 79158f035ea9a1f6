"""Figures without a window, and as files: the same input gives the same bytes."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def new_figure(width: float, height: float, **options) -> Figure:
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def figure_bytes(figure: Figure, file_format: str, dpi: int) -> bytes:
    """The figure as a file; the time of day is kept out of it, so the same input gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(file_format, {})
    figure.savefig(buffer, format=file_format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
