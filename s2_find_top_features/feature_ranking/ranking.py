"""Ranks the features of all SAEs on the discovery sentences and confirms the best on the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from feature_statistics.feature_families import feature_families
from feature_statistics.feature_metrics import STATISTICS
from feature_statistics.p_values import benjamini_hochberg
from feature_statistics.permutation_test import critical_rho, maxt_p_values
from feature_statistics.sentence_split import DISCOVERY
from twins_s2.feature_folder import FeatureFolder
from twins_s2.sentence_pooling import pool_sparse

from .contrast import contrast_columns
from .held_out import ChosenFeatures, held_out_columns
from .ranking_options import RankingOptions
from .run_scan import RunScan, scan_run
from .sae_effects import EFFECT_COLUMNS
from .transfer import transfer_columns

DISCOVERY_COLUMNS = [
    *("layer", "average_l0", "feature_id", "neuronpedia_url"),
    *STATISTICS,
    *("p_maxt", "q_bh"),
]


@dataclass(frozen=True)
class CorrelationMap:
    """Both discovery correlations with the label of every eligible feature of the SAEs with effects."""

    saes: np.ndarray  # [n_with_effects] rows of `best_per_sae`
    activation: list[np.ndarray]  # per such SAE, [n_eligible] rho of activation
    steering: list[np.ndarray]  # per such SAE, [n_eligible] rho of steering sensitivity
    critical: tuple[float, float] | None  # |rho| of the two from which p_maxt is at most alpha; None: unknown

    def quadrants(self) -> dict[str, int] | None:
        """Features beyond both critical values, by the signs of both rho; None where these are unknown."""
        if self.critical is None:
            return None
        x, y = np.concatenate(self.activation), np.concatenate(self.steering)
        beyond = (np.abs(x) > self.critical[0]) & (np.abs(y) > self.critical[1])
        return {
            "upper_right": int((beyond & (x > 0) & (y > 0)).sum()),
            "lower_right": int((beyond & (x > 0) & (y < 0)).sum()),
            "upper_left": int((beyond & (x < 0) & (y > 0)).sum()),
            "lower_left": int((beyond & (x < 0) & (y < 0)).sum()),
        }


@dataclass(frozen=True)
class Ranking:
    """The tables of a finished analysis, and the activations of the ranked features."""

    ranked: pd.DataFrame  # the best that passed the filters
    discovery: pd.DataFrame  # the best eligible features, filters or not
    best_per_sae: pd.DataFrame  # one row per SAE
    signed_saes: list[str]  # sae_id of those left out because they keep signs
    token_acts: scipy.sparse.csc_matrix  # [T, len(ranked)]
    pooled: np.ndarray  # [n, len(ranked)] float32
    correlations: CorrelationMap | None  # where s1 computed effects
    summary: dict[str, int | None]


def rank_features(
    features: FeatureFolder,
    parts: np.ndarray,
    options: RankingOptions,
    contrasts: Sequence[FeatureFolder] = (),
    transfers: Sequence[FeatureFolder] = (),
) -> Ranking:
    """Rank on the sentences whose part ([n] str) is discovery, confirm the best on the others.

    `contrasts` are runs of other traits, `transfers` of other sentences of this one.
    """
    is_discovery = parts == DISCOVERY
    scan = scan_run(features, is_discovery, options)
    q_bh = np.sort(np.concatenate(scan.p)), benjamini_hochberg(np.sort(np.concatenate(scan.p)))
    ranked, discovery, best = (
        with_significance(table, scan, q_bh) for table in (scan.passing, scan.discovery, scan.best)
    )
    columns = [*DISCOVERY_COLUMNS, *(EFFECT_COLUMNS if scan.effect_rho else ())]
    token_acts = scan.token_activations(ranked, len(features.tokens))
    chosen = chosen_features(ranked, token_acts, scan, features, options.pool)
    families = feature_families(chosen.pooled[is_discovery], options.family_correlation)
    ranked = pd.concat(
        [
            ranked[columns].assign(family_id=families),
            held_out_columns(chosen, features, parts, options),
            transfer_columns(ranked, features, transfers, options),
            contrast_columns(ranked, chosen.pooled, features, parts, contrasts, options.pool),
        ],
        axis=1,
    )
    best_per_sae = best_per_sae_table(scan, best, features, parts, transfers, options)
    return Ranking(
        ranked=numbered(ranked),
        discovery=numbered(discovery[[*columns, "failed_filters"]]),
        best_per_sae=best_per_sae,
        signed_saes=scan.signed_saes,
        token_acts=token_acts,
        pooled=chosen.pooled,
        correlations=correlation_map(scan, options.alpha),
        summary=summarise(ranked, best_per_sae, q_bh[1], options, has_confirmation=not is_discovery.all()),
    )


def with_significance(
    table: pd.DataFrame, scan: RunScan, q_bh: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """The table with `p_maxt`, `q_bh` and, where there are effects, `p_steer_maxt`.

    They account for all eligible features of the run. `q_bh` holds the sorted p values of these features, and
    the adjusted value of each.
    """
    sorted_p, sorted_q = q_bh
    if scan.effect_rho:
        steer_rho = table["steer_spearman"].to_numpy()
        table = table.assign(p_steer_maxt=maxt_p_values(steer_rho, scan.effect_null_largest))
    return table.assign(
        p_maxt=maxt_p_values(table["spearman_corr"].to_numpy(), scan.null_largest),
        q_bh=sorted_q[np.searchsorted(sorted_p, table["p"])],
    )


def best_per_sae_table(
    scan: RunScan,
    best: pd.DataFrame,
    features: FeatureFolder,
    parts: np.ndarray,
    transfers: Sequence[FeatureFolder],
    options: RankingOptions,
) -> pd.DataFrame:
    """One row per SAE: its counts and its best eligible feature, if it has one, on other sentences too."""
    token_acts = scan.token_activations(best, len(features.tokens))
    chosen = chosen_features(best, token_acts, scan, features, options.pool)
    names = [*DISCOVERY_COLUMNS[2:], *(EFFECT_COLUMNS if scan.effect_rho else ())]
    columns = pd.concat(
        [
            best[["sae", *names]],
            held_out_columns(chosen, features, parts, options),
            transfer_columns(best, features, transfers, options),
        ],
        axis=1,
    )
    # An SAE without an eligible feature has a row all the same, with nothing in these columns.
    columns = columns.astype({"feature_id": "Int64", "n_firing": "Int64", "monotonic": "boolean"})
    n_significant = [int((maxt_p_values(rho, scan.null_largest) <= options.alpha).sum()) for rho in scan.rho]
    counts = scan.saes.copy()
    counts.insert(counts.columns.get_loc("n_passing"), "n_significant", n_significant)
    if scan.effect_rho:
        n_steer = {
            sae: int((maxt_p_values(rho, scan.effect_null_largest) <= options.alpha).sum())
            for sae, rho in scan.effect_rho.items()
        }
        n_steer = counts.index.to_series().map(n_steer).astype("Int64")
        counts.insert(counts.columns.get_loc("n_passing"), "n_significant_steer", n_steer)
    return counts.join(columns.set_index("sae"))


def chosen_features(
    table: pd.DataFrame,
    token_acts: scipy.sparse.csc_matrix,
    scan: RunScan,
    features: FeatureFolder,
    pool: str,
) -> ChosenFeatures:
    """The rows of `scan.passing` or `scan.best`, whose token activations are [T, len(table)]."""
    pooled = pool_sparse(token_acts, features.sentence_offsets, pool).toarray()
    return ChosenFeatures(table, pooled, scan.steering(table, len(features.labels)))


def correlation_map(scan: RunScan, alpha: float) -> CorrelationMap | None:
    """Both correlations of all eligible features with effects; None where there are none."""
    if not scan.effect_rho:
        return None
    nulls = (scan.null_largest, scan.effect_null_largest)
    saes = np.array(list(scan.effect_rho))
    return CorrelationMap(
        saes=saes,
        activation=[scan.rho[sae] for sae in saes],
        steering=list(scan.effect_rho.values()),
        critical=tuple(critical_rho(null, alpha) for null in nulls) if len(scan.null_largest) else None,
    )


def numbered(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its row numbers from 1 on as first column, `rank`."""
    return pd.concat([pd.Series(np.arange(1, len(table) + 1), name="rank"), table], axis=1)


def summarise(
    ranked: pd.DataFrame,
    best_per_sae: pd.DataFrame,
    q_bh: np.ndarray,
    options: RankingOptions,
    has_confirmation: bool,
) -> dict[str, int | None]:
    """Counts of the run; None for what was not computed."""
    confirmed = ranked[ranked["confirmed"].fillna(False)]
    with_effects = "evidence" in ranked
    return {
        "n_saes": len(best_per_sae),
        "n_features": int(best_per_sae["d_sae"].sum()),
        "n_firing_features": int(best_per_sae["n_firing_features"].sum()),
        "n_eligible": len(q_bh),
        "n_significant_maxt": int(best_per_sae["n_significant"].sum()) if options.permutations else None,
        "n_significant_bh": int((q_bh <= options.alpha).sum()),
        "n_passing": int(best_per_sae["n_passing"].sum()),
        "n_ranked": len(ranked),
        "n_families": ranked["family_id"].nunique(),
        "n_confirmed": len(confirmed) if has_confirmation else None,
        "n_families_confirmed": confirmed["family_id"].nunique() if has_confirmation else None,
        "n_significant_steer_maxt": (
            int(best_per_sae["n_significant_steer"].sum()) if with_effects and options.permutations else None
        ),
        **{
            f"n_{name}": int(ranked["evidence"].isin([name, "both"]).sum())
            if with_effects and has_confirmation
            else None
            for name in ("steers", "both")
        },
    }
