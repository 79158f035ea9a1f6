"""Which features are drawn: the best of s2's ranking, or those that the user names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from twins_s3.chosen_elsewhere import require_same_origin
from twins_s3.feature_folder import FeatureFolder, read_run
from twins_s3.ranking_folder import ANALYZE, open_rankings, read_ranking

from .feature import Feature, FeatureKey


@dataclass(frozen=True)
class FeatureChoice:
    """The features to draw, and what their choice rests on."""

    features: list[Feature]
    # [n] bool, sentences that had no part in the choice (maybe none); None where others made it
    confirmation: np.ndarray | None
    files: dict[str, Path]  # what was read of s2


def choose_features(
    s1: FeatureFolder,
    s2_results: Path | None,
    named: list[FeatureKey] | None,
    top_n: int,
    chosen_elsewhere: bool,
) -> FeatureChoice:
    """The features `named`, or without them the `top_n` best of `s2_results`, which is then needed.

    Raises ValueError unless `s2_results` come from `s1`, or, with `chosen_elsewhere`, from other sentences
    and the very SAEs of `s1`.
    """
    if s2_results is None:
        return FeatureChoice(named_features(named, s1, None), np.zeros(len(s1.groups), bool), {})
    files = {"s2 run.json": s2_results / "run.json"}
    confirmation = None if chosen_elsewhere else open_rankings(s2_results, s1).part == "confirmation"
    if named:
        features = named_features(named, s1, s2_results)
    else:
        features, source = best_features(s2_results, top_n)
        files[f"s2 {source}"] = s2_results / source
    if chosen_elsewhere:
        require_same_features(s1, s2_results, features)
    return FeatureChoice(features, confirmation, files)


def require_same_features(s1: FeatureFolder, s2_results: Path, features: list[Feature]) -> None:
    """Raise ValueError unless results of another run are about the very `features` of `s1`."""
    source = read_run(s2_results, ANALYZE)["features_run"]
    if source["input_sha256"] == s1.run["input_sha256"]:
        raise ValueError(
            f"{s2_results} was computed from the sentences of {s1.folder}, so its features were chosen on "
            "them: leave out --frozen"
        )
    recorded = {(sae["layer"], sae["average_l0"]): sae for sae in source.get("saes", ())}
    used = dict.fromkeys(feature.key[:2] for feature in features)
    saes = [recorded.get(key, {"layer": key[0], "average_l0": key[1]}) for key in used]
    require_same_origin(s1, source, saes, s2_results)


def best_features(s2_results: Path, top_n: int) -> tuple[list[Feature], str]:
    """As `top_features`, saying where they fall short of what was asked for."""
    features, source = top_features(s2_results, top_n)
    if source != "ranked_features.csv":
        print(f"no feature passed s2's filters: drawing the best of {source}, which is not filtered")
    if len(features) < top_n:
        print(f"s2 ranked {len(features)} features, fewer than --top-n {top_n}: drawing these")
    return features, source


def top_features(s2_results: Path, top_n: int) -> tuple[list[Feature], str]:
    """Return the best `top_n` features and the name of the file that they were taken from.

    Where no feature passed s2's filters, `discovery_ranking.csv`, which is not filtered, stands in.
    Raises ValueError when both are empty.
    """
    for name in ("ranked_features.csv", "discovery_ranking.csv"):
        table = read_scored_ranking(s2_results, name)
        if len(table):
            return features_in_rank_order(table.head(top_n)), name
    raise ValueError(
        f"{s2_results}: ranked_features.csv and discovery_ranking.csv are both empty, so there is no "
        "feature to draw; name some with --features layer:l0:id,…"
    )


def named_features(named: list[FeatureKey], s1: FeatureFolder, s2_results: Path | None) -> list[Feature]:
    """Return the features `named`, with rank and score where s2 ranked them."""
    ranked = {}
    if s2_results is not None:
        for name in ("discovery_ranking.csv", "ranked_features.csv"):
            for feature in features_in_rank_order(read_scored_ranking(s2_results, name)):
                ranked[feature.key] = (feature.rank, feature.score)
    pages = {(sae["layer"], sae["average_l0"]): sae.get("neuronpedia_id") for sae in s1.run["saes"]}
    features = []
    for layer, average_l0, feature_id in named:
        rank, score = ranked.get((layer, average_l0, feature_id), (None, None))
        page = pages.get((layer, average_l0))
        url = f"https://www.neuronpedia.org/{page}/{feature_id}" if page else ""
        features.append(Feature(layer, average_l0, feature_id, rank, score, url))
    return features


def read_scored_ranking(folder: Path, name: str) -> pd.DataFrame:
    """`read_ranking`, which must also hold the score and the page of each feature."""
    table = read_ranking(folder, name)
    missing = [column for column in ("neuronpedia_url", "interpretability_score") if column not in table]
    if missing:
        raise ValueError(f"{folder / name} has no column {missing[0]}; {ANALYZE}")
    return table


def features_in_rank_order(table: pd.DataFrame) -> list[Feature]:
    return [
        Feature(
            layer=int(row.layer),
            average_l0=int(row.average_l0),
            feature_id=int(row.feature_id),
            rank=rank,
            score=float(row.interpretability_score),
            neuronpedia_url=row.neuronpedia_url if isinstance(row.neuronpedia_url, str) else "",
        )
        for rank, row in enumerate(table.itertuples(), start=1)
    ]
