"""Text in figures: fonts that have its characters, widths in columns, tokens as axis labels."""

import functools
import textwrap
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.font_manager import fontManager, get_font
from twins_s3.palette import MUTED


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
            "axes.edgecolor": MUTED,
            "axes.axisbelow": True,
            "axes.labelsize": 10,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
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


def fonts_for(texts: Iterable[str]) -> Typography:
    """`Typography.covering`, saying what no installed font has."""
    typography = Typography.covering(texts)
    if typography.missing:
        print(
            f"no installed font has {len(typography.missing)} of the sentences' characters; they are drawn "
            "as □ (a font package such as fonts-noto-cjk adds them)"
        )
    return typography
