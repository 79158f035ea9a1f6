"""Statistics of sentences that belong to groups: resampled by group, for all resamples at once."""

import numpy as np


def group_bootstrap(groups: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each row occurs when groups [n] are drawn with replacement, float64 [n_resamples, n].

    The cluster bootstrap (Davison & Hinkley 1997, section 3.8): sentences of one scene are no independent
    observations, so whole scenes are drawn.
    """
    _, group_of_row = np.unique(groups, return_inverse=True)  # [n]
    n_groups = int(group_of_row.max()) + 1
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)  # [B, n_groups]
    return counts[:, group_of_row].astype(np.float64)


def weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of `scores` [n] for `positive` [n] bool under each row of `weights` [B, n].

    [B] float64; ties count one half. NaN where a row gives no weight to one of the two sides.
    """
    order = np.argsort(scores, kind="stable")
    first = np.searchsorted(scores[order], scores, side="left")  # [n] place of the first of its ties
    last = np.searchsorted(scores[order], scores, side="right")  # [n] one past its last tie
    negatives = np.where(positive, 0, weights)[:, order].astype(np.float64)  # [B, n] sorted by score
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(negatives, axis=1)], axis=1)  # [B, n + 1]
    won = (below[:, first[positive]] + below[:, last[positive]]) / 2  # [B, n_positive]
    positives = weights[:, positive].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positives * won).sum(axis=1) / (positives.sum(axis=1) * below[:, -1])


def percentile_interval(resampled: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval over the resamples [B] in which the statistic has a value; NaN where none has."""
    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size:
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def simultaneous_band(
    estimate: np.ndarray, replicates: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound [n_points] that hold the whole curve with probability `level`.

    The sup-t band of Montiel Olea and Plagborg-Møller (2019): estimate ± c · standard error, c being the
    quantile of the largest standardised deviation over the curve among the bootstrap `replicates`
    [B, n_points]. A pointwise band would be too narrow to say from where on a curve clears a line.
    Replicates with NaN (a label drawn not once) are left out; where nothing varies, the band is the curve.
    """
    replicates = replicates[np.isfinite(replicates).all(axis=1)]
    if len(replicates) < 2 or not np.isfinite(estimate).all():
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    error = replicates.std(axis=0, ddof=1)  # [n_points]
    varies = error > 1e-9
    if not varies.any():
        return estimate.copy(), estimate.copy()
    deviation = np.abs(replicates[:, varies] - estimate[varies]) / error[varies]  # [B, n_varying]
    width = np.quantile(deviation.max(axis=1), level) * np.where(varies, error, 0)  # [n_points]
    return estimate - width, estimate + width
