"""The activations of one feature in a feature folder of stage 1, of its own run or of another."""

import numpy as np
import scipy.sparse
from twins_s5.feature_folder import FeatureFolder, read_sae_activations
from twins_s5.sentence_pooling import pool_sparse


def feature_column(features: FeatureFolder, sae: dict, feature: dict) -> scipy.sparse.csc_matrix | None:
    """Activations [T, 1] of a feature of an SAE; None where the file was deleted, as it may be for room."""
    if not (features.folder / sae["file"]).is_file():
        return None
    return read_sae_activations(features, sae)[:, [int(feature["feature_id"])]].tocsc()


def pooled_column(column: scipy.sparse.csc_matrix, features: FeatureFolder, pool: str) -> np.ndarray:
    """One activation per sentence, [n] float32."""
    return pool_sparse(column, features.sentence_offsets, pool).toarray().ravel()


def sae_entry(features: FeatureFolder, feature: dict) -> dict:
    """The entry in run.json of the SAE that a feature of the same run belongs to."""
    for sae in features.run["saes"]:
        if (sae["layer"], sae["average_l0"]) == (feature["layer"], feature["average_l0"]):
            return sae
    raise ValueError(
        f"{features.folder / 'run.json'} has no SAE of layer {feature['layer']} with average_l0 "
        f"{feature['average_l0']}, though a ranked feature is from it; run stage 2 again"
    )


def same_sae(sae: dict, other: FeatureFolder) -> dict | None:
    """The entry of another run with the same weights; by layer, L0 and width where weights have no hash."""
    for entry in other.run["saes"]:
        if entry["layer"] != sae["layer"]:
            continue
        hashes = sae.get("encoder_sha256"), entry.get("encoder_sha256")
        alike = all(sae[key] == entry[key] for key in ("average_l0", "d_sae"))
        if hashes[0] == hashes[1] if all(hashes) else alike:
            return entry
    return None
