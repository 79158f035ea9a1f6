"""Types for argparse: what the options of this stage's commands may say, and how help shows them."""

import argparse

from .feature import FeatureKey

MAX_FEATURES = 40  # whose names fit into a legend
MIN_WIDTH, MIN_HEIGHT = 7.0, 4.0  # inches; below it the legend leaves no room for the lines


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        named = action.default is not None and not isinstance(action.default, bool)
        return super()._get_help_string(action) if named else action.help


def figure_size(text: str) -> tuple[float, float]:
    """Parse `14,7` to width and height in inches."""
    try:
        width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not WIDTH,HEIGHT in inches, for example 14,7"
        ) from None
    if not (MIN_WIDTH <= width <= 100 and MIN_HEIGHT <= height <= 100):
        raise argparse.ArgumentTypeError(
            f"{text!r} is out of range: {MIN_WIDTH:g} to 100 wide, {MIN_HEIGHT:g} to 100 high"
        )
    return width, height


def label_list(text: str) -> list[int]:
    """Parse `2,3` to [2, 3], sorted and without repeats."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part in {"0", "1", "2", "3"} for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of labels 0 to 3, for example 2,3")
    return sorted({int(part) for part in parts})


def feature_list(text: str) -> list[FeatureKey]:
    """Parse `layer:l0:id,…` to (layer, average_l0, feature_id) triples."""
    triples = []
    for item in text.split(","):
        parts = item.strip().split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise argparse.ArgumentTypeError(
                f"{item.strip()!r} is not layer:l0:feature_id, for example 12:82:4051"
            )
        triples.append((int(parts[0]), int(parts[1]), int(parts[2])))
    if len(set(triples)) != len(triples):
        raise argparse.ArgumentTypeError(f"{text!r} names a feature twice")
    if len(triples) > MAX_FEATURES:
        raise argparse.ArgumentTypeError(f"{len(triples)} features, expected {MAX_FEATURES} at most")
    return triples
