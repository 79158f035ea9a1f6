"""Everything that figures are drawn from: the sentences of s1, the chosen features and their activations."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from twins_s3.feature_folder import FeatureFolder, find_sae, open_feature_folder, read_sae_activations
from twins_s3.provenance import sha256_of

from .feature import Feature, FeatureKey
from .feature_choice import choose_features


@dataclass(frozen=True)
class DrawnRun:
    """A feature folder of s1 with the features that are drawn of it."""

    s1: FeatureFolder
    features: list[Feature]
    activations: np.ndarray  # [T, n_features] float32
    confirmation: np.ndarray  # [n] bool, sentences that had no part in choosing the features
    inputs_sha256: dict[str, str]

    @property
    def scale(self) -> np.ndarray:
        return self.activations.max(axis=0)  # [n_features]

    @property
    def counts(self) -> dict[int, int]:
        """Label -> number of its sentences, for the labels that occur."""
        labels, n = np.unique(self.s1.labels, return_counts=True)
        return dict(zip(labels.tolist(), n.tolist()))

    def tokens_of(self, row: int) -> slice:
        """The rows of a sentence in every array of tokens."""
        return slice(*self.s1.sentence_offsets[row : row + 2])


def load_run(s1_data: Path, s2_results: Path | None, named: list[FeatureKey] | None, top_n: int) -> DrawnRun:
    """Read and check both folders, and choose the features."""
    s1 = open_feature_folder(s1_data)
    choice = choose_features(s1, s2_results, named, top_n)
    activations = read_activations(s1, choice.features)
    print(
        f"read {len(choice.features)} features over {len(s1.labels):,} sentences, {len(s1.tokens):,} tokens"
    )
    files = {"s1 run.json": s1_data / "run.json", **choice.files}
    hashes = {name: sha256_of(path) for name, path in files.items()}
    return DrawnRun(s1, choice.features, activations, choice.confirmation, hashes)


def read_activations(s1: FeatureFolder, features: list[Feature]) -> np.ndarray:
    """Return the activations of `features`, [T, n_features] float32.

    One SAE file is held at a time, and of it only the columns asked for are kept, so memory does not
    grow with the number of SAEs. Raises ValueError for an SAE or a feature that the run does not have.
    """
    activations = np.full((s1.run["n_tokens"], len(features)), np.nan, np.float32)  # [T, n_features]
    for layer, average_l0 in dict.fromkeys(feature.key[:2] for feature in features):
        sae = find_sae(s1, layer, average_l0)
        columns = [i for i, f in enumerate(features) if f.key[:2] == (layer, average_l0)]
        ids = [features[i].feature_id for i in columns]
        if max(ids) >= sae["d_sae"]:
            raise ValueError(
                f"feature {max(ids)} of layer {layer}, L0 {average_l0} does not exist: that SAE has the "
                f"features 0 to {sae['d_sae'] - 1}"
            )
        activations[:, columns] = read_sae_activations(s1, sae)[:, ids].toarray()
    return activations
