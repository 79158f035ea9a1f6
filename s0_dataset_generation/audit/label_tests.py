"""Whether something goes with the label: counts by label, the chi-squared test, Holm's adjustment."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2_contingency
from sentences.labelled_tables import LABELS


def counts_by_label(has: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many rows of each label have it, int64 [4]. has: bool [n]; labels: int [n]."""
    return np.array([int((has & (labels == label)).sum()) for label in LABELS])


def independence_p(counts: np.ndarray) -> float:
    """p of Pearson's chi-squared test that rows and columns of counts [n_kinds, 4] are independent.

    Kinds and labels without any sentence are left out; 1 where fewer than two of either remain.
    """
    counts = counts[counts.sum(axis=1) > 0]
    counts = counts[:, counts.sum(axis=0) > 0]
    return float(chi2_contingency(counts, correction=False).pvalue) if min(counts.shape) > 1 else 1.0


def adjusted(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values, float64 [n_tests], in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    result = np.empty(len(p))
    result[order] = np.minimum(steps, 1)
    return result


def rounded(p: float) -> float:
    """Three significant digits."""
    return float(f"{p:.3g}")
