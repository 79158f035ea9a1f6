"""Inline SVG without a stylesheet of its own: shapes carry classes, the page gives them colours."""

from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

LABEL_GAP = 12  # least distance of two labels at the right edge


def rounded(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def element(tag: str, text: str = "", **attributes: object) -> Markup:
    """One element; `class_` is `class`, numbers are rounded to a tenth, text and attributes are escaped."""
    plain = {
        name: rounded(value) if isinstance(value, float) else value for name, value in attributes.items()
    }
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in plain.items()
    )
    return Markup(f"<{tag}{written}>{escape(text)}</{tag}>" if text else f"<{tag}{written}/>")


@dataclass(frozen=True)
class Scale:
    """Places values between `low` and `high` on the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (float(value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, at_most: int, integer: bool = False) -> list[float]:
        places = MaxNLocator(at_most, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(
            self.low, self.high
        )
        return [float(tick) for tick in places if self.low - 1e-9 <= tick <= self.high + 1e-9]


@dataclass
class Canvas:
    """A drawing in units of a narrow screen's pixels; `description` is what a screen reader says of it."""

    width: int
    height: int
    description: str
    shapes: list[Markup] = field(default_factory=list)

    def add(self, tag: str, text: str = "", **attributes: object) -> None:
        self.shapes.append(element(tag, text, **attributes))

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)

    def text(self, x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> None:
        self.add("text", words, x=float(x), y=float(y), text_anchor=anchor, class_=class_)

    def curve(self, points: list[tuple[float, float]], class_: str) -> None:
        self.add("polyline", points=_joined(points), class_=class_)

    def band(self, upper: list[tuple[float, float]], lower: list[tuple[float, float]], class_: str) -> None:
        self.add("polygon", points=_joined([*upper, *lower[::-1]]), class_=class_)

    def marker(self, x: float, y: float, shape: str, class_: str, title: str = "") -> None:
        """A dot, diamond, triangle or square of about nine units."""
        corners = {
            "diamond": [(0, -5), (5, 0), (0, 5), (-5, 0)],
            "triangle": [(0, -5), (4.8, 3.8), (-4.8, 3.8)],
            "square": [(-3.8, -3.8), (3.8, -3.8), (3.8, 3.8), (-3.8, 3.8)],
        }
        if shape == "dot":
            made = element("circle", cx=float(x), cy=float(y), r=4.2, class_=class_)
        else:
            made = element(
                "polygon", points=_joined([(x + a, y + b) for a, b in corners[shape]]), class_=class_
            )
        self.shapes.append(Markup("<g>{}{}</g>").format(element("title", title), made) if title else made)

    def right_labels(self, x: float, labels: list[tuple[float, str]]) -> list[tuple[float, str]]:
        """Words at the right edge at their heights, moved apart where two would overlap; where they stand."""
        placed: list[float] = []
        for y, words in sorted(labels, reverse=True):  # from the bottom up
            place = min(y, placed[-1] - LABEL_GAP) if placed else y
            placed.append(place)
            self.text(x, place + 4, words)
        return list(zip(placed, (words for _, words in sorted(labels, reverse=True))))

    def markup(self) -> Markup:
        return Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">{}</svg>').format(
            self.width, self.height, self.description, Markup("").join(self.shapes)
        )


def _joined(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{rounded(x)},{rounded(y)}" for x, y in points)


def finite_range(*values: object, at_least: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """Smallest and largest of all finite numbers in arrays, lists and None, with a little room."""
    flat = np.concatenate([np.ravel(np.array(value, dtype=np.float64)) for value in (*values, at_least)])
    low, high = float(np.nanmin(flat)), float(np.nanmax(flat))
    room = 0.04 * (high - low or 1.0)
    return low - room, high + room
