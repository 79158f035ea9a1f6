"""The feature folders of an analysis, checked before time is spent on them."""

import dataclasses
from pathlib import Path

import numpy as np
from feature_statistics.feature_metrics import N_LABELS
from feature_statistics.permutation_test import permuted_labels
from twins_s2.feature_folder import EXTRACT, FeatureFolder, open_feature_folder, required_file


def open_analysis_input(folder: Path) -> FeatureFolder:
    """Open a feature folder of s1 that has all its SAE files and sentences of every label.

    Raises FileNotFoundError naming the missing file, ValueError for a foreign format, contradictory files, or
    a label without sentences.
    """
    features = open_feature_folder(folder)
    if not features.run["saes"]:
        raise ValueError(f"{folder / 'run.json'} has no saes, so there is no feature to rank; {EXTRACT}")
    for sae in features.run["saes"]:
        required_file(folder, sae["file"], EXTRACT)
    missing = np.flatnonzero(np.bincount(features.labels, minlength=N_LABELS) == 0)
    if missing.size:
        raise ValueError(
            f"{folder / 'sentences.csv'} has no sentence of label {missing[0]}; the statistics compare all "
            "four labels, so add sentences of that label to the input of s1"
        )
    return features


def open_contrasts(folders: list[Path], features: FeatureFolder) -> list[FeatureFolder]:
    """Open feature folders of other traits, one per trait and of the same model; else ValueError."""
    contrasts: dict[str, FeatureFolder] = {}
    for folder in folders:
        other = open_analysis_input(folder)
        if other.run["model"] != features.run["model"]:
            raise ValueError(
                f"--contrast {folder} was computed with the model {other.run['model']}, "
                f"{features.folder} with {features.run['model']}; run s1 on both with the same model"
            )
        if other.trait in contrasts:
            raise ValueError(
                f"--contrast {contrasts[other.trait].folder} and {folder} are both of the trait "
                f"{other.trait}, which names the columns; leave one out or rename its folder"
            )
        contrasts[other.trait] = other
    return list(contrasts.values())


def with_shuffled_labels(features: FeatureFolder, seed: int) -> FeatureFolder:
    """The same sentences with their labels permuted by group: a negative control."""
    rng = np.random.default_rng([seed, 0])
    return dataclasses.replace(features, labels=permuted_labels(features.labels, features.groups, 1, rng)[0])
