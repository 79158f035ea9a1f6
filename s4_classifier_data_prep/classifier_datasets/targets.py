"""What is predicted: the label of a sentence, or the activation of one SAE feature."""

from dataclasses import dataclass

import numpy as np
from twins_s4.feature_folder import LABEL, FeatureFolder, describe_saes, find_sae, read_sae_activations
from twins_s4.ranking_folder import RankingFolder, read_ranking
from twins_s4.sentence_pooling import pool_sparse
from utils import warn

from .dataset_options import DatasetOptions

RARE = 10  # stage 2 ranks no feature that fires in fewer sentences


@dataclass(frozen=True)
class Target:
    """The value to predict of the sentences that a dataset keeps."""

    rows: np.ndarray  # [n] bool, sentences kept
    y: np.ndarray | None  # [rows.sum()] float32 activation, or int64 label; None where there are no labels
    source: str | dict  # the label's column, or the feature
    pool: str | None  # of the feature's tokens

    @property
    def classes(self) -> list[int] | None:
        """The labels that occur; None where there are none, or an activation is predicted."""
        return None if self.y is None or isinstance(self.source, dict) else np.unique(self.y).tolist()

    @property
    def task(self) -> str:
        return "regression" if isinstance(self.source, dict) else "classification"


def label_target(options: DatasetOptions, features: FeatureFolder) -> Target:
    """The label of every sentence, or of those with one of two labels; no label of a text without."""
    labels = features.labels
    if labels is None:
        if options.binary and not options.like:
            raise ValueError(f"{features.folder} holds sentences without labels; leave out --binary")
        return Target(np.ones(len(features.groups), bool), None, LABEL, None)
    for label in options.binary or ():
        if not (labels == label).any():
            raise ValueError(
                f"{features.folder / 'sentences.csv'} has no sentence with label {label}; choose other labels"
            )
    rows = np.isin(labels, options.binary or np.unique(labels))  # [n] bool
    return Target(rows, labels[rows], LABEL, None)


def feature_target(options: DatasetOptions, features: FeatureFolder, results: RankingFolder | None) -> Target:
    """The pooled activation of the example's feature, the named one, or the best of stage 2's ranking."""
    feature = options.like.target if options.like else choose_feature(options, features, results)
    pool = options.target_pool or (results.pool if results else "max")
    y = pooled_feature(features, feature, pool, may_be_silent=options.like is not None)
    return Target(np.ones(len(y), dtype=bool), y, feature, pool)


def choose_feature(
    options: DatasetOptions, features: FeatureFolder, results: RankingFolder | None
) -> dict[str, object]:
    """The target's layer, average_l0 and feature_id: as given, or the first of stage 2's ranking."""
    if options.target_layer is None:
        layer, average_l0, feature_id, chosen_by = best_ranked(options.strategy, features, results)
    else:
        layer, average_l0 = options.target_layer, options.target_l0
        feature_id, chosen_by = options.target_feature, "arguments"
    sae = find_sae(features, layer, average_l0)
    if not 0 <= feature_id < sae["d_sae"]:
        raise ValueError(
            f"feature {feature_id} is out of range: the SAE of layer {sae['layer']}, L0 {sae['average_l0']} "
            f"has features 0 to {sae['d_sae'] - 1}"
        )
    return {
        "layer": sae["layer"],
        "average_l0": sae["average_l0"],
        "feature_id": feature_id,
        "neuronpedia_id": sae["neuronpedia_id"],
        "chosen_by": chosen_by,
    }


def best_ranked(
    strategy: str, features: FeatureFolder, results: RankingFolder | None
) -> tuple[int, int, int, str]:
    """Layer, average_l0 and feature_id of stage 2's best feature, and the file that ranks it first."""
    if results is None:
        raise ValueError(
            f"{strategy} needs a target: give --s2-results, or --target-layer and --target-feature "
            f"({features.folder} has {describe_saes(features)})"
        )
    for name in ("ranked_features.csv", "discovery_ranking.csv"):
        ranking = read_ranking(results.folder, name)
        if len(ranking):
            best = ranking.iloc[0]
            return int(best["layer"]), int(best["average_l0"]), int(best["feature_id"]), name
    raise ValueError(
        f"{results.folder} ranks no feature at all; name one with --target-layer and --target-feature"
    )


def pooled_feature(
    features: FeatureFolder, feature: dict, pool: str, may_be_silent: bool = False
) -> np.ndarray:
    """The feature's pooled activation per sentence, float32 [n]; ValueError if silent, unless it may be."""
    activations = read_sae_activations(features, find_sae(features, feature["layer"], feature["average_l0"]))
    column = activations[:, [feature["feature_id"]]].tocsc()  # [T, 1] float32
    y = pool_sparse(column, features.sentence_offsets, pool).toarray()[:, 0]  # [n] float32
    n_firing = int((y != 0).sum())
    name = f"feature {feature['feature_id']} of layer {feature['layer']}, L0 {feature['average_l0']}"
    if n_firing == 0 and not may_be_silent:
        busiest = np.argsort(-activations.getnnz(axis=0), kind="stable")[:5]
        raise ValueError(
            f"{name} never fires on these sentences under {pool} pooling, so there is nothing to predict; "
            f"features of that SAE that fire on most tokens: {', '.join(map(str, busiest))}"
        )
    if n_firing < RARE:
        warn(f"{name} fires in only {n_firing} of {len(y)} sentences")
    print(f"target: {name}, {pool} over tokens, fires in {n_firing} of {len(y)} sentences")
    return y
