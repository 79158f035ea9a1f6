"""Types for argparse: numbers within bounds, and lists of layers."""

import argparse
import math
from collections.abc import Callable


def whole_number(lowest: int, highest: float = math.inf) -> Callable[[str], int]:
    """An argparse type: a whole number within the bounds."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            end = "or more" if highest == math.inf else f"to {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {lowest} {end}")
        return int(text)

    return parse


def real_number(
    lowest: float, highest: float = math.inf, below_highest: bool = False
) -> Callable[[str], float]:
    """An argparse type: a finite number within the bounds, the upper one excluded with `below_highest`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (lowest <= value <= highest and math.isfinite(value)) or (below_highest and value == highest):
            end = "" if highest == math.inf else f" and {'below' if below_highest else 'at most'} {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least {lowest}{end}")
        return value

    return parse


positive_int = whole_number(1)
natural_int = whole_number(0)
share = real_number(0, 1)
share_below_one = real_number(0, 1, below_highest=True)


def layer_list(text: str) -> list[int] | None:
    """Parse `0-5,12` to [0, 1, 2, 3, 4, 5, 12], sorted and without repeats; `all` gives None."""
    if text == "all":
        return None
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of layers such as 0-5,12 or all")
        if dash and int(last) < int(first):
            raise argparse.ArgumentTypeError(f"{part.strip()!r} runs backwards; write {last}-{first}")
        layers.update(range(int(first), int(last or first) + 1))
    return sorted(layers)
