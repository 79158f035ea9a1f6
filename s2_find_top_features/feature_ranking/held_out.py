"""What the chosen features do on the sentences that took no part in choosing them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from feature_statistics.confirmation import (
    confirm_features,
    confirmation_names,
    effect_sizes,
    empty_confirmation,
)
from feature_statistics.sentence_split import CONFIRMATION
from twins_s2.feature_folder import FeatureFolder

from .ranking_options import RankingOptions

DIFFICULTIES = ("plain", "hard")  # of the column `difficulty` of sentences.csv


@dataclass(frozen=True)
class ChosenFeatures:
    """Features chosen on the discovery sentences, and what they do on all sentences."""

    table: pd.DataFrame  # k rows of discovery statistics, numbered from 0
    pooled: np.ndarray  # [n, k] float32 activations
    steering: np.ndarray | None  # [n, k] float32 sensitivities; NaN or None where s1 computed no effects


def held_out_columns(
    chosen: ChosenFeatures, features: FeatureFolder, parts: np.ndarray, options: RankingOptions
) -> pd.DataFrame:
    """Effect sizes and p on the held-out of the `parts` [n], by activation and, where known, by effect.

    The columns are there, and empty, where nothing is held out.
    """
    held_out = parts == CONFIRMATION

    def confirm(values: np.ndarray, discovery_rho: pd.Series, thresholds: np.ndarray) -> pd.DataFrame:
        table = empty_confirmation(chosen.table.index)
        known = np.flatnonzero(np.isfinite(values).all(axis=0))
        if held_out.any() and known.size:
            table.loc[known] = confirm_features(
                values[held_out][:, known],
                features.labels[held_out],
                features.groups[held_out],
                thresholds[known],
                np.sign(discovery_rho.to_numpy()[known]),
                n_permutations=options.permutations,
                n_bootstrap=options.bootstrap,
                seed=options.seed,
            ).to_numpy()
        return table

    thresholds = chosen.table["threshold"].to_numpy()
    by_activation = confirm(chosen.pooled, chosen.table["spearman_corr"], thresholds).add_prefix("confirm_")
    follows = by_activation["confirm_p"] <= options.alpha
    unknown = pd.Series(not held_out.any(), index=follows.index)
    by_activation["confirmed"] = follows.astype("boolean").mask(unknown)
    by_difficulty = difficulty_columns(chosen, features, held_out, options)
    if chosen.steering is None:
        return pd.concat([by_activation, by_difficulty], axis=1)
    # A sensitivity has no threshold above which it would count, so no tpr and fpr either.
    by_effect = confirm(chosen.steering, chosen.table["steer_spearman"], np.zeros(len(chosen.table)))
    by_effect = by_effect[confirmation_names(("spearman", "auroc"))].add_prefix("confirm_steer_")
    steers = (by_effect["confirm_steer_p"] <= options.alpha) & (chosen.table["steer_spearman"] > 0)
    by_effect["evidence"] = evidence(follows.to_numpy(), steers.to_numpy())
    return pd.concat([by_activation, by_difficulty, by_effect], axis=1)


def difficulty_columns(
    chosen: ChosenFeatures, features: FeatureFolder, held_out: np.ndarray, options: RankingOptions
) -> pd.DataFrame:
    """AUROC of label 3 against 0 on the held-out ([n] bool) sentences of each difficulty, with intervals.

    No columns where sentences.csv has no column `difficulty`; empty ones where a label is missing.
    """
    tables = [pd.DataFrame(index=chosen.table.index)]
    for difficulty in DIFFICULTIES if "difficulty" in features.sentences else ():
        rows = held_out & (features.sentences["difficulty"] == difficulty).to_numpy()
        sizes = effect_sizes(
            chosen.pooled[rows],
            features.labels[rows],
            features.groups[rows],
            chosen.table["threshold"].to_numpy(),
            options.bootstrap,
            np.random.default_rng(options.seed),
        )
        for end in ("", "_low", "_high"):
            tables.append(sizes[f"auroc{end}"].rename(f"confirm_auroc_{difficulty}{end}"))
    return pd.concat(tables, axis=1)


def evidence(follows: np.ndarray, steers: np.ndarray) -> np.ndarray:
    """`follows`, `steers`, `both` or empty, [k] str, from two [k] bool."""
    return np.select([follows & steers, follows, steers], ["both", "follows", "steers"], default="")
