"""How well an explanation predicts where a feature fires."""

from dataclasses import dataclass

import numpy as np
from twins_s2.group_statistics import group_bootstrap, percentile_interval

N_RESAMPLES = 1000


@dataclass(frozen=True)
class DetectionScore:
    """Balanced accuracy of the judgements, 0.5 by guessing, with a 95 % interval over groups of sentences."""

    balanced_accuracy: float
    low: float
    high: float
    true_positive_rate: float
    true_negative_rate: float
    n_firing: int
    n_silent: int
    n_groups: int


def detection_score(fires: np.ndarray, judged: np.ndarray, groups: np.ndarray, seed: int) -> DetectionScore:
    """Score judgements [n] bool of sentences that fire or not ([n] bool, some of each) in groups [n]."""
    once = np.ones((1, len(fires)))
    weights = group_bootstrap(groups, N_RESAMPLES, np.random.default_rng(seed))  # [B, n]
    (found,), (cleared,) = weighted_rates(fires, judged, once)
    low, high = percentile_interval(sum(weighted_rates(fires, judged, weights)) / 2)
    return DetectionScore(
        balanced_accuracy=float(found + cleared) / 2,
        low=low,
        high=high,
        true_positive_rate=float(found),
        true_negative_rate=float(cleared),
        n_firing=int(fires.sum()),
        n_silent=int((~fires).sum()),
        n_groups=len(np.unique(groups)),
    )


def weighted_rates(
    fires: np.ndarray, judged: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """True positive and true negative rate, [B] each, under each row of `weights` [B, n].

    NaN where a row gives no weight to one of the two kinds.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        found = weights @ (fires & judged) / (weights @ fires)
        cleared = weights @ (~fires & ~judged) / (weights @ ~fires)
    return found, cleared
