"""Figures of held-out results: intervals in cells, probes beside baselines, sentences from elsewhere."""

from markupsafe import Markup
from study_report.measured import Measured
from study_report.probe_findings import BASELINES, MEASURE_NAMES, ProbeFinding
from study_report.svg_canvas import Canvas, Scale, finite_range
from study_report.wording import is_number, number, tick_words

WIDTH = 380
BASELINE_SHAPES = {"tfidf": "diamond", "diff_means": "triangle", "length": "square"}  # drawn one by one
LEAST_DRAWN = -0.6  # worse than that is drawn at the edge; the table has the figure


def whisker(measured: Measured, low: float = 0.0, high: float = 1.0) -> Markup:
    """An interval in a table cell, on a line from `low` to `high` with its middle marked."""
    if not measured.is_known:
        return Markup("")
    canvas = Canvas(84, 16, f"interval {number(measured.low)} to {number(measured.high)}")
    x = Scale(low, high, 2, 82)
    canvas.line(2, 8, 82, 8, "grid")
    canvas.line(x((low + high) / 2), 2, x((low + high) / 2), 14, "axis")
    canvas.line(x(measured.low), 8, x(measured.high), 8, "stroke wide s0")
    canvas.marker(x(measured.value), 8, "dot", "s0 full")
    return canvas.markup()


def probe_figure(probes: list[ProbeFinding]) -> Markup:
    """Every probe with its interval on a row, and its baselines on the same test sentences."""
    shown = [
        value
        for probe in probes
        for value in (
            *probe.test(probe.measure).ends,
            *probe.shuffled_range(probe.measure),
            *(probe.baseline(name, probe.measure) for name in BASELINE_SHAPES),
        )
    ]
    low, high = finite_range(shown, at_least=(0.0, 0.6))
    height = 30 + 46 * len(probes)
    canvas = Canvas(WIDTH, height + 12, "; ".join(map(describe_probe, probes)))
    x, bottom = Scale(max(low, LEAST_DRAWN), min(high, 1.0), 12, WIDTH - 12), height - 22
    for tick in x.ticks(6):
        canvas.line(x(tick), 4, x(tick), bottom, "axis" if tick == 0 else "grid")
        canvas.text(x(tick), bottom + 16, tick_words(tick), "soft", "middle")
    canvas.text(WIDTH / 2, bottom + 31, "0: a constant guess, 1: no error", "soft", "middle")
    for k, probe in enumerate(probes):
        draw_probe_row(canvas, x, 14 + 46 * k, probe)
    return canvas.markup()


def draw_probe_row(canvas: Canvas, x: Scale, top: float, probe: ProbeFinding) -> None:
    name, middle = MEASURE_NAMES[probe.measure], top + 20
    canvas.text(x.start, top + 4, f"{probe.experiment}, {name}", "halo")
    shuffled_low, shuffled_high = probe.shuffled_range(probe.measure)
    if is_number(shuffled_low):
        canvas.line(x(shuffled_low), middle, x(shuffled_high), middle, "stroke broad shuffled")
    test = probe.test(probe.measure)
    if is_number(test.low):
        canvas.line(x(test.low), middle, x(test.high), middle, "stroke wide s0")
    for baseline, shape in BASELINE_SHAPES.items():
        measured = probe.baseline(baseline, probe.measure)
        if is_number(measured):
            title = f"{BASELINES[baseline]}: {number(measured)}"
            canvas.marker(x(measured), middle, shape, "floor hollow", title)
    if test.is_known:
        canvas.marker(x(test.value), middle, "dot", "s0 full", f"probe: {number(test.value)}")


def describe_probe(probe: ProbeFinding) -> str:
    beside = ", ".join(
        f"{title} {number(probe.baseline(name, probe.measure)) or 'none'}"
        for name, title in BASELINES.items()
    )
    return f"{probe.experiment}: {MEASURE_NAMES[probe.measure]} {probe.test(probe.measure).words}; {beside}"


def transfer_figure(rows: list[tuple[str, Measured, Measured]]) -> Markup:
    """AUROC of the first feature of each row on our held-out sentences (filled) and on people's (hollow)."""
    height = 44 + 40 * len(rows)
    words = "; ".join(f"{name}: held out {own.words}, elsewhere {other.words}" for name, own, other in rows)
    canvas = Canvas(WIDTH, height, words)
    low, high = finite_range(
        [end for _, own, other in rows for end in (own.low, other.low)], at_least=(0.4, 1.0)
    )
    x, bottom = Scale(max(low, 0.0), min(high, 1.0), 14, WIDTH - 14), height - 34
    canvas.line(x(0.5), 4, x(0.5), bottom, "axis")
    for tick in x.ticks(6):
        canvas.line(x(tick), 4, x(tick), bottom, "grid")
        canvas.text(x(tick), bottom + 16, tick_words(tick), "soft", "middle")
    canvas.text(WIDTH / 2, bottom + 31, "AUROC, label 3 against 0; dark line: chance", "soft", "middle")
    for k, (name, own, other) in enumerate(rows):
        top = 14 + 40 * k
        canvas.text(x.start, top + 2, name, "halo")
        for measured, place, class_ in ((own, top + 12, "s0 full"), (other, top + 21, "s1 hollow")):
            if measured.is_known:
                series = class_.split()[0]
                canvas.line(x(measured.low), place, x(measured.high), place, f"stroke wide {series}")
                canvas.marker(x(measured.value), place, "dot", class_, measured.words)
    return canvas.markup()
