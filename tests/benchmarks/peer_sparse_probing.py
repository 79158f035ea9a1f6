"""Our sparse probe beside that of sae-probes: same activations and splits, three tasks.

    uv run --group ethics --with xgboost-cpu python tests/benchmarks/peer_sparse_probing.py

Ours: s2's interpretability score chooses k features on the training rows, s5's logistic probe (d4's grid, in
five grouped folds) weighs them. Theirs: sae_probes' difference of normalised means and its L1 logistic
regression, as `run_sae_evals` calls them (Kantamneni et al. 2025, arXiv 2502.16681; the code needs xgboost).
Both choose among the features of all SAEs of the embedded default, and are timed from the pooled activations
in their own format on, in seconds of the processor. Texts that say the same are taken once, near-duplicates
stay on one side of a split; a quarter of the groups is the test part.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from sae_probes.constants import DATA_PATH
from sae_probes.run_sae_evals import get_sorted_indices, mean_act_normalization
from sae_probes.utils_training import find_best_reg
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[2]
S1 = ROOT / "s1_compute_all_features"
sys.path[:0] = [str(ROOT / "s2_find_top_features"), str(ROOT / "s5_classifier_training" / "framework")]

from feature_ranking.analysis_input import open_analysis_input  # noqa: E402
from feature_ranking.sae_scan import eligible_features  # noqa: E402
from feature_statistics.sentence_split import DISCOVERY, split_groups  # noqa: E402
from models.fitting import fit_model  # noqa: E402
from models.model_choice import Recipe  # noqa: E402
from twins_s2.feature_folder import read_sae_activations  # noqa: E402
from twins_s2.sentence_pooling import pool_sparse  # noqa: E402

TASKS = ("52_virtue_is", "96_spam_is", "113_movie_sent")
POOLS = ("max", "final")  # s2's default; the last token, as sae_probes does
KS = (1, 16)
MIN_FIRING, TEST_SHARE = 10, 0.25
GRID = {"C": [0.001, 0.01, 0.1, 1]}  # of s5_classifier_training/d4_features_to_concept


@dataclass(frozen=True)
class Rows:
    """Pooled activations of the features of all SAEs, side by side, and what is to be told apart."""

    X: scipy.sparse.csc_matrix  # [n, all features] float32
    is_shown: np.ndarray  # [n] bool
    groups: np.ndarray  # [n] near-duplicates share one


def write_task(task: str, path: Path, n: int) -> None:
    """A CSV for s1: n distinct texts of the task, half of each class, as labels 0 and 3."""
    table = pd.read_csv(DATA_PATH / "cleaned_data" / f"{task}.csv.zst")
    table["sentence"] = table["prompt"].str.split().str.join(" ")
    table["key"] = table["sentence"].str.casefold().str.replace(r"[^\w\s]", "", regex=True)
    table = table[table["sentence"] != ""].drop_duplicates("key")
    per_class = min(n // 2, table["target"].value_counts().min())
    chosen = table.groupby("target").sample(per_class, random_state=0).sort_index()
    chosen["concept_strength_label"] = 3 * chosen["target"].astype(int)
    chosen[["sentence", "concept_strength_label"]].to_csv(path, index=False)


def activations(csv: Path) -> Path:
    """The feature folder of s1 for the CSV, with the embedded model and its SAEs."""
    folder = csv.with_name(f"{csv.stem}_features")
    command = [sys.executable, "extract_sae_features.py", "--demo", "--input", csv, "--output", folder]
    subprocess.run([*command, "--discard-residual-stream"], cwd=S1, check=True)
    return folder


def read_rows(folder: Path, pool: str) -> Rows:
    features = open_analysis_input(folder)
    blocks = [
        pool_sparse(read_sae_activations(features, sae).tocsc(), features.sentence_offsets, pool)
        for sae in features.run["saes"]
    ]
    return Rows(scipy.sparse.hstack(blocks, format="csc"), features.labels == 3, features.groups)


def ours(rows: Rows, is_training: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, float]:
    """Probabilities of the test rows, and processor seconds."""
    X_train, X_test = rows.X[is_training], rows.X[~is_training]
    y, groups = 3 * rows.is_shown[is_training].astype(np.int64), rows.groups[is_training]
    started = time.process_time()
    table, _ = eligible_features(X_train, y, MIN_FIRING)
    best = np.argsort(-table["interpretability_score"].to_numpy(), kind="stable")[:k]
    chosen = table["feature_id"].to_numpy()[best]
    recipe = Recipe("logistic", "classification", grid=GRID, seed=seed)
    fitted = fit_model(recipe, X_train[:, chosen].toarray().astype(np.float64), y, groups)
    shown = fitted.predict_proba(X_test[:, chosen].toarray().astype(np.float64))[:, 1]
    return shown, time.process_time() - started


def theirs(rows: Rows, is_training: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, float, int]:
    """Probabilities of the test rows, processor seconds, and how many of the k fire for the other class."""
    X = torch.from_numpy(rows.X.toarray())  # [n, all features]
    y = torch.from_numpy(rows.is_shown.astype(np.int64))
    train, test = torch.from_numpy(is_training), torch.from_numpy(~is_training)
    X_train, X_test, y_train, y_test = X[train], X[test], y[train], y[test]
    # its validation rows are the last 100 of the training part, so their order has to be random
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y_train)))
    X_train, y_train = X_train[order], y_train[order]
    started = time.process_time()
    chosen = get_sorted_indices(X_train, y_train, mean_act_normalization)[:k]
    found = find_best_reg(X_train[:, chosen], y_train, X_test[:, chosen], y_test, penalty="l1", seed=seed)
    seconds = time.process_time() - started
    n_other = sum(X_train[y_train == 1][:, chosen].mean(0) < X_train[y_train == 0][:, chosen].mean(0))
    return found.classifier.predict_proba(X_test[:, chosen])[:, 1], seconds, int(n_other)


def line(task: str, pool: str, k: int, rows: Rows, splits: int) -> str:
    """Means over the splits, and in brackets the standard deviation of the difference between splits."""
    aurocs, seconds, n_other = np.zeros((splits, 2)), np.zeros((splits, 2)), np.zeros(splits)
    for seed in range(splits):
        is_training = split_groups(3 * rows.is_shown, rows.groups, TEST_SHARE, seed) == DISCOVERY
        shown, seconds[seed, 0] = ours(rows, is_training, k, seed)
        shown_by_peer, seconds[seed, 1], n_other[seed] = theirs(rows, is_training, k, seed)
        y = rows.is_shown[~is_training]
        aurocs[seed] = roc_auc_score(y, shown), roc_auc_score(y, shown_by_peer)
    own, peer = aurocs.mean(axis=0)
    spread = (aurocs[:, 0] - aurocs[:, 1]).std(ddof=1)
    own_s, peer_s = seconds.mean(axis=0)
    return (
        f"| {task} | {pool} | {k} | {own:.3f} | {peer:.3f} | {own - peer:+.3f} ({spread:.3f}) | "
        f"{n_other.mean():.1f} | {own_s:.2f} | {peer_s:.2f} |"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=1200, help="texts of each task (default: 1200)")
    parser.add_argument("--splits", type=int, default=10, help="splits to average over (default: 10)")
    parser.add_argument("--work", type=Path, help="folder to keep the activations in (default: none kept)")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # sae_probes' L1 fits warn of convergence and of scikit-learn's changes
    print(
        "| task | pooling | k | AUROC, ours | theirs | difference | for the other class | s, ours | theirs |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            csv = work.resolve() / f"{task}.csv"
            write_task(task, csv, args.sentences)
            folder = activations(csv)
            for pool in POOLS:
                rows = read_rows(folder, pool)
                for k in KS:
                    print(line(task, pool, k, rows, args.splits), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
