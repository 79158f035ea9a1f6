"""Where a trait emerges: onset, peak and half-maximum of a curve over layers, with intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from twins_s5.group_statistics import simultaneous_band

LEVEL = 0.95


@dataclass(frozen=True)
class Curve:
    """A metric by layer with its bootstrap resamples; of a floor one value for all layers (N = 1)."""

    value: np.ndarray  # [N]
    resampled: np.ndarray  # [B, N]

    def above(self, other: "Curve") -> "Curve":
        """The paired difference from another curve."""
        return Curve(self.value - other.value, self.resampled - other.resampled)

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound [N] that hold the whole curve with 95 % confidence."""
        return simultaneous_band(self.value, self.resampled, LEVEL)


@dataclass(frozen=True)
class Landmarks:
    """Where a curve leaves the floors, peaks and is half-way, in layer numbers; None where it never does."""

    clears: np.ndarray  # [N] bool: the layer's lower bands clear every floor
    onset: float | None
    onset_interval: list[float | None]  # None: later than the last layer
    onset_found_share: float  # share of resamples with an onset
    peak: float
    peak_interval: list[float]
    peak_value: float
    half_maximum: float | None
    half_maximum_interval: list[float | None]
    resampled_onset: np.ndarray  # [B] float, inf where there is none


def interval(positions: np.ndarray, to_layer: Callable[[float], float] = float) -> list[float | None]:
    """Percentile interval of positions [B] as layers; an end beyond the last layer is None."""
    ends = np.quantile(positions, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    layers = [float(to_layer(end)) for end in ends]
    return [layer if np.isfinite(layer) else None for layer in layers]


def peak_of(layers: np.ndarray, curve: Curve) -> dict[str, object]:
    """The layer at which a curve is highest, with the interval of that layer, and its height there.

    None where the curve has no value, as the AUROC of labels that are not both there.
    """
    if not np.isfinite(curve.value).all():
        return {"peak": None, "peak_interval": [None, None], "peak_value": None}
    return {
        "peak": float(layers[curve.value.argmax()]),
        "peak_interval": interval(curve.resampled.argmax(axis=1), lambda end: layers[int(end)]),
        "peak_value": float(curve.value.max()),
    }


def first_of_two(clears: np.ndarray) -> np.ndarray:
    """Position of the first of two consecutive True, for each row of bool [B, N]; N where there is none."""
    pairs = clears[:, :-1] & clears[:, 1:]  # [B, N - 1]
    return np.where(pairs.any(axis=1), pairs.argmax(axis=1), clears.shape[1])


def half_maximum_position(curves: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Interpolated position at which each curve [B, N] first is half of the way from `base` [B] to its peak.

    NaN where the peak does not exceed the base.
    """
    middle = (base + curves.max(axis=1)) / 2  # [B]
    reached = (curves >= middle[:, None]).argmax(axis=1)  # [B], the peak itself reaches it
    before = np.maximum(reached - 1, 0)
    rows = np.arange(len(curves))
    rise = curves[rows, reached] - curves[rows, before]
    share = np.divide(middle - curves[rows, before], rise, out=np.ones(len(curves)), where=rise > 0)
    positions = np.where(reached == 0, 0.0, before + share)
    return np.where(curves.max(axis=1) > base, positions, np.nan)


def landmarks(layers: np.ndarray, curve: Curve, floors: list[Curve], null_upper: float) -> Landmarks:
    """Onset, peak and half-maximum of a curve, with percentile intervals from the same resamples.

    A layer clears the floors if the lower simultaneous band of its paired difference from every text floor
    is above zero and its own lower band is above `null_upper`. The onset is the first of two consecutive
    such layers. The half-maximum is half of the way from the strongest text floor to the peak.
    """
    n_layers = len(layers)
    clears, resampled_clears = _clearing(curve, floors, null_upper)
    onset = int(first_of_two(clears[None])[0])
    resampled_onset = first_of_two(resampled_clears)  # [B]
    numbers = np.append(layers.astype(float), np.inf)

    base = max(float(floor.value[0]) for floor in floors)
    base_resampled = np.max([floor.resampled[:, 0] for floor in floors], axis=0)  # [B]
    half = half_maximum_position(curve.value[None], np.array([base]))[0]
    half_resampled = half_maximum_position(curve.resampled, base_resampled)  # [B]

    def between(position: float) -> float:
        return float(np.interp(position, np.arange(n_layers), layers)) if np.isfinite(position) else np.inf

    return Landmarks(
        clears=clears,
        onset=float(numbers[onset]) if onset < n_layers else None,
        onset_interval=interval(resampled_onset, lambda end: numbers[int(end)]),
        onset_found_share=float((resampled_onset < n_layers).mean()),
        **peak_of(layers, curve),
        half_maximum=None if np.isnan(half) else between(half),
        half_maximum_interval=interval(np.where(np.isnan(half_resampled), np.inf, half_resampled), between),
        resampled_onset=numbers[resampled_onset],
    )


def _clearing(curve: Curve, floors: list[Curve], null_upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Which layers clear every floor, bool [N]; the same in each resample, with the run's widths, [B, N]."""
    clears = np.ones(len(curve.value), bool)
    resampled_clears = np.ones(curve.resampled.shape, bool)
    for margin, height in [(curve, null_upper), *((curve.above(floor), 0.0) for floor in floors)]:
        half_width = margin.value - margin.band()[0]  # [N]
        clears &= margin.value - half_width - height > 0
        resampled_clears &= margin.resampled - half_width - height > 0
    return clears, resampled_clears


def onset_lag(first: Landmarks, second: Landmarks) -> dict[str, object]:
    """How many layers later the second curve's onset is, from independent resamples of both.

    A resample without an onset counts as later than any layer; intervals that reach there end in None.
    """
    with np.errstate(invalid="ignore"):
        lag = second.resampled_onset - first.resampled_onset  # inf - inf: neither has one, no order
    lag = np.where(np.isnan(lag), 0.0, lag)
    both = first.onset is not None and second.onset is not None
    return {
        "layers_later": second.onset - first.onset if both else None,
        "interval": interval(lag),
        "share_first_earlier": float((lag > 0).mean()),
        "share_second_earlier": float((lag < 0).mean()),
    }
