"""One SAE: all statistics of its features on the discovery sentences, reduced to what may be needed later."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from feature_statistics.feature_metrics import (
    feature_statistics,
    sort_activations,
    standardised_ranks,
    unit_ranks,
)
from feature_statistics.p_values import spearman_p_values
from feature_statistics.permutation_test import largest_permuted_rho, mean_square_rho
from twins_s2.feature_folder import FeatureFolder, read_sae_activations
from twins_s2.sentence_pooling import pool_sparse

from .ranking_options import RankingOptions

N_DISCOVERY_RANKING = 1000


@dataclass(frozen=True)
class SaeScan:
    """What is kept of one SAE once its activations are out of memory."""

    n_firing: int  # features that fire in at least one discovery sentence
    n_passing: int  # eligible features that pass the filters
    rho: np.ndarray  # [n_eligible] Spearman correlations
    p: np.ndarray  # [n_eligible] their analytic p values
    null_largest: np.ndarray  # [n_permutations] largest permuted |rho| over the eligible features
    rows: pd.DataFrame  # the best and the best passing features, best first
    candidates: scipy.sparse.csc_matrix  # [T, n_candidates] token activations
    candidate_ids: np.ndarray  # [n_candidates] feature_id: the best, and the best that pass


def scan_sae(
    features: FeatureFolder,
    sae: dict,
    is_discovery: np.ndarray,
    permuted_ranks: np.ndarray,
    options: RankingOptions,
) -> SaeScan | None:
    """Scan one entry of run.json's `saes` on the discovery sentences ([n] bool).

    `permuted_ranks` is [n_discovery, B] float32, the `unit_ranks` of permuted labels. None for an SAE that
    keeps signs (abstopk): the statistics are those of activations that are 0 or more.
    """
    token_acts = read_sae_activations(features, sae).tocsc()  # [T, d_sae]
    if token_acts.nnz and token_acts.data.min() < 0:
        return None
    pooled = pool_sparse(token_acts, features.sentence_offsets, options.pool)  # [n, d_sae]
    if not is_discovery.all():
        pooled = pooled[is_discovery]  # [n_discovery, d_sae]
    n_firing = np.diff(pooled.indptr)  # [d_sae]
    table, ranks = eligible_features(pooled, features.labels[is_discovery], options.min_firing)
    table["p"] = analytic_p_values(
        table["spearman_corr"].to_numpy(), ranks, features.labels[is_discovery], features.groups[is_discovery]
    )

    failures = filter_failures(table, options)
    order = np.argsort(-table[options.rank_by].to_numpy(), kind="stable")
    is_passing = ~failures.to_numpy().any(axis=1)
    best_passing = order[is_passing[order]][: options.top_n]
    kept = order[np.isin(order, best_passing) | (np.arange(len(order)) < N_DISCOVERY_RANKING)]
    candidate_ids = table["feature_id"].to_numpy()[np.union1d(order[:1], best_passing)]
    return SaeScan(
        n_firing=int((n_firing > 0).sum()),
        n_passing=int(is_passing.sum()),
        rho=table["spearman_corr"].to_numpy(),
        p=table["p"].to_numpy(),
        null_largest=largest_permuted_rho(ranks, permuted_ranks),
        rows=identified_rows(table.iloc[kept], failures.iloc[kept], sae),
        candidates=token_acts[:, candidate_ids],
        candidate_ids=candidate_ids,
    )


def eligible_features(
    pooled: scipy.sparse.csc_matrix, labels: np.ndarray, min_firing: int
) -> tuple[pd.DataFrame, scipy.sparse.csr_matrix]:
    """Statistics and `standardised_ranks` of the features that fire often enough and are not constant."""
    feature_ids = np.flatnonzero(np.diff(pooled.indptr) >= min_firing)
    entries = sort_activations(pooled[:, feature_ids])
    ranks = standardised_ranks(entries)  # [n_features, n] float64
    table = feature_statistics(entries, ranks, labels)
    table.insert(0, "feature_id", feature_ids)
    is_eligible = table["spearman_corr"].notna().to_numpy()  # a constant feature has no correlation
    if is_eligible.all():
        return table, ranks
    return table[is_eligible].reset_index(drop=True), ranks[is_eligible]


def analytic_p_values(
    rho: np.ndarray, ranks: scipy.sparse.csr_matrix, labels: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Analytic p of each feature's rho [n_features], corrected where sentences belong to groups."""
    is_grouped = len(np.unique(groups)) < len(groups)
    mean_square = mean_square_rho(ranks, unit_ranks(labels), groups) if is_grouped else None
    return spearman_p_values(rho, len(labels), mean_square)


def filter_failures(table: pd.DataFrame, options: RankingOptions) -> pd.DataFrame:
    """Which features fail which filter: one bool column per filter, rows as `table`."""
    failures = {
        "pearson": table["pearson_corr"] < options.min_pearson,
        "tpr": table["tpr"] < options.min_tpr,
        "fpr": table["fpr"] > options.max_fpr,
    }
    if options.require_monotonic:
        failures["monotonic"] = ~table["monotonic"]
    return pd.DataFrame(failures)


def identified_rows(table: pd.DataFrame, failures: pd.DataFrame, sae: dict) -> pd.DataFrame:
    """The rows with the SAE they belong to, their Neuronpedia page and the filters that they fail."""
    filters = failures.columns.to_numpy(dtype=object)
    rows = table.assign(
        layer=sae["layer"],
        average_l0=sae["average_l0"],
        neuronpedia_url=neuronpedia_urls(sae.get("neuronpedia_id"), table["feature_id"]),
        failed_filters=[";".join(filters[failed]) for failed in failures.to_numpy()],
    )
    return rows.reset_index(drop=True)


def neuronpedia_urls(neuronpedia_id: str | None, feature_ids: pd.Series) -> list[str]:
    """Links to the features' Neuronpedia pages; empty where the SAE has none."""
    if not neuronpedia_id:
        return [""] * len(feature_ids)
    return [f"https://www.neuronpedia.org/{neuronpedia_id}/{feature_id}" for feature_id in feature_ids]
