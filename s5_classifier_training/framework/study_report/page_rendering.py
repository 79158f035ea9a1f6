"""Renders the page: one file without scripts, that loads nothing."""

import os
from pathlib import Path
from urllib.parse import quote

import jinja2
from study_report.measured import Measured
from study_report.probe_findings import BASELINES, MEASURE_NAMES
from study_report.result_figures import whisker
from study_report.study_content import StudyContent
from study_report.wording import (
    METRIC_NAMES,
    PROBE_NAMES,
    counted,
    interval_words,
    is_number,
    layer_words,
    listed,
    number,
)
from twins_s5.palette import FAINT, INK, LABEL_COLOURS, MUTED, SERIES_COLOURS

TEMPLATES = Path(__file__).parent / "templates"
LABEL_NAMES = {
    0: "irrelevant",
    1: "same domain, trait not shown",
    2: "trait present, weak or partial",
    3: "plainly about the trait",
}


def render(content: StudyContent, output: Path) -> str:
    """The page as HTML text; its links are relative to the folder of `output`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    start = output.absolute().parent
    environment.filters |= {
        "number": number,
        "counted": counted,
        "listed": listed,
        "layer": layer_words,
        "layers": interval_words,
        "probe_name": PROBE_NAMES.get,
        "position": list.index,
        "link": lambda path: relative_link(path, start),
        "shown_path": lambda path: os.path.relpath(path, start),
    }
    environment.globals |= {
        "whisker": whisker,
        "Measured": Measured,
        "baselines": BASELINES,
        "measure_names": MEASURE_NAMES,
        "is_number": is_number,
        "web_address": web_address,
        "metric_names": METRIC_NAMES,
        "probe_names": PROBE_NAMES,
        "label_names": LABEL_NAMES,
        "colours": {
            "series": SERIES_COLOURS,
            "labels": LABEL_COLOURS,
            "ink": INK,
            "soft": MUTED,
            "line": FAINT,
        },
    }
    return environment.get_template("study.html").render(content=content)


def relative_link(path: Path, start: Path) -> str:
    """`path` as seen from the folder `start`, quoted for an href."""
    relative = os.path.relpath(path, start)
    return quote(relative.replace(os.sep, "/"))


def web_address(text: object) -> str | None:
    """A web address of a results file, or None: what is no such address becomes no link."""
    return text if isinstance(text, str) and text.startswith(("https://", "http://")) else None
