"""How numbers, intervals and layers are written on the page."""

import math

METRIC_NAMES = {
    "kappa": "quadratic weighted kappa",
    "accuracy": "accuracy",
    "auroc": "AUROC, highest against lowest label",
}
PROBE_NAMES = {"logistic": "logistic probe", "ridge": "ridge probe", "diffmeans": "difference of means"}
MINUS = "\N{MINUS SIGN}"


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """Fixed decimals, `<` below the last one, empty where there is no value."""
    if not is_number(value):
        return ""
    if 0 < value < 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    text = f"{value:.{digits}f}"
    return (f"{0:.{digits}f}" if float(text) == 0 else text).replace("-", MINUS)


def tick_words(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)


def interval_words(interval: list[float | None] | None) -> str:
    """An interval of layers; an end that is beyond the last layer is `none`."""
    if interval is None:
        return ""
    low, high = (layer_words(end, "none") for end in interval)
    return f"[{low}, {high}]"


def layer_words(layer: float | None, otherwise: str) -> str:
    """A layer, or a place between two, to a hundredth."""
    return otherwise if layer is None else f"{layer:.2f}".rstrip("0").rstrip(".").replace("-", MINUS)


def counted(n: int, singular: str, plural: str | None = None) -> str:
    """`1 feature`, `12,288 features`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def ranges(numbers: list[int]) -> str:
    """Rising whole numbers with runs drawn together: `0–5, 12`."""
    runs: list[list[int]] = []
    for value in numbers:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
