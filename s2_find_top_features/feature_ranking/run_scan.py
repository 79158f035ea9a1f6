"""All SAEs of a run, one at a time (several in parallel threads), and the best features among them.

Of each SAE, only its best rows, the token activations of its candidates, and a correlation and a p value per
eligible feature stay in memory.
"""

import joblib
import numpy as np
import pandas as pd
import scipy.sparse
from feature_statistics.feature_metrics import unit_ranks
from feature_statistics.permutation_test import permuted_labels
from twins_s2.feature_folder import FeatureFolder
from twins_s2.progress import progress

from .ranking_options import RankingOptions
from .sae_scan import N_DISCOVERY_RANKING, SaeScan, scan_sae


class RunScan:
    """The discovery statistics of a run, of which each added SAE's best are kept.

    `sae` in tables and keys is the place of an SAE in `saes`.
    """

    def __init__(self, options: RankingOptions) -> None:
        self._rank_by, self._top_n = options.rank_by, options.top_n
        self.saes = pd.DataFrame()  # layer, average_l0, d_sae, n_firing_features, n_eligible, n_passing
        self.signed_saes: list[str] = []  # sae_id of those left out because they keep signs
        self.rho: list[np.ndarray] = []  # per SAE, [n_eligible]
        self.p: list[np.ndarray] = []  # per SAE, [n_eligible]
        # [B] largest permuted |rho| over all eligible features of the run
        self.null_largest = np.zeros(options.permutations, dtype=np.float32)
        self.passing = pd.DataFrame()  # the best features that pass the filters
        self.discovery = pd.DataFrame()  # the best features, filters or not
        self.best = pd.DataFrame()  # the best feature of each SAE that has an eligible one
        self._activations: dict[tuple[int, int], scipy.sparse.csc_matrix] = {}  # (sae, feature_id) -> [T, 1]

    def add(self, sae: dict, scan: SaeScan | None) -> None:
        """Take in the scan of one entry of run.json's `saes`."""
        if scan is None:
            self.signed_saes.append(sae["sae_id"])
            return
        place = len(self.saes)
        rows = scan.rows.assign(sae=place)
        is_passing = rows["failed_filters"] == ""
        self.passing = _best([self.passing, rows[is_passing]], self._rank_by, self._top_n)
        self.discovery = _best([self.discovery, rows], self._rank_by, N_DISCOVERY_RANKING)
        self.best = _concat([self.best, rows.head(1)])
        self._activations |= {
            (place, feature_id): scan.candidates[:, [k]] for k, feature_id in enumerate(scan.candidate_ids)
        }
        self._activations = {
            key: self._activations[key] for table in (self.passing, self.best) for key in _keys(table)
        }
        self.rho.append(scan.rho)
        self.p.append(scan.p)
        self.null_largest = np.maximum(self.null_largest, scan.null_largest)
        counts = {
            **{key: sae[key] for key in ("layer", "average_l0", "d_sae")},
            "n_firing_features": scan.n_firing,
            "n_eligible": len(scan.rho),
            "n_passing": scan.n_passing,
        }
        self.saes = _concat([self.saes, pd.DataFrame([counts])])

    def token_activations(self, table: pd.DataFrame, n_tokens: int) -> scipy.sparse.csc_matrix:
        """Token activations of the rows of `passing` or `best`, [T, len(table)] CSC."""
        if table.empty:
            return scipy.sparse.csc_matrix((n_tokens, 0), dtype=np.float32)
        return scipy.sparse.hstack([self._activations[key] for key in _keys(table)], format="csc")


def scan_run(features: FeatureFolder, is_discovery: np.ndarray, options: RankingOptions) -> RunScan:
    """Scan every distinct SAE of the run on the discovery sentences ([n] bool)."""
    entries = [sae for sae in features.run["saes"] if not sae.get("duplicate_of")]
    permuted = permuted_labels(
        unit_ranks(features.labels[is_discovery]).astype(np.float32),
        features.groups[is_discovery],
        options.permutations,
        np.random.default_rng([options.seed, 1]),
    )
    permuted_ranks = np.ascontiguousarray(permuted.T)  # [n_discovery, B] float32
    scans = joblib.Parallel(
        n_jobs=options.jobs, prefer="threads", return_as="generator", pre_dispatch="n_jobs"
    )(joblib.delayed(scan_sae)(features, sae, is_discovery, permuted_ranks, options) for sae in entries)
    run_scan = RunScan(options)
    with progress(len(entries), "SAE", "ranking") as bar:
        for sae, scan in zip(entries, scans):
            run_scan.add(sae, scan)
            bar.update()
    if run_scan.saes.empty:
        raise ValueError(
            f"every SAE of {features.folder} keeps signs (abstopk), and the statistics need activations of 0 "
            "or more; run s1 with a configuration of other SAEs"
        )
    return run_scan


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
