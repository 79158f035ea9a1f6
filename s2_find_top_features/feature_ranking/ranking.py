"""Ranks the features of all SAEs on the discovery sentences and confirms the best on the others."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from feature_statistics.confirmation import confirm_features, empty_confirmation
from feature_statistics.feature_families import feature_families
from feature_statistics.feature_metrics import STATISTICS
from feature_statistics.p_values import benjamini_hochberg
from feature_statistics.permutation_test import maxt_p_values
from feature_statistics.sentence_split import CONFIRMATION, DISCOVERY
from twins_s2.feature_folder import FeatureFolder
from twins_s2.sentence_pooling import pool_sparse

from .contrast import contrast_columns
from .ranking_options import RankingOptions
from .run_scan import RunScan, scan_run

DISCOVERY_COLUMNS = [
    *("layer", "average_l0", "feature_id", "neuronpedia_url"),
    *STATISTICS,
    *("p_maxt", "q_bh"),
]


@dataclass(frozen=True)
class Ranking:
    """The tables of a finished analysis, and the activations of the ranked features."""

    ranked: pd.DataFrame  # the best that passed the filters
    discovery: pd.DataFrame  # the best eligible features, filters or not
    best_per_sae: pd.DataFrame  # one row per SAE
    signed_saes: list[str]  # sae_id of those left out because they keep signs
    token_acts: scipy.sparse.csc_matrix  # [T, len(ranked)]
    pooled: np.ndarray  # [n, len(ranked)] float32
    summary: dict[str, int | None]


def rank_features(
    features: FeatureFolder, parts: np.ndarray, contrasts: list[FeatureFolder], options: RankingOptions
) -> Ranking:
    """Rank on the sentences whose part ([n] str) is discovery, confirm the best on the others."""
    is_discovery = parts == DISCOVERY
    scan = scan_run(features, is_discovery, options)
    q_bh = np.sort(np.concatenate(scan.p)), benjamini_hochberg(np.sort(np.concatenate(scan.p)))
    ranked, discovery, best = (
        with_significance(table, scan, q_bh) for table in (scan.passing, scan.discovery, scan.best)
    )
    token_acts = scan.token_activations(ranked, len(features.tokens))
    pooled = pool_sparse(token_acts, features.sentence_offsets, options.pool).toarray()
    families = feature_families(pooled[is_discovery], options.family_correlation)
    ranked = pd.concat(
        [
            ranked[DISCOVERY_COLUMNS].assign(family_id=families),
            confirmation_columns(ranked, pooled, features, parts, options),
            contrast_columns(ranked, pooled, features, parts, contrasts, options.pool),
        ],
        axis=1,
    )
    best_per_sae = best_per_sae_table(scan, best, features, parts, options)
    return Ranking(
        ranked=numbered(ranked),
        discovery=numbered(discovery[[*DISCOVERY_COLUMNS, "failed_filters"]]),
        best_per_sae=best_per_sae,
        signed_saes=scan.signed_saes,
        token_acts=token_acts,
        pooled=pooled,
        summary=summarise(ranked, best_per_sae, q_bh[1], options, has_confirmation=not is_discovery.all()),
    )


def with_significance(
    table: pd.DataFrame, scan: RunScan, q_bh: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """The table with `p_maxt` and `q_bh`, which account for all eligible features of the run.

    `q_bh` holds the sorted p values of these features, and the adjusted value of each.
    """
    sorted_p, sorted_q = q_bh
    return table.assign(
        p_maxt=maxt_p_values(table["spearman_corr"].to_numpy(), scan.null_largest),
        q_bh=sorted_q[np.searchsorted(sorted_p, table["p"])],
    )


def confirmation_columns(
    table: pd.DataFrame,
    pooled: np.ndarray,
    features: FeatureFolder,
    parts: np.ndarray,
    options: RankingOptions,
) -> pd.DataFrame:
    """Effect sizes of the rows of `table` on held-out sentences; empty columns where none are held out."""
    held_out = parts == CONFIRMATION
    if not held_out.any():
        unknown = pd.array([pd.NA] * len(table), dtype="boolean")
        return empty_confirmation(table.index).assign(confirmed=unknown)
    confirmation = confirm_features(
        pooled[held_out],
        features.labels[held_out],
        features.groups[held_out],
        table["threshold"].to_numpy(),
        np.sign(table["spearman_corr"].to_numpy()),
        n_permutations=options.permutations,
        n_bootstrap=options.bootstrap,
        seed=options.seed,
    )
    return confirmation.assign(confirmed=(confirmation["confirm_p"] <= options.alpha).astype("boolean"))


def best_per_sae_table(
    scan: RunScan, best: pd.DataFrame, features: FeatureFolder, parts: np.ndarray, options: RankingOptions
) -> pd.DataFrame:
    """One row per SAE: its counts and its best eligible feature, if it has one, with its confirmation."""
    token_acts = scan.token_activations(best, len(features.tokens))
    pooled = pool_sparse(token_acts, features.sentence_offsets, options.pool).toarray()
    confirmation = confirmation_columns(best, pooled, features, parts, options)
    columns = pd.concat([best[["sae", *DISCOVERY_COLUMNS[2:]]], confirmation], axis=1)
    # An SAE without an eligible feature has a row all the same, with nothing in these columns.
    columns = columns.astype({"feature_id": "Int64", "n_firing": "Int64", "monotonic": "boolean"})
    n_significant = [int((maxt_p_values(rho, scan.null_largest) <= options.alpha).sum()) for rho in scan.rho]
    counts = scan.saes.copy()
    counts.insert(counts.columns.get_loc("n_passing"), "n_significant", n_significant)
    return counts.join(columns.set_index("sae"))


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
    }
