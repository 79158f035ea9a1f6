"""The feature folders of an analysis, checked before time is spent on them."""

import dataclasses
from pathlib import Path

import numpy as np
from feature_statistics.permutation_test import permuted_labels
from twins_s2.feature_folder import EXTRACT, FeatureFolder, open_feature_folder, required_file

from .sae_effects import GRADIENTS


def open_analysis_input(folder: Path) -> FeatureFolder:
    """Open a feature folder of s1 that has all its SAE files and sentences of labels 0 and 3.

    Raises FileNotFoundError naming the missing file, ValueError for a foreign format, contradictory files, or
    one of these labels without sentences.
    """
    features = open_feature_folder(folder)
    if not features.run["saes"]:
        raise ValueError(f"{folder / 'run.json'} has no saes, so there is no feature to rank; {EXTRACT}")
    for sae in features.run["saes"]:
        required_file(folder, sae["file"], EXTRACT)
        if sae.get("effects"):
            required_file(folder, sae["effects"], GRADIENTS)
    for label in (0, 3):
        if label not in features.labels:
            raise ValueError(
                f"{folder / 'sentences.csv'} has no sentence of label {label}; the statistics compare labels "
                "0 and 3 (1 and 2 may be missing), so add sentences of that label to the input of s1"
            )
    return features


def open_other_runs(folders: list[Path], features: FeatureFolder, option: str) -> list[FeatureFolder]:
    """Open the feature folders given with `option`, one per name and of the same model; else ValueError."""
    others: dict[str, FeatureFolder] = {}
    for folder in folders:
        other = open_analysis_input(folder)
        if other.run["model"] != features.run["model"]:
            raise ValueError(
                f"{option} {folder} was computed with the model {other.run['model']}, "
                f"{features.folder} with {features.run['model']}; run s1 on both with the same model"
            )
        if other.trait in others:
            raise ValueError(
                f"{option} {others[other.trait].folder} and {folder} are both of the trait "
                f"{other.trait}, which names the columns; leave one out or rename its folder"
            )
        others[other.trait] = other
    return list(others.values())


def with_shuffled_labels(features: FeatureFolder, seed: int) -> FeatureFolder:
    """The same sentences with their labels permuted by group: a negative control."""
    rng = np.random.default_rng([seed, 0])
    return dataclasses.replace(features, labels=permuted_labels(features.labels, features.groups, 1, rng)[0])
