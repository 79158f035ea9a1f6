"""Features whose activations go together: one direction of the model can show up in several SAEs."""

import numpy as np
from scipy.sparse.csgraph import connected_components


def feature_families(pooled: np.ndarray, min_correlation: float) -> np.ndarray:
    """Family of each column of `pooled` [n, k], numbered from 1 in order of first appearance, [k] int64.

    Features whose activations correlate (Pearson) at least `min_correlation`, directly or through others,
    form one family.
    """
    if pooled.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    centred = pooled - pooled.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    # The tolerance keeps exact copies in one family at a threshold of 1.
    _, component = connected_components(unit.T @ unit >= min_correlation - 1e-9, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse] + 1
