"""The report's templates, with autoescaping: sentences, tokens and what others wrote are anybody's input."""

from pathlib import Path

import jinja2
import numpy as np
from twins_s2.palette import ACCENT, CONTRAST, FAINT, INK, LABEL_COLOURS, MUTED

TEMPLATES = Path(__file__).parent
COLOURS = {
    "accent": ACCENT,
    "contrast": CONTRAST,
    "ink": INK,
    "muted": MUTED,
    "faint": FAINT,
    "labels": LABEL_COLOURS,
}


def report_templates() -> jinja2.Environment:
    """Templates with the filter `number`, `zip` and the colours of the palette."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.globals.update(zip=zip, colours=COLOURS)
    return environment


def format_number(value: float | None, digits: int = 3) -> str:
    """A figure for a table cell: fixed decimals, `<` below the last one, empty where there is no value."""
    if value is None or not np.isfinite(value):
        return ""
    if 0 < value < 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
