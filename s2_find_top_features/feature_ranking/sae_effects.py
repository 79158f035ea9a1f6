"""First-order effects of an SAE's features on the log-probability of sentences, where s1 computed them.

`steering` is what one unit of activation at every token would change, `ablation` what taking the feature away
where it fires would change, both in nats per token.
"""

import zipfile
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.stats
from feature_statistics.dense_columns import column_auroc
from twins_s2.feature_folder import FeatureFolder, required_file

GRADIENTS = "run s1_compute_all_features/extract_sae_features.py with this folder as --output and --gradients"
EFFECT_COLUMNS = (
    "steer_spearman",
    "steer_auroc",
    "p_steer_maxt",
    "steer_slope",
    "steer_percentile",
    "ablation_label_0",
    "ablation_label_3",
)


@dataclass(frozen=True)
class SaeEffects:
    """The content of one file of `sae_effects/`."""

    steering: np.ndarray  # [n, d_sae] float32, nats per unit of activation
    ablation: scipy.sparse.csr_matrix  # [n, d_sae] float32, nats


def read_sae_effects(features: FeatureFolder, sae: dict) -> SaeEffects | None:
    """The effects of one entry of run.json's `saes`, None where s1 computed none.

    Raises FileNotFoundError, or ValueError for a file that is damaged, of another shape, or not finite.
    """
    if not sae.get("effects"):
        return None
    path = required_file(features.folder, sae["effects"], GRADIENTS)
    remedy = f"delete it and {GRADIENTS}"
    try:
        ablation = scipy.sparse.load_npz(path).tocsr()
        with np.load(path, allow_pickle=False) as arrays:
            steering = arrays["steering"]
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no readable effects ({error}); {remedy}") from error
    expected = (len(features.labels), sae["d_sae"])
    for name, shape in (("steering", steering.shape), ("ablation", ablation.shape)):
        if shape != expected:
            raise ValueError(
                f"{path} has {name} of shape {shape}, expected {expected} (n_sentences and d_sae of "
                f"run.json); {remedy}"
            )
    if not (np.isfinite(steering).all() and np.isfinite(ablation.data).all()):
        raise ValueError(f"{path} holds effects that are not finite; {remedy}")
    return SaeEffects(steering.astype(np.float32, copy=False), ablation)


def require_effects(features: FeatureFolder) -> None:
    """Raise ValueError unless s1 computed effects for every SAE, without which no ranking goes by them."""
    for sae in features.run["saes"]:
        if not sae.get("effects") and not sae.get("duplicate_of"):
            raise ValueError(
                f"--rank-by steer_spearman: {features.folder} has no effects of layer {sae['layer']}, L0 "
                f"{sae['average_l0']}; {GRADIENTS}"
            )


def percentiles(rho: np.ndarray) -> np.ndarray:
    """Place of each of `rho` [k] among all of them, 0 to 100, ties half; NaN stays NaN."""
    ranks = scipy.stats.rankdata(rho, nan_policy="omit")
    return 100 * (ranks - 0.5) / max(np.isfinite(rho).sum(), 1)


def sizes_of_effects(
    effects: SaeEffects, feature_ids: np.ndarray, largest: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> pd.DataFrame:
    """AUROC, slope and ablation means of some features over the sentences of `rows` ([n] bool).

    `largest` [k] is each feature's largest activation in these sentences: the slope is the difference between
    labels 3 and 0 that steering with it would make, in nats per token.
    """
    of_0, of_3 = (np.flatnonzero(rows & (labels == label)) for label in (0, 3))
    steering_0, steering_3 = (effects.steering[np.ix_(at, feature_ids)] for at in (of_0, of_3))
    difference = steering_3.mean(axis=0, dtype=np.float64) - steering_0.mean(axis=0, dtype=np.float64)
    ablation_0, ablation_3 = (effects.ablation[at][:, feature_ids].mean(axis=0).A1 for at in (of_0, of_3))
    return pd.DataFrame(
        {
            "steer_auroc": column_auroc(steering_3, steering_0),
            "steer_slope": difference * largest,
            "ablation_label_0": ablation_0,
            "ablation_label_3": ablation_3,
        }
    )
