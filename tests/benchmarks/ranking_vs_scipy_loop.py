"""Time s2 against the per-feature SciPy loop of the original study, at the size of Gemma Scope.

    ranking_vs_scipy_loop.py             135 SAEs x 16,384 features x 1,000 sentences
    ranking_vs_scipy_loop.py --saes 10   the same, scaled down; says what it extrapolates
    ranking_vs_scipy_loop.py --growth    time per nonzero at 100, 1,000 and 10,000 sentences

The activations are random: in each SAE, features fire with log-normal frequencies that add up to one of five
L0s, whose mean is that of Gemma Scope's 135 SAEs (119). The files of the full run take 2.8 GB in --folder.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import scipy.sparse
import scipy.stats

STAGE = Path(__file__).resolve().parents[2] / "s2_find_top_features"
sys.path.insert(0, str(STAGE))

from analyze_features import parse_args  # noqa: E402
from feature_ranking.analysis_input import open_analysis_input  # noqa: E402
from feature_ranking.ranking_options import RankingOptions  # noqa: E402
from feature_ranking.sae_scan import scan_sae  # noqa: E402
from feature_statistics.feature_metrics import (  # noqa: E402
    feature_statistics,
    sort_activations,
    standardised_ranks,
    unit_ranks,
)
from feature_statistics.permutation_test import permuted_labels  # noqa: E402
from twins_s2.feature_folder import read_sae_activations  # noqa: E402
from twins_s2.sentence_pooling import pool_sparse  # noqa: E402

N_SAES, D_SAE, TOKENS_PER_SENTENCE = 135, 16_384, 22
L0_RUNGS = (20, 39, 73, 150, 313)  # per layer


def write_run(folder: Path, saes: Iterable[int], n_sentences: int) -> None:
    """A feature folder of s1 with random activations; what is already there is kept."""
    (folder / "sae_activations").mkdir(parents=True, exist_ok=True)
    n_tokens = n_sentences * TOKENS_PER_SENTENCE
    pd.DataFrame(
        {
            "sentence_index": np.arange(n_sentences),
            "sentence": [f"sentence {i}" for i in range(n_sentences)],
            "concept_strength_label": np.arange(n_sentences) % 4,
            "n_tokens": TOKENS_PER_SENTENCE,
            "group": np.arange(n_sentences),
        }
    ).to_csv(folder / "sentences.csv", index=False)
    np.savez(
        folder / "tokens.npz",
        token_ids=np.zeros(n_tokens, dtype=np.int32),
        tokens=np.full(n_tokens, " word"),
        sentence_offsets=np.arange(n_sentences + 1) * TOKENS_PER_SENTENCE,
    )
    entries = []
    for k in saes:
        layer, l0 = divmod(k, len(L0_RUNGS))
        l0 = L0_RUNGS[l0]
        name = f"sae_activations/layer_{layer}_l0_{l0}.npz"
        entries.append(
            {
                "layer": layer,
                "average_l0": l0,
                "d_sae": D_SAE,
                "sae_id": name,
                "neuronpedia_id": None,
                "file": name,
            }
        )
        if not (folder / name).is_file():
            scipy.sparse.save_npz(folder / name, random_activations(n_tokens, l0, seed=k), compressed=False)
    run = {
        "format_version": 1,
        "model": "synthetic",
        "d_model": 2304,
        "n_sentences": n_sentences,
        "n_tokens": n_tokens,
        "saes": entries,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def random_activations(n_tokens: int, l0: int, seed: int) -> scipy.sparse.csr_matrix:
    """[n_tokens, D_SAE] float32; frequencies are log-normal (sigma 1.5, at most 0.8) with sum `l0`."""
    rng = np.random.default_rng(seed)
    frequency = rng.lognormal(sigma=1.5, size=D_SAE)
    for _ in range(20):
        frequency = np.minimum(frequency * l0 / frequency.sum(), 0.8)
    n_active = rng.binomial(n_tokens, frequency)  # [D_SAE]
    rows = np.concatenate([rng.choice(n_tokens, size=n, replace=False) for n in n_active])
    values = rng.exponential(size=len(rows)).astype(np.float32) + np.float32(0.1)
    indptr = np.concatenate([[0], np.cumsum(n_active)])
    return scipy.sparse.csc_matrix((values, rows, indptr), shape=(n_tokens, D_SAE)).tocsr()


def timed(function, *arguments) -> tuple[np.ndarray, object]:
    """Wall and CPU seconds [2] of a call, all threads together, and its result."""
    started = np.array([time.perf_counter(), time.process_time()])
    result = function(*arguments)
    return np.array([time.perf_counter(), time.process_time()]) - started, result


def in_threads(function, entries: list[dict], jobs: int) -> np.ndarray:
    """Wall and CPU seconds to call `function` on every entry, `jobs` at a time."""
    calls = (joblib.delayed(function)(entry) for entry in entries)
    return timed(lambda: joblib.Parallel(n_jobs=jobs, prefer="threads")(calls))[0]


def compare(folder: Path, args: argparse.Namespace) -> None:
    write_run(folder, range(args.saes), args.sentences)
    run = open_analysis_input(folder)
    entries = run.run["saes"]
    scale = N_SAES / args.saes
    n_all = N_SAES * D_SAE
    labels = run.labels

    read = in_threads(lambda entry: read_sae_activations(run, entry).nnz, entries, args.jobs)

    # The loop, on a sample of the features of one SAE per L0.
    loop, n_sampled = np.zeros(2), 0
    for entry in entries[: len(L0_RUNGS)]:
        pooled = pool_sparse(read_sae_activations(run, entry).tocsc(), run.sentence_offsets, "max")
        firing = np.flatnonzero(np.diff(pooled.indptr) >= 10)
        columns = np.random.default_rng(0).choice(firing, args.sample, replace=False)
        dense = pooled[:, columns].toarray()
        loop += timed(lambda x=dense: [scipy_loop(column, labels) for column in x.T])[0]
        n_sampled += args.sample
    loop *= n_all / n_sampled

    def statistics(entry: dict) -> int:
        pooled = pool_sparse(read_sae_activations(run, entry).tocsc(), run.sentence_offsets, "max")
        pooled = pooled[:, np.flatnonzero(np.diff(pooled.indptr) >= 10)]
        activations = sort_activations(pooled)
        return len(feature_statistics(activations, standardised_ranks(activations), labels))

    basic = in_threads(statistics, entries, args.jobs) - read

    command = [sys.executable, str(STAGE / "analyze_features.py"), "--input", str(folder), "--output"]
    command += [str(folder / "results"), "--jobs", str(args.jobs)]
    wall = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))[0][0]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = np.array([wall, usage.ru_utime + usage.ru_stime])
    summary = json.loads((folder / "results/run.json").read_text(encoding="utf-8"))["summary"]

    read, basic, whole = read * scale, basic * scale, whole * scale
    print(
        f"{n_all:,} features, {args.sentences:,} sentences, {args.jobs} threads; {args.saes} SAEs were run,"
    )
    print(f"times are scaled to {N_SAES} by {scale:.4g}; the loop from {n_sampled:,} features")
    print("                                           wall s     CPU s")
    for name, seconds in (
        ("reading the files", read),
        ("scipy loop: Pearson, Spearman", loop),
        ("ours: all statistics", basic),
        ("ours: whole analysis, with reading", whole),
    ):
        print(f"{name:38s} {seconds[0]:10.1f} {seconds[1]:9.1f}")
    print(f"statistics faster than the loop by     {loop[0] / basic[0]:10.1f} {loop[1] / basic[1]:9.1f}")
    n_eligible = summary["n_eligible"] * scale
    print(f"eligible features {n_eligible:,.0f}; peak memory {usage.ru_maxrss / 2**20:.2f} GiB")


def scipy_loop(column: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """What the original study did for every feature."""
    return scipy.stats.pearsonr(column, labels).statistic, scipy.stats.spearmanr(column, labels).statistic


def grow(folder: Path, args: argparse.Namespace) -> None:
    """CPU time of scan_sae without reading, for the SAE of the middle L0, the best of --repeats."""
    print("sentences   nonzeros   CPU s   ns per nonzero")
    options = RankingOptions.from_arguments(parse_args(["--input", str(folder), "--output", str(folder)]))
    for n_sentences in (100, 1000, 10_000):
        write_run(folder / str(n_sentences), [len(L0_RUNGS) // 2], n_sentences)
        run = open_analysis_input(folder / str(n_sentences))
        (entry,) = run.run["saes"]
        is_discovery = np.arange(n_sentences) % 16 < 12  # a quarter of each label held out
        ranks = unit_ranks(run.labels[is_discovery]).astype(np.float32)
        permuted = permuted_labels(ranks, run.groups[is_discovery], 1000, np.random.default_rng(0))
        permuted_ranks = np.ascontiguousarray(permuted.T)
        n_nonzero = read_sae_activations(run, entry).nnz
        scan = (run, entry, is_discovery, permuted_ranks, options)
        reading = min(timed(read_sae_activations, run, entry)[0][1] for _ in range(args.repeats))
        seconds = min(timed(scan_sae, *scan)[0][1] for _ in range(args.repeats)) - reading
        print(f"{n_sentences:9,} {n_nonzero:10,} {seconds:7.2f} {seconds / n_nonzero * 1e9:10.0f}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the synthetic run is kept (default: temporary)")
    parser.add_argument("--saes", type=int, default=N_SAES, help=f"SAEs to run, at most {N_SAES}")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=200, help="features per L0 for the SciPy loop")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of --growth; the fastest counts")
    parser.add_argument("--growth", action="store_true", help="time per nonzero instead of the comparison")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        (grow if args.growth else compare)(args.folder or Path(temporary), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
