"""The ranked features in the feature folder of another run: their activations on its sentences."""

import numpy as np
import pandas as pd
from twins_s2.feature_folder import FeatureFolder, read_sae_activations
from twins_s2.sentence_pooling import pool_sparse


def pooled_in_other(
    ranked: pd.DataFrame, features: FeatureFolder, other: FeatureFolder, pool: str, option: str
) -> np.ndarray:
    """Activations of the ranked features on the sentences of another run, [n_other, len(ranked)] float32.

    `option` is what gave that run, for errors: ValueError where it lacks the SAE of a ranked feature.
    """
    saes = {(sae["layer"], sae["average_l0"]): sae for sae in features.run["saes"]}
    pooled = np.full((len(other.labels), len(ranked)), np.nan, dtype=np.float32)
    for key, rows in ranked.groupby(["layer", "average_l0"]):
        sae = same_sae(saes[key], features, other, option)
        columns = read_sae_activations(other, sae)[:, rows["feature_id"].to_numpy()].tocsc()
        pooled[:, rows.index] = pool_sparse(columns, other.sentence_offsets, pool).toarray()
    return pooled


def require_same_saes(features: FeatureFolder, others: list[FeatureFolder], option: str) -> None:
    """Raise ValueError, before time is spent, unless each of the other runs has every SAE of this one."""
    for other in others:
        for sae in features.run["saes"]:
            if not sae.get("duplicate_of"):
                same_sae(sae, features, other, option)


def same_sae(sae: dict, features: FeatureFolder, other: FeatureFolder, option: str) -> dict:
    """The entry of `other` for `sae`, one of `features`; ValueError where it has none or other weights.

    The same `encoder_sha256` at the same layer is the same SAE, whatever its L0 is called. Where a run has no
    such hashes, layer, L0 and width have to do.
    """
    of_layer = [entry for entry in other.run["saes"] if entry["layer"] == sae["layer"]]
    own_hash = sae.get("encoder_sha256")
    for entry in of_layer:
        if own_hash and entry.get("encoder_sha256") == own_hash:
            return entry
    identity = ("average_l0", "d_sae")
    matches = [entry for entry in of_layer if all(entry[key] == sae[key] for key in identity)]
    if not matches:
        raise ValueError(
            f"{option} {other.folder} has no SAE of layer {sae['layer']} with average_l0 "
            f"{sae['average_l0']}; run s1 on both with the same SAE configuration"
        )
    other_hash = matches[0].get("encoder_sha256")
    if own_hash and other_hash:
        raise ValueError(
            f"{option} {other.folder} was encoded with other weights than {features.folder} at layer "
            f"{sae['layer']}, L0 {sae['average_l0']} (encoder_sha256 {other_hash[:9]}… and {own_hash[:9]}…): "
            "these are other features; run s1 on both with the same SAEs"
        )
    return matches[0]
