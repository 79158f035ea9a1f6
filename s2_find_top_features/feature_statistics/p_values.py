"""Analytic p values, and their adjustment for the number of features."""

import numpy as np
import scipy.stats


def spearman_p_values(rho: np.ndarray, n_sentences: int, mean_square: np.ndarray | None = None) -> np.ndarray:
    """Two-sided analytic p of each rho: Student's t, n - 2 degrees of freedom, as scipy.stats.spearmanr.

    Sentences that depend on each other within groups count for less. `mean_square` is each feature's mean
    rho^2 under permutation by group (`mean_square_rho`): where it exceeds the 1 / (n - 1) of independent
    sentences, the number of sentences is divided by their ratio.
    """
    n_effective = np.full(len(rho), float(n_sentences))
    if mean_square is not None:
        n_effective = 1 + (n_sentences - 1) / np.maximum(1, (n_sentences - 1) * mean_square)
    freedom = np.maximum(n_effective - 2, 1)
    with np.errstate(divide="ignore"):  # |rho| of 1 has t infinite and p 0
        t = np.abs(rho) * np.sqrt(freedom / (1 - rho**2))
    return 2 * scipy.stats.t.sf(t, freedom)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """False-discovery-rate-adjusted p values (q), shape of `p`."""
    return scipy.stats.false_discovery_control(p, method="bh") if len(p) else p


def holm(p: np.ndarray) -> np.ndarray:
    """Family-wise-error-adjusted p values by Holm's step-down rule, shape of `p`."""
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
