"""Everything that figures are drawn from: the sentences of s1, the chosen features and their activations."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from twins_s3.feature_folder import (
    EXTRACT,
    FeatureFolder,
    find_sae,
    open_feature_folder,
    read_sae_activations,
    required_file,
)
from twins_s3.provenance import sha256_of

from .feature import Feature, FeatureKey
from .feature_choice import choose_features
from .sentence_labels import UNLABELLED


@dataclass(frozen=True)
class DrawnRun:
    """A feature folder of s1 with the features that are drawn of it."""

    s1: FeatureFolder
    features: list[Feature]
    activations: np.ndarray  # [T, n_features] float32
    attribution: np.ndarray | None  # [T, n_features] float32, nats; None where s1 computed no effects
    # [n] bool, sentences that had no part in choosing the features; None where others chose them
    confirmation: np.ndarray | None
    inputs_sha256: dict[str, str]

    @property
    def scale(self) -> np.ndarray:
        return self.activations.max(axis=0)  # [n_features]

    @property
    def labelled(self) -> bool:
        return self.s1.labels is not None

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels [n] int64; `UNLABELLED` for every sentence where there are none."""
        return self.s1.labels if self.labelled else np.full(len(self.s1.groups), UNLABELLED)

    @property
    def counts(self) -> dict[int, int]:
        """Label -> number of its sentences, for the labels that occur."""
        labels, n = np.unique(self.labels, return_counts=True)
        return dict(zip(labels.tolist(), n.tolist()))

    def tokens_of(self, row: int) -> slice:
        """The rows of a sentence in every array of tokens."""
        return slice(*self.s1.sentence_offsets[row : row + 2])


def load_run(
    s1_data: Path,
    s2_results: Path | None,
    named: list[FeatureKey] | None,
    top_n: int,
    chosen_elsewhere: bool = False,
) -> DrawnRun:
    """Read and check both folders, and choose the features; `s2_results` of another run if said so."""
    s1 = open_feature_folder(s1_data, needs_labels=False)
    choice = choose_features(s1, s2_results, named, top_n, chosen_elsewhere)
    activations, attribution = read_activations(s1, choice.features)
    print(
        f"read {len(choice.features)} features over {len(s1.groups):,} sentences"
        f"{'' if s1.labels is not None else ' without labels'}, {len(s1.tokens):,} tokens"
    )
    files = {"s1 run.json": s1_data / "run.json", **choice.files}
    hashes = {name: sha256_of(path) for name, path in files.items()}
    return DrawnRun(s1, choice.features, activations, attribution, choice.confirmation, hashes)


def read_activations(s1: FeatureFolder, features: list[Feature]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return activations and attributions of `features`, both [T, n_features] float32.

    The attribution a_tf g_t·W_dec[f] is what a firing adds to the sentence's mean log-probability per token,
    to first order, in nats; None unless s1 computed effects for all these features' SAEs. One SAE file is
    held at a time, and of it only the columns asked for are kept, so memory does not grow with the SAEs.
    Raises ValueError for an SAE or a feature that the run does not have.
    """
    activations = np.full((s1.run["n_tokens"], len(features)), np.nan, np.float32)  # [T, n_features]
    attribution = np.full_like(activations, np.nan)
    for layer, average_l0 in dict.fromkeys(feature.key[:2] for feature in features):
        sae = find_sae(s1, layer, average_l0)
        columns = [i for i, f in enumerate(features) if f.key[:2] == (layer, average_l0)]
        ids = [features[i].feature_id for i in columns]
        if max(ids) >= sae["d_sae"]:
            raise ValueError(
                f"feature {max(ids)} of layer {layer}, L0 {average_l0} does not exist: that SAE has the "
                f"features 0 to {sae['d_sae'] - 1}"
            )
        of_sae = read_sae_activations(s1, sae)  # CSR [T, d_sae]
        activations[:, columns] = of_sae[:, ids].toarray()
        if sae.get("effects"):
            of_sae.data = read_attribution(s1, sae, of_sae.nnz)
            attribution[:, columns] = of_sae[:, ids].toarray()
    return activations, None if np.isnan(attribution).any() else attribution


def read_attribution(s1: FeatureFolder, sae: dict, n_values: int) -> np.ndarray:
    """`token_attribution` [n_values] float32 of an SAE's effects, in the order of its activations."""
    path = required_file(s1.folder, sae["effects"], EXTRACT)
    with np.load(path, allow_pickle=False) as arrays:
        values = arrays["token_attribution"] if "token_attribution" in arrays else np.empty(0)
    if values.shape != (n_values,):
        raise ValueError(
            f"{path}: token_attribution has shape {values.shape}, the activations have {n_values} values; "
            f"delete it and {EXTRACT}"
        )
    return values
