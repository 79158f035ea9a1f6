"""The demonstration SAEs' training step, of active features only, beside sae-lens' own, in turn.

    OMP_NUM_THREADS=1 uv run python tests/benchmarks/sae_training_step.py [--widths 2048 4096 8192]

Forward, backward and optimiser as sae-lens' trainer runs them, on random activations of the embedded model's
width; sae-lens' own under bfloat16 autocast, as it is fastest on a CPU that has such products.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "s1_compute_all_features/demo"))

from batch_top_k import SparseBatchTopKTrainingSAE  # noqa: E402

D_IN, BATCH = 640, 2048


def trainer_of(kind: type, d_sae: int, k: int) -> SAETrainer:
    torch.manual_seed(0)
    sae = kind(BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=d_sae, k=k, apply_b_dec_to_input=True))
    config = SAETrainerConfig(
        total_training_samples=1000 * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-4,
        autocast=kind is BatchTopKTrainingSAE,
        device="cpu",
    )
    return SAETrainer(config, sae, iter(()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[2048, 4096, 8192], help="features")
    parser.add_argument("--k", type=int, default=32, help="active features a token (default: 32)")
    parser.add_argument("--steps", type=int, default=12, help="steps of each, after two (default: 12)")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="Sparse")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    print("features | sae-lens, ms | sparse, ms | ratio of medians | median of ratios\n---|---|---|---|---")
    for d_sae in args.widths:
        trainers = [
            trainer_of(kind, d_sae, args.k) for kind in (BatchTopKTrainingSAE, SparseBatchTopKTrainingSAE)
        ]
        seconds: list[list[float]] = [[], []]
        for _ in range(args.steps + 2):
            x = torch.randn(BATCH, D_IN)
            for trainer, taken in zip(trainers, seconds):
                started = time.process_time()
                trainer.step(x)
                taken.append(time.process_time() - started)
        dense, sparse = (taken[2:] for taken in seconds)
        medians = statistics.median(dense), statistics.median(sparse)
        print(
            f"{d_sae} | {1e3 * medians[0]:.0f} | {1e3 * medians[1]:.0f} | {medians[0] / medians[1]:.2f} "
            f"| {statistics.median(a / b for a, b in zip(dense, sparse)):.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
