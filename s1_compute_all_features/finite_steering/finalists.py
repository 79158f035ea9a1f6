"""The features that are steered, and what the feature folder says of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
from autoencoders.feature_places import FeaturePlace


@dataclass(frozen=True)
class SaeActivity:
    """How often and how strongly the features of one SAE fire in the folder's sentences."""

    token_rate: np.ndarray  # [d_sae] share of tokens at which each feature fires
    largest: np.ndarray  # [d_sae] largest activation, 0 where it never fires


def require_in_folder(finalists: list[FeaturePlace], folder: Path, run: dict) -> None:
    """Raise ValueError for a finalist of an SAE that the folder lacks, or beyond its features."""
    saes = {(sae["layer"], sae["average_l0"]): sae for sae in run["saes"]}
    for place in finalists:
        if place.sae not in saes:
            have = ", ".join(f"{layer}/{l0}" for layer, l0 in sorted(saes))
            raise ValueError(
                f"{folder} has no SAE of layer {place.layer} with L0 {place.average_l0}; "
                f"it has (layer/L0) {have}"
            )
        d_sae = saes[place.sae]["d_sae"]
        if place.feature_id >= d_sae:
            raise ValueError(
                f"feature {place.feature_id} of layer {place.layer}, L0 {place.average_l0} does not exist: "
                f"that SAE has the features 0 to {d_sae - 1}"
            )


def activity(activations: scipy.sparse.csr_matrix) -> SaeActivity:
    """Firing rates and largest activations of an SAE's features, from CSR [T, d_sae]."""
    by_feature = activations.tocsc()
    return SaeActivity(
        token_rate=np.diff(by_feature.indptr) / activations.shape[0],
        largest=by_feature.max(axis=0).toarray().ravel(),
    )
