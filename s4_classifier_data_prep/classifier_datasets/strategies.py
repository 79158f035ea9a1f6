"""The four learning problems: for each, which inputs meet which target."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from load_sentence_data import (
    extracted_layers,
    pooled_features,
    pooled_token_array,
    require_layers,
    stacked_hidden_states,
)
from twins_s4.feature_folder import FeatureFolder
from twins_s4.ranking_folder import RankingFolder, read_ranking
from utils import warn

from .dataset_options import DatasetOptions
from .targets import Target, feature_target, label_target


@dataclass(frozen=True)
class Inputs:
    """What a target is predicted from."""

    X: np.ndarray  # [n_rows, n_inputs] float32
    pool: str
    layers: tuple[int, ...] = ()  # of stacked hidden states
    features: list[dict] | None = None  # of SAE features: layer, average_l0, feature_id, in rank order
    selected_on: str | None = None  # rows whose labels chose the inputs: `discovery`, `all`, or None of these


def embedding_to_feature(
    options: DatasetOptions, features: FeatureFolder, results: RankingFolder | None
) -> tuple[Inputs, Target]:
    """How much of a feature do the words alone explain?"""
    target = feature_target(options, features, results)
    pool = options.pool or "final"
    if pool == "final":
        warn_of_common_last_token(features)
    X = pooled_token_array(features, "embeddings.npz", "embeddings", pool, target.rows)
    return Inputs(X, pool), target


def hidden_to_feature(
    options: DatasetOptions, features: FeatureFolder, results: RankingFolder | None
) -> tuple[Inputs, Target]:
    """How early in the network can a feature be read?"""
    target = feature_target(options, features, results)
    layer = target.source["layer"] if options.input_layer is None else options.input_layer
    return hidden_inputs(features, [layer], options.pool or "final", target.rows), target


def hidden_to_concept(
    options: DatasetOptions, features: FeatureFolder, results: RankingFolder | None
) -> tuple[Inputs, Target]:
    """The probe of the trait itself, on one layer or several side by side."""
    target = label_target(options, features)
    if options.layer is not None:
        layers = [options.layer]
    else:
        layers = options.layers or extracted_layers(features)
    return hidden_inputs(features, layers, options.pool or "final", target.rows), target


def features_to_concept(
    options: DatasetOptions, features: FeatureFolder, results: RankingFolder | None
) -> tuple[Inputs, Target]:
    """The sparse probe: how far do the k best discovery features get?"""
    target = label_target(options, features)
    if options.like:
        chosen, pool, selected_on = options.like.features, options.pool, None
    else:
        chosen, selected_on = best_discovery_features(options.k, results)
        pool = options.pool or results.pool
    X = pooled_features(features, chosen, pool, target.rows)
    return Inputs(X, pool, features=chosen, selected_on=selected_on), target


def best_discovery_features(k: int, results: RankingFolder) -> tuple[list[dict], str]:
    """The first `k` features of stage 2's unfiltered ranking, and the rows whose labels chose them."""
    ranking = read_ranking(results.folder, "discovery_ranking.csv")
    if len(ranking) < k:
        raise ValueError(
            f"{results.folder / 'discovery_ranking.csv'} holds {len(ranking)} features and --k asks for "
            f"{k}; choose --k up to {len(ranking)}"
        )
    chosen = ranking.head(k)[["layer", "average_l0", "feature_id"]].astype(int).to_dict("records")
    if "confirmation" in results.part:
        return chosen, "discovery"
    warn(
        f"{results.folder} held out no confirmation sentences, so these features were chosen on every "
        "row; no test figure from this dataset is free of that choice"
    )
    return chosen, "all"


Strategy = Callable[[DatasetOptions, FeatureFolder, RankingFolder | None], tuple[Inputs, Target]]
STRATEGIES: dict[str, Strategy] = {
    "embedding-to-feature": embedding_to_feature,
    "hidden-to-feature": hidden_to_feature,
    "hidden-to-concept": hidden_to_concept,
    "features-to-concept": features_to_concept,
}


def hidden_inputs(features: FeatureFolder, layers: list[int], pool: str, rows: np.ndarray) -> Inputs:
    require_layers(features, layers)
    return Inputs(stacked_hidden_states(features, layers, pool, rows), pool, layers=tuple(layers))


def warn_of_common_last_token(features: FeatureFolder) -> None:
    """Say how little the last token's embedding can carry: it depends on that token alone."""
    last = features.tokens[features.sentence_offsets[1:] - 1]  # [n] str
    tokens, counts = np.unique(last, return_counts=True)
    share = counts.max() / len(last)
    if share > 0.5:
        warn(
            f"{share:.0%} of the sentences end in {str(tokens[counts.argmax()])!r}, whose embedding is the "
            "same in each of them; --pool mean uses the whole sentence"
        )
