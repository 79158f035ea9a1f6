"""Figures of emergence: one trait above its floors, all traits together, and where they appear."""

from markupsafe import Markup
from study_report.emergence_findings import EmergenceCurve
from study_report.svg_canvas import Canvas, Scale, finite_range
from study_report.wording import METRIC_NAMES, PROBE_NAMES, interval_words, layer_words, number, tick_words

WIDTH = 380
FLOORS = {"tfidf": "TF-IDF", "length": "length", "majority": "constant"}
LANDMARKS = (("onset", "dot"), ("half_maximum", "diamond"), ("peak", "triangle"))
SHAPES = ("dot", "square", "diamond", "triangle")


def trait_curve(name: str, curve: EmergenceCurve) -> Markup:
    """The probes of one trait by layer, with band, floors, shuffled labels and onset."""
    layers, figures = curve.entry["layers"], curve.figures
    others = [curve.entry["probes"][probe][curve.metric]["value"] for probe in curve.entry["probes"]]
    low, high = finite_range(
        figures["band_low"],
        figures["band_high"],
        figures["shuffled_low"],
        *others,
        *(curve.floor(floor)["value"] for floor in FLOORS),
    )
    canvas = Canvas(WIDTH, 250, describe_curve(name, curve))
    x, y = Scale(layers[0], layers[-1], 40, WIDTH - 62), Scale(low, high, 212, 20)
    draw_axes(canvas, x, y, f"layer; {METRIC_NAMES[curve.metric]}")

    def along(values: list[float]) -> list[tuple[float, float]]:
        return [(x(layer), y(value)) for layer, value in zip(layers, values)]

    canvas.band(along(figures["shuffled_high"]), along(figures["shuffled_low"]), "fill shuffled")
    tfidf = curve.floor("tfidf")
    edges = [[(x.start, y(tfidf[end])), (x.end, y(tfidf[end]))] for end in ("high", "low")]
    canvas.band(*edges, "fill floor")
    for floor in FLOORS:
        height = y(curve.floor(floor)["value"])
        canvas.line(x.start, height, x.end, height, f"stroke floor {floor}")
    canvas.right_labels(
        x.end + 4, [(y(curve.floor(floor)["value"]), title) for floor, title in FLOORS.items()]
    )
    for k, probe in enumerate(curve.entry["probes"]):
        if probe != curve.lead:
            canvas.curve(along(curve.entry["probes"][probe][curve.metric]["value"]), f"stroke thin s{k}")
    canvas.band(along(figures["band_high"]), along(figures["band_low"]), "fill s0")
    canvas.curve(along(figures["value"]), "stroke s0")
    for layer, value, clears in zip(layers, figures["value"], figures["clears"]):
        canvas.marker(
            x(layer), y(value), "dot", "s0 full" if clears else "s0 hollow", f"layer {layer}: {number(value)}"
        )
    if figures["onset"] is not None:
        at = x(figures["onset"])
        canvas.line(at, y.start, at, y.end, "stroke onset")
        canvas.text(
            at + 4 if at < WIDTH / 2 else at - 4,
            14,
            f"onset: layer {figures['onset']:g}",
            "strong",
            "start" if at < WIDTH / 2 else "end",
        )
    return canvas.markup()


def describe_curve(name: str, curve: EmergenceCurve) -> str:
    """The figure in words."""
    figures, layers = curve.figures, curve.entry["layers"]
    onset = layer_words(figures["onset"], "no onset")
    return (
        f"{name}: {METRIC_NAMES[curve.metric]} of the {PROBE_NAMES[curve.lead]} by layer, from "
        f"{number(figures['value'][0])} at layer {layers[0]} to {number(figures['peak_value'])} at its peak, "
        f"layer {figures['peak']:g}; TF-IDF {number(curve.floor('tfidf')['value'])}; onset: {onset}"
    )


def all_curves(curves: dict[str, EmergenceCurve]) -> Markup:
    """The leading probe of every trait by layer; filled marks where it clears the floors."""
    values = [curve.figures["value"] for curve in curves.values()]
    floors = [curve.floor("tfidf")["value"] for curve in curves.values()]
    layers = [layer for curve in curves.values() for layer in curve.entry["layers"]]
    first = next(iter(curves.values()))
    canvas = Canvas(WIDTH, 270, "; ".join(describe_curve(name, curve) for name, curve in curves.items()))
    x = Scale(min(layers), max(layers), 40, WIDTH - 92)
    y = Scale(*finite_range(*values, floors), 232, 12)
    draw_axes(canvas, x, y, f"layer; {METRIC_NAMES[first.metric]}")
    for k, curve in enumerate(curves.values()):
        height = y(curve.floor("tfidf")["value"])
        canvas.line(x.start, height, x.end, height, f"stroke dotted s{k}")
        points = [(x(layer), y(value)) for layer, value in zip(curve.entry["layers"], curve.figures["value"])]
        canvas.curve(points, f"stroke s{k}")
        for point, clears in zip(points, curve.figures["clears"]):
            canvas.marker(*point, SHAPES[k % len(SHAPES)], f"s{k} {'full' if clears else 'hollow'}")
    ends = [(y(curve.figures["value"][-1]), name) for name, curve in curves.items()]
    for height, name in canvas.right_labels(x.end + 22, ends):
        k = list(curves).index(name)
        canvas.marker(x.end + 14, height, SHAPES[k % len(SHAPES)], f"s{k} full")
    return canvas.markup()


def landmark_figure(curves: dict[str, EmergenceCurve]) -> Markup:
    """Onset, half-maximum and peak of every trait, with intervals; an open end runs to the last layer."""
    layers = [layer for curve in curves.values() for layer in curve.entry["layers"]]
    height = 44 + 46 * len(curves)
    words = "; ".join(f"{name}: {landmark_words(curve)}" for name, curve in curves.items())
    canvas = Canvas(WIDTH, height, words)
    x = Scale(min(layers), max(layers), 90, WIDTH - 14)
    draw_layer_axis(canvas, x, height - 34, 6, "layer")
    for k, (name, curve) in enumerate(curves.items()):
        middle = 30 + 46 * k
        canvas.text(82, middle + 4, name, "strong", "end")
        for (mark, shape), shift in zip(LANDMARKS, (-12, 0, 12)):
            value, (low, high) = curve.figures[mark], curve.figures[f"{mark}_interval"]
            place = middle + shift
            if low is not None:
                end = x.end if high is None else x(high)
                canvas.line(x(low), place, end, place, f"stroke wide s{k}")
                if high is None:
                    canvas.text(x.end + 3, place + 4, "›")
            if value is not None:
                canvas.marker(x(value), place, shape, f"s{k} full", f"{mark.replace('_', '-')}: {value:.3g}")
    return canvas.markup()


def landmark_words(curve: EmergenceCurve) -> str:
    return ", ".join(
        f"{mark.replace('_', '-')} {layer_words(curve.figures[mark], 'none')} "
        f"{interval_words(curve.figures[f'{mark}_interval'])}"
        for mark, _ in LANDMARKS
    )


def draw_axes(canvas: Canvas, x: Scale, y: Scale, title: str) -> None:
    """Horizontal grid with numbers, and the layer axis below."""
    for tick in y.ticks(5):
        canvas.line(x.start, y(tick), x.end, y(tick), "grid")
        canvas.text(x.start - 8, y(tick) + 4, tick_words(tick), "soft", "end")
    draw_layer_axis(canvas, x, y.start, None, title)


def draw_layer_axis(canvas: Canvas, x: Scale, bottom: float, top: float | None, title: str) -> None:
    for tick in x.ticks(7, integer=True):
        if top is not None:
            canvas.line(x(tick), bottom, x(tick), top, "grid")
        canvas.text(x(tick), bottom + 16, f"{tick:g}", "soft", "middle")
    canvas.line(x.start, bottom, x.end, bottom, "axis")
    canvas.text((x.start + x.end) / 2, bottom + 32, title, "soft", "middle")
