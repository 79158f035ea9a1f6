"""How well the first-order prediction describes what steering did."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """Measured against predicted slopes of n directions."""

    n: int
    r_squared: float  # of measured = predicted, without a fitted line: 1 - Σ(m - p)² / Σ(m - mean m)²
    correlation: float  # Pearson


def agreement(predicted: np.ndarray, measured: np.ndarray) -> Agreement | None:
    """Compare slopes [n] with their first-order prediction [n]; None where fewer than three have both."""
    both = np.isfinite(predicted) & np.isfinite(measured)
    predicted, measured = predicted[both], measured[both]
    spread = ((measured - measured.mean()) ** 2).sum() if len(measured) else 0.0
    if len(measured) < 3 or spread == 0 or predicted.std() == 0:
        return None
    r_squared = 1 - ((measured - predicted) ** 2).sum() / spread
    return Agreement(len(measured), float(r_squared), float(np.corrcoef(predicted, measured)[0, 1]))
