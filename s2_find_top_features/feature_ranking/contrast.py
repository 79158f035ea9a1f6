"""How specific the ranked features are: another trait's label-3 sentences against this trait's."""

import numpy as np
import pandas as pd
import scipy.stats
from feature_statistics.sentence_split import CONFIRMATION, DISCOVERY
from twins_s2.feature_folder import FeatureFolder, read_sae_activations
from twins_s2.sentence_pooling import pool_sparse


def contrast_columns(
    ranked: pd.DataFrame,
    pooled: np.ndarray,
    features: FeatureFolder,
    parts: np.ndarray,
    contrasts: list[FeatureFolder],
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
        other_pooled = pooled_in_other(ranked, features, other, pool)
        specificity = contrast_features(own, other_pooled[other.labels == 3], ranked["threshold"].to_numpy())
        shares[f"contrast_share_{other.trait}"] = specificity["share_above"]
        aurocs[f"contrast_auroc_{other.trait}"] = specificity["auroc"]
    worst = {"contrast_share": shares.max(axis=1), "contrast_auroc": aurocs.min(axis=1)}
    return pd.concat([pd.DataFrame(worst), shares, aurocs], axis=1)


def pooled_in_other(
    ranked: pd.DataFrame, features: FeatureFolder, other: FeatureFolder, pool: str
) -> np.ndarray:
    """Activations of the ranked features on the sentences of another run, [n_other, len(ranked)] float32."""
    saes = {(sae["layer"], sae["average_l0"]): sae for sae in features.run["saes"]}
    pooled = np.full((len(other.labels), len(ranked)), np.nan, dtype=np.float32)
    for key, rows in ranked.groupby(["layer", "average_l0"]):
        sae = same_sae(saes[key], features, other)
        columns = read_sae_activations(other, sae)[:, rows["feature_id"].to_numpy()].tocsc()
        pooled[:, rows.index] = pool_sparse(columns, other.sentence_offsets, pool).toarray()
    return pooled


def same_sae(sae: dict, features: FeatureFolder, other: FeatureFolder) -> dict:
    """The entry of `other` for `sae`, one of `features`; ValueError where it has none or other weights."""
    identity = ("layer", "average_l0", "d_sae")
    matches = [entry for entry in other.run["saes"] if all(entry[key] == sae[key] for key in identity)]
    if not matches:
        raise ValueError(
            f"--contrast {other.folder} has no SAE of layer {sae['layer']} with average_l0 "
            f"{sae['average_l0']}; run s1 on both traits with the same SAE configuration"
        )
    hashes = sae.get("encoder_sha256"), matches[0].get("encoder_sha256")
    if None not in hashes and hashes[0] != hashes[1]:
        raise ValueError(
            f"--contrast {other.folder} was encoded with other weights than {features.folder} at layer "
            f"{sae['layer']}, L0 {sae['average_l0']} (encoder_sha256 {hashes[1][:9]}… and {hashes[0][:9]}…): "
            "these are other features; run s1 on both traits with the same SAEs"
        )
    return matches[0]


def contrast_features(
    own_label_3: np.ndarray, other_label_3: np.ndarray, thresholds: np.ndarray
) -> pd.DataFrame:
    """Specificity of k features against another trait: columns `share_above` and `auroc`, k rows.

    `own_label_3` is [n_own, k] and `other_label_3` [n_other, k], pooled activations of label-3 sentences.
    `share_above` is the share of the other trait's sentences above the feature's threshold [k]; `auroc` is
    that of own against other sentences, ties one half.
    """
    n_own, n_other = len(own_label_3), len(other_label_3)
    ranks = scipy.stats.rankdata(np.vstack([own_label_3, other_label_3]), axis=0)  # [n_own + n_other, k]
    u = ranks[:n_own].sum(axis=0) - n_own * (n_own + 1) / 2
    return pd.DataFrame(
        {"share_above": (other_label_3 > thresholds).mean(axis=0), "auroc": u / (n_own * n_other)}
    )
