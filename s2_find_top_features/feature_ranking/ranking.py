"""Ranks the features of all SAEs on the discovery sentences and confirms the best on the rest.

SAEs are read one at a time (several in parallel threads). Of each, only its best rows, the token
activations of its candidates, and a correlation and a p value per eligible feature stay in memory.
"""

import argparse
from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
import scipy.sparse
from feature_ranking.analysis_input import FeatureRun, load_activations
from feature_statistics.feature_metrics import (
    STATISTICS,
    feature_statistics,
    pool_tokens,
    sort_activations,
    standardised_ranks,
    unit_ranks,
)
from feature_statistics.permutation_test import (
    CONFIRM_COLUMNS,
    CONFIRMATION,
    DISCOVERY,
    benjamini_hochberg,
    confirm_features,
    contrast_features,
    feature_families,
    maxt_p_values,
    permutation_null,
    permuted_labels,
    spearman_p_values,
)
from tqdm import tqdm

N_DISCOVERY_RANKING = 1000
IDENTITY = ["layer", "average_l0", "feature_id", "neuronpedia_url"]
DISCOVERY_COLUMNS = [*IDENTITY, *STATISTICS, "p_maxt", "q_bh"]


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


@dataclass(frozen=True)
class Ranking:
    """The tables of a finished analysis, and the activations of the ranked features."""

    ranked: pd.DataFrame  # the best that passed the filters
    discovery: pd.DataFrame  # the best eligible features, filters or not
    best_per_sae: pd.DataFrame  # one row per SAE
    token_acts: scipy.sparse.csc_matrix  # [T, len(ranked)]
    pooled: np.ndarray  # [n, len(ranked)] float32
    summary: dict[str, int | None]


def rank_features(
    feature_run: FeatureRun, parts: np.ndarray, contrasts: list[FeatureRun], args: argparse.Namespace
) -> Ranking:
    """Rank on the sentences whose part ([n] str) is discovery, confirm the best on the others."""
    is_discovery = parts == DISCOVERY
    entries = [entry for entry in feature_run.run["saes"] if not entry.get("duplicate_of")]
    permuted = permuted_labels(
        unit_ranks(feature_run.labels[is_discovery]).astype(np.float32),
        feature_run.groups[is_discovery],
        args.permutations,
        np.random.default_rng([args.seed, 1]),
    )
    permuted_ranks = np.ascontiguousarray(permuted.T)  # [n_discovery, B] float32
    scans = joblib.Parallel(n_jobs=args.jobs, prefer="threads", return_as="generator", pre_dispatch="n_jobs")(
        joblib.delayed(scan_sae)(feature_run, entry, is_discovery, permuted_ranks, args) for entry in entries
    )
    ranked = discovery = pd.DataFrame()
    best: list[pd.DataFrame] = []  # per SAE, one row or none
    counts, rho, p = [], [], []  # per SAE
    null_largest = np.zeros(args.permutations, dtype=np.float32)
    acts_of: dict[tuple[int, int], scipy.sparse.csc_matrix] = {}  # (sae, feature_id) -> [T, 1]
    for sae, scan in enumerate(
        tqdm(scans, total=len(entries), desc="SAEs", unit="SAE", leave=False, disable=None)
    ):
        rows = scan.rows.assign(sae=sae)
        ranked = _best([ranked, rows[rows["failed_filters"] == ""]], args.rank_by, args.top_n)
        discovery = _best([discovery, rows], args.rank_by, N_DISCOVERY_RANKING)
        best.append(rows.head(1))
        counts.append((scan.n_firing, scan.n_passing))
        rho.append(scan.rho)
        p.append(scan.p)
        null_largest = np.maximum(null_largest, scan.null_largest)
        acts_of |= {(sae, feature): scan.candidates[:, [k]] for k, feature in enumerate(scan.candidate_ids)}
        acts_of = {key: acts_of[key] for table in (ranked, *best) for key in _keys(table)}

    sorted_p = np.sort(np.concatenate(p))
    sorted_q = benjamini_hochberg(sorted_p)
    for table in (ranked, discovery, best_table := _concat(best)):
        table["p_maxt"] = maxt_p_values(table["spearman_corr"].to_numpy(), null_largest)
        table["q_bh"] = sorted_q[np.searchsorted(sorted_p, table["p"])]
    ranked_acts, best_acts = (_stack(acts_of, table, feature_run) for table in (ranked, best_table))
    pooled = _pool(ranked_acts, feature_run, args)  # [n, len(ranked)]
    confirmation = confirmation_columns(ranked, pooled, feature_run, parts, args)
    families = feature_families(pooled[is_discovery], args.family_correlation)
    contrast = contrast_columns(ranked, pooled, feature_run, parts, contrasts, args)
    ranked = pd.concat([ranked[DISCOVERY_COLUMNS].assign(family_id=families), confirmation, contrast], axis=1)

    best_confirmation = confirmation_columns(
        best_table, _pool(best_acts, feature_run, args), feature_run, parts, args
    )
    significant = [int((maxt_p_values(values, null_largest) <= args.alpha).sum()) for values in rho]
    best_per_sae = pd.DataFrame(
        {
            **{key: [entry[key] for entry in entries] for key in ("layer", "average_l0", "d_sae")},
            "n_firing_features": [n_firing for n_firing, _ in counts],
            "n_eligible": [len(values) for values in rho],
            "n_significant": significant,
            "n_passing": [n_passing for _, n_passing in counts],
        }
    )
    best_features = pd.concat([best_table[["sae", *DISCOVERY_COLUMNS[2:]]], best_confirmation], axis=1)
    # An SAE without an eligible feature has a row all the same, with nothing in these columns.
    best_features = best_features.astype({"feature_id": "Int64", "n_firing": "Int64", "monotonic": "boolean"})
    best_per_sae = best_per_sae.join(best_features.set_index("sae"))

    n_confirmed = int(ranked["confirmed"].sum()) if (~is_discovery).any() else None
    summary = {
        "n_saes": len(entries),
        "n_features": int(best_per_sae["d_sae"].sum()),
        "n_firing_features": int(best_per_sae["n_firing_features"].sum()),
        "n_eligible": len(sorted_p),
        "n_significant_maxt": sum(significant) if args.permutations else None,
        "n_significant_bh": int((sorted_q <= args.alpha).sum()),
        "n_passing": int(best_per_sae["n_passing"].sum()),
        "n_ranked": len(ranked),
        "n_families": len(np.unique(families)),
        "n_confirmed": n_confirmed,
        "n_families_confirmed": ranked.loc[ranked["confirmed"].fillna(False), "family_id"].nunique()
        if n_confirmed is not None
        else None,
    }
    discovery = discovery[[*DISCOVERY_COLUMNS, "failed_filters"]]
    for table in (ranked, discovery):
        table.insert(0, "rank", np.arange(1, len(table) + 1))
    return Ranking(ranked, discovery, best_per_sae, ranked_acts, pooled, summary)


def scan_sae(
    feature_run: FeatureRun,
    entry: dict,
    is_discovery: np.ndarray,
    permuted_ranks: np.ndarray,
    args: argparse.Namespace,
) -> SaeScan:
    """All statistics of one SAE on the discovery sentences ([n] bool), reduced to what may be needed later.

    `permuted_ranks` is [n_discovery, B] float32, the `unit_ranks` of permuted labels.
    """
    token_acts = load_activations(feature_run, entry).tocsc()  # [T, d_sae]
    pooled = pool_tokens(token_acts, feature_run.sentence_offsets, args.pool)  # [n, d_sae]
    if not is_discovery.all():
        pooled = pooled[is_discovery]  # [n_discovery, d_sae]
    labels, groups = feature_run.labels[is_discovery], feature_run.groups[is_discovery]
    n_firing = np.diff(pooled.indptr)  # [d_sae]
    feature_ids = np.flatnonzero(n_firing >= args.min_firing)
    entries = sort_activations(pooled[:, feature_ids])
    ranks = standardised_ranks(entries)  # [n_features, n_discovery] float64
    table = feature_statistics(entries, ranks, labels)
    table.insert(0, "feature_id", feature_ids)
    is_eligible = table["spearman_corr"].notna().to_numpy()  # a constant feature has no correlation
    if not is_eligible.all():
        table, ranks = table[is_eligible].reset_index(drop=True), ranks[is_eligible]

    rho = table["spearman_corr"].to_numpy()
    null_largest, mean_square = permutation_null(ranks, permuted_ranks)
    is_grouped = len(np.unique(groups)) < len(groups) and args.permutations > 0
    table["p"] = spearman_p_values(rho, len(labels), mean_square if is_grouped else None)

    failures = filter_failures(table, args)
    filters = failures.columns.to_numpy(dtype=object)
    order = np.argsort(-table[args.rank_by].to_numpy(), kind="stable")
    is_passing = ~failures.to_numpy().any(axis=1)
    best_passing = order[is_passing[order]][: args.top_n]
    kept = order[np.isin(order, best_passing) | (np.arange(len(order)) < N_DISCOVERY_RANKING)]
    rows = table.iloc[kept].assign(
        layer=entry["layer"],
        average_l0=entry["average_l0"],
        neuronpedia_url=neuronpedia_urls(entry.get("neuronpedia_id"), table["feature_id"].iloc[kept]),
        failed_filters=[";".join(filters[failed]) for failed in failures.iloc[kept].to_numpy()],
    )
    candidate_ids = table["feature_id"].to_numpy()[np.union1d(order[:1], best_passing)]
    return SaeScan(
        n_firing=int((n_firing > 0).sum()),
        n_passing=int(is_passing.sum()),
        rho=rho,
        p=table["p"].to_numpy(),
        null_largest=null_largest,
        rows=rows.reset_index(drop=True),
        candidates=token_acts[:, candidate_ids],
        candidate_ids=candidate_ids,
    )


def filter_failures(table: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """Which features fail which filter: one bool column per filter, rows as `table`."""
    failures = {
        "pearson": table["pearson_corr"] < args.min_pearson,
        "tpr": table["tpr"] < args.min_tpr,
        "fpr": table["fpr"] > args.max_fpr,
    }
    if args.require_monotonic:
        failures["monotonic"] = ~table["monotonic"]
    return pd.DataFrame(failures)


def neuronpedia_urls(neuronpedia_id: str | None, feature_ids: pd.Series) -> list[str]:
    """Links to the features' Neuronpedia pages; empty where the SAE has none (METHODS.md, 3)."""
    if not neuronpedia_id:
        return [""] * len(feature_ids)
    return [f"https://www.neuronpedia.org/{neuronpedia_id}/{feature_id}" for feature_id in feature_ids]


def confirmation_columns(
    table: pd.DataFrame,
    pooled: np.ndarray,
    feature_run: FeatureRun,
    parts: np.ndarray,
    args: argparse.Namespace,
) -> pd.DataFrame:
    """Effect sizes of the rows of `table` on held-out sentences; empty columns where none are held out."""
    is_confirmation = parts == CONFIRMATION
    if not is_confirmation.any():
        names = [f"{name}{suffix}" for name in CONFIRM_COLUMNS for suffix in ("", "_low", "_high")]
        empty = pd.DataFrame(np.nan, index=table.index, columns=[*names, "confirm_p"])
        return empty.assign(confirmed=pd.array([pd.NA] * len(table), dtype="boolean"))
    confirmation = confirm_features(
        pooled[is_confirmation],
        feature_run.labels[is_confirmation],
        feature_run.groups[is_confirmation],
        table["threshold"].to_numpy(),
        np.sign(table["spearman_corr"].to_numpy()),
        n_permutations=args.permutations,
        n_bootstrap=args.bootstrap,
        seed=args.seed,
    )
    return confirmation.assign(confirmed=(confirmation["confirm_p"] <= args.alpha).astype("boolean"))


def contrast_columns(
    ranked: pd.DataFrame,
    pooled: np.ndarray,
    feature_run: FeatureRun,
    parts: np.ndarray,
    contrasts: list[FeatureRun],
    args: argparse.Namespace,
) -> pd.DataFrame:
    """Share of other traits' label-3 sentences above each feature's threshold, and AUROC against them.

    This trait's label-3 sentences are those held out, or all of them where nothing is held out. Raises
    ValueError if a contrast run has another model or lacks an SAE of a ranked feature.
    """
    if not contrasts:
        return pd.DataFrame(index=ranked.index)
    held_out = parts == (CONFIRMATION if (parts == CONFIRMATION).any() else DISCOVERY)
    own = pooled[held_out & (feature_run.labels == 3)]
    shares, aurocs = pd.DataFrame(index=ranked.index), pd.DataFrame(index=ranked.index)
    for other in contrasts:
        if other.run["model"] != feature_run.run["model"]:
            raise ValueError(
                f"--contrast {other.folder} was computed with the model {other.run['model']}, "
                f"{feature_run.folder} with {feature_run.run['model']}; run s1 on both with the same model"
            )
        other_entries = {(e["layer"], e["average_l0"], e["d_sae"]): e for e in other.run["saes"]}
        other_acts = np.zeros(((other.labels == 3).sum(), len(ranked)), dtype=np.float32)
        own_d_sae = {(e["layer"], e["average_l0"]): e["d_sae"] for e in feature_run.run["saes"]}
        for (layer, average_l0), rows in ranked.groupby(["layer", "average_l0"]):
            entry = other_entries.get((layer, average_l0, own_d_sae[layer, average_l0]))
            if entry is None:
                raise ValueError(
                    f"--contrast {other.folder} has no SAE of layer {layer} with average_l0 {average_l0}; "
                    "run s1 on both traits with the same SAE configuration"
                )
            columns = load_activations(other, entry)[:, rows["feature_id"].to_numpy()].tocsc()
            pooled_other = pool_tokens(columns, other.sentence_offsets, args.pool).toarray()
            other_acts[:, rows.index] = pooled_other[other.labels == 3]
        specificity = contrast_features(own, other_acts, ranked["threshold"].to_numpy())
        shares[f"contrast_share_{other.trait}"] = specificity["share_above"]
        aurocs[f"contrast_auroc_{other.trait}"] = specificity["auroc"]
    worst = {"contrast_share": shares.max(axis=1), "contrast_auroc": aurocs.min(axis=1)}
    return pd.concat([pd.DataFrame(worst), shares, aurocs], axis=1)


def _concat(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all frames; a frame without rows is left out, as its column types would spoil the others'."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[-1].copy()


def _best(frames: list[pd.DataFrame], rank_by: str, n: int) -> pd.DataFrame:
    """The n best rows; ties by layer, average_l0 and feature_id, so that the order is always the same."""
    order = [rank_by, "layer", "average_l0", "feature_id"]
    rows = _concat(frames).sort_values(order, ascending=[False, True, True, True])
    return rows.head(n).reset_index(drop=True)


def _keys(table: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(table["sae"].tolist(), table["feature_id"].tolist()))


def _stack(acts_of: dict, table: pd.DataFrame, feature_run: FeatureRun) -> scipy.sparse.csc_matrix:
    """Token activations of the rows of `table`, [T, len(table)] CSC."""
    columns = [acts_of[key] for key in _keys(table)]
    if not columns:
        return scipy.sparse.csc_matrix((feature_run.run["n_tokens"], 0), dtype=np.float32)
    return scipy.sparse.hstack(columns, format="csc")


def _pool(
    token_acts: scipy.sparse.csc_matrix, feature_run: FeatureRun, args: argparse.Namespace
) -> np.ndarray:
    """Dense sentence activations [n, k] float32 of the few columns of `token_acts`."""
    return pool_tokens(token_acts, feature_run.sentence_offsets, args.pool).toarray()
