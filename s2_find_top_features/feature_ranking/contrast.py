"""How specific the ranked features are: another trait's label-3 sentences against this trait's."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from feature_statistics.dense_columns import column_auroc
from feature_statistics.sentence_split import CONFIRMATION, DISCOVERY
from twins_s2.feature_folder import FeatureFolder

from .other_runs import pooled_in_other


def contrast_columns(
    ranked: pd.DataFrame,
    pooled: np.ndarray,
    features: FeatureFolder,
    parts: np.ndarray,
    contrasts: Sequence[FeatureFolder],
    pool: str,
) -> pd.DataFrame:
    """Share of other traits' label-3 sentences above each feature's threshold, and AUROC against them.

    `pooled` is [n, len(ranked)]. This trait's label-3 sentences are those held out, or all of them where
    nothing is held out. Raises ValueError if a contrast lacks an SAE of a ranked feature.
    """
    if not contrasts:
        return pd.DataFrame(index=ranked.index)
    held_out = parts == (CONFIRMATION if (parts == CONFIRMATION).any() else DISCOVERY)
    own = pooled[held_out & (features.labels == 3)]
    shares, aurocs = pd.DataFrame(index=ranked.index), pd.DataFrame(index=ranked.index)
    for other in contrasts:
        other_pooled = pooled_in_other(ranked, features, other, pool, "--contrast")
        specificity = contrast_features(own, other_pooled[other.labels == 3], ranked["threshold"].to_numpy())
        shares[f"contrast_share_{other.trait}"] = specificity["share_above"]
        aurocs[f"contrast_auroc_{other.trait}"] = specificity["auroc"]
    worst = {"contrast_share": shares.max(axis=1), "contrast_auroc": aurocs.min(axis=1)}
    return pd.concat([pd.DataFrame(worst), shares, aurocs], axis=1)


def contrast_features(
    own_label_3: np.ndarray, other_label_3: np.ndarray, thresholds: np.ndarray
) -> pd.DataFrame:
    """Specificity of k features against another trait: columns `share_above` and `auroc`, k rows.

    `own_label_3` is [n_own, k] and `other_label_3` [n_other, k], pooled activations of label-3 sentences.
    `share_above` is the share of the other trait's sentences above the feature's threshold [k]; `auroc` is
    that of own against other sentences, ties one half.
    """
    return pd.DataFrame(
        {
            "share_above": (other_label_3 > thresholds).mean(axis=0),
            "auroc": column_auroc(own_label_3, other_label_3),
        }
    )
