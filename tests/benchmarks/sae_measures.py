"""What is measured of an SAE: reconstruction, random directions beside it, AUROCs of single features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

HALVES = 20  # of people's sentences
RESAMPLES = 10_000

Encode = Callable[[np.ndarray], np.ndarray]  # [n, d_model] -> [n, d_sae]


@dataclass(frozen=True)
class Sae:
    """The five arrays of a params.npz, float32."""

    name: str
    folder: Path
    layer: int
    arrays: dict[str, torch.Tensor]

    def encode(self, x: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(x) @ self.arrays["W_enc"] + self.arrays["b_enc"]
        return (z * (z > self.arrays["threshold"].clamp(min=0))).numpy()

    def decode(self, f: np.ndarray) -> np.ndarray:
        return (torch.from_numpy(f) @ self.arrays["W_dec"] + self.arrays["b_dec"]).numpy()


def read_saes(folder: Path) -> list[Sae]:
    """Return the SAEs below a folder, layer by layer; FileNotFoundError if there are none."""
    files = sorted(folder.glob("layer_*/width_*/average_l0_*/params.npz"))
    if not files:
        raise FileNotFoundError(f"{folder}: no layer_*/width_*/average_l0_*/params.npz in it")
    saes = []
    for file in files:
        with np.load(file) as params:
            arrays = {name: torch.from_numpy(params[name].astype(np.float32)) for name in params.files}
        path = file.parent.relative_to(folder)
        saes.append(Sae(f"{folder.name}/{path}", folder, int(path.parts[0].removeprefix("layer_")), arrays))
    return sorted(saes, key=lambda sae: sae.layer)


def standardised(x: np.ndarray) -> Encode:
    """Return what subtracts the mean and divides by the deviation of every dimension of x, `[T, d_model]`.

    As they are, a few dimensions hundreds of times larger than the others keep the probe from converging.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    return lambda rows: (rows - mean) / deviation


def random_directions(x: np.ndarray, d_sae: int, l0: float, seed: int = 0) -> Encode:
    """Return an encoder of `d_sae` Gaussian directions in x's space, dimensions scaled alike, of the same L0.

    Each fires on the share l0 / d_sae of the tokens x, `[T, d_model]`.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((x.shape[1], d_sae), dtype=np.float32) / deviation[:, None]
    thresholds = np.quantile((x - mean) @ directions, 1 - l0 / d_sae, axis=0)  # [d_sae]

    def encode(rows: np.ndarray) -> np.ndarray:
        z = (rows - mean) @ directions
        return z * (z > thresholds)

    return encode


def described(sae: Sae, x: np.ndarray) -> tuple[float, str]:
    """Return the L0, and the cells on reconstruction, of tokens x `[T, d_model]`."""
    f = sae.encode(x)
    error = ((sae.decode(f) - x).astype(np.float64) ** 2).sum(axis=0)  # [d_model]
    variance = x.var(axis=0, dtype=np.float64) * len(x)
    others = np.arange(len(variance)) != variance.argmax()
    firings = (f > 0).sum(axis=0)
    explained = [1 - error.sum() / variance.sum(), 1 - error[others].sum() / variance[others].sum()]
    l0 = firings.sum() / len(x)
    dead = int((firings == 0).sum())
    return l0, f"{explained[0]:.3f} | {explained[1]:.3f} | {l0:.1f} | {dead} of {len(firings)}"


def aurocs(pooled: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the AUROC of every column of `[n, d]`, ties one half. positive: `[n]` bool."""
    n_positive = positive.sum()
    ranks = rankdata(pooled, axis=0)[positive].sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (len(positive) - n_positive))


def best_feature_auroc(pooled: np.ndarray, positive: np.ndarray, groups: np.ndarray, seed: int = 0) -> float:
    """Mean over halvings of the AUROC, on one half, of the column and sign that do best on the other.

    No group lies in both halves. pooled: `[n, d]`, positive: `[n]` bool, groups: `[n]`.
    """
    names, group = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(HALVES):
        chooses = (rng.permutation(len(names)) < len(names) // 2)[group]
        chosen = aurocs(pooled[chooses], positive[chooses])
        best = np.abs(chosen - 0.5).argmax()
        measured = aurocs(pooled[~chooses][:, [best]], positive[~chooses])[0]
        found.append(measured if chosen[best] >= 0.5 else 1 - measured)
    return float(np.mean(found))


def mean_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and its 95 % percentile bootstrap interval over the entries, tasks or traits."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
