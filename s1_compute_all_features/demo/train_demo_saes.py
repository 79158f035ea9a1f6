"""Train the demonstration SAEs of the embedded model and save them in the layout of Gemma Scope.

Text comes from `gather_text.py`. BatchTopK SAEs (Bussmann et al., arXiv 2412.06410) are trained by
sae-lens, which turns them into JumpReLU SAEs; centring and scaling of the input are then folded into
the weights, so that encoding needs nothing but `relu_above_threshold(x @ W_enc + b_enc)`.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

STAGE = Path(__file__).resolve().parents[1]
sys.path.append(str(STAGE))

from activation_store import Shuffled, collect  # noqa: E402
from batch_top_k import SparseBatchTopKTrainingSAE  # noqa: E402
from language_model.embedded_model import DEMO_MODEL_ID  # noqa: E402
from twins_s1.atomic_files import write_arrays, write_json  # noqa: E402

# (layer, k, d_sae): k is the mean number of active features a token that training aims at.
SAES = ((3, 32, 4096), (6, 32, 4096), (9, 16, 4096), (9, 48, 4096), (12, 32, 4096), (15, 32, 4096))
BATCH = 2048  # activations a training step
CHECKPOINTS = 8  # of each SAE's training


def train(store: np.ndarray, rows: np.ndarray, k: int, d_sae: int, samples: int, seed: int, work: Path):
    """Return sae-lens' inference SAE (JumpReLU), trained on these rows from the checkpoints in `work`."""
    from sae_lens import SAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    sae = SparseBatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=store.shape[1], d_sae=d_sae, k=k, apply_b_dec_to_input=True, dtype="float32", device="cpu"
        )
    )
    batches = Shuffled(store, rows, BATCH, seed)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=samples,
            train_batch_size_samples=BATCH,
            lr=1e-3,
            lr_end=1e-4,
            lr_warm_up_steps=50,
            lr_decay_steps=samples // BATCH // 4,
            dead_feature_window=200,
            device="cpu",
            n_checkpoints=CHECKPOINTS,
            checkpoint_path=str(work),
        ),
        sae,
        batches,
    )
    # The scaler's file is the last that a checkpoint gets.
    complete = [file.parent for file in work.glob("*/activation_scaler.json")]
    if complete:
        newest = max(complete, key=lambda folder: int(folder.name))
        sae.load_weights_from_checkpoint(newest)
        trainer.load_trainer_state(newest)
        trainer.n_training_steps += 1  # a checkpoint is written before its step is counted
        trainer.checkpoint_thresholds = [
            n for n in trainer.checkpoint_thresholds if n >= trainer.n_training_samples
        ]
        batches.skip(trainer.n_training_steps)
    trainer.fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


@torch.no_grad()
def fold(sae, mean: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
    """Return Gemma Scope's five arrays: input scaling folded in, decoder rows of unit norm, matrices float16.

    The bias is computed from the rounded encoder: the mean activation is hundreds of times larger than
    its spread, so rounding `W_enc` alone would shift every pre-activation.
    """
    w_enc, w_dec = sae.W_enc.double().numpy(), sae.W_dec.double().numpy()
    b_enc, b_dec = sae.b_enc.double().numpy(), sae.b_dec.double().numpy()
    threshold = sae.threshold.double().numpy()
    mean, scale = mean.astype(np.float64), scale.astype(np.float64)
    offset = b_enc - b_dec @ w_enc if sae.cfg.apply_b_dec_to_input else b_enc  # [d_sae]
    decoder = w_dec * scale  # [d_sae, d_in]
    norm = np.linalg.norm(decoder, axis=1)  # [d_sae]
    encoder = (w_enc / scale[:, None] * norm).astype(np.float16)  # [d_in, d_sae]
    return {
        "W_enc": encoder,
        "W_dec": (decoder / norm[:, None]).astype(np.float16),
        "b_enc": (offset * norm - mean @ encoder.astype(np.float64)).astype(np.float32),
        "b_dec": (b_dec * scale + mean).astype(np.float32),
        "threshold": (threshold * norm).astype(np.float32),
    }


def evaluate(params: dict[str, np.ndarray], x: np.ndarray) -> dict:
    """Measure the saved arrays on held-out activations `[n, d_in]` in the model's own units."""
    p = {name: torch.from_numpy(value.astype(np.float32)) for name, value in params.items()}
    squared_error = np.zeros(x.shape[1])
    fired = torch.zeros(p["b_enc"].shape[0], dtype=torch.long)
    for start in range(0, len(x), 4096):
        chunk = torch.from_numpy(x[start : start + 4096])
        z = chunk @ p["W_enc"] + p["b_enc"]
        f = z * (z > p["threshold"])
        squared_error += ((f @ p["W_dec"] + p["b_dec"] - chunk).double() ** 2).sum(0).numpy()
        fired += (f > 0).sum(0)
    variance = ((x - x.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)  # [d_in], summed over tokens
    top = int(variance.argmax())
    rest = np.arange(len(variance)) != top
    return {
        "tokens": len(x),
        "l0": float(fired.sum() / len(x)),
        "explained_variance": float(1 - squared_error.sum() / variance.sum()),
        "explained_variance_without_top_dimension": float(
            1 - squared_error[rest].sum() / variance[rest].sum()
        ),
        "top_dimension": top,
        "top_dimension_share_of_variance": float(variance[top] / variance.sum()),
        "features_that_never_fire": int((fired == 0).sum()),
    }


def layer_k_width(text: str) -> tuple[int, int, int]:
    layer, k, d_sae = text.split(":")
    return int(layer), int(k), int(d_sae)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder that gather_text.py wrote")
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder for activations (6.4 GB a layer for 5 million tokens), kept for a second start",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        help="folder for the SAEs (default: beside this script)",
    )
    parser.add_argument(
        "--saes",
        type=layer_k_width,
        nargs="+",
        default=SAES,
        metavar="LAYER:K:WIDTH",
        help="which to train; several commands, each with some of them, may share --work once the "
        "activations are there (default: the six that are shipped)",
    )
    parser.add_argument(
        "--samples", type=int, default=5_000_000, help="activations each SAE is trained on, repeats counted"
    )
    parser.add_argument(
        "--batch-tokens", type=int, default=4096, help="padded tokens a forward pass (default: 4096)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of initialisation and order (default: 0)")
    return parser


@dataclass(frozen=True)
class Store:
    """The collected activations, and what was taken from and divided out of them."""

    work: Path
    scale: dict[str, np.ndarray]

    def scaled(self, layer: int) -> np.ndarray:
        shape = tuple(self.scale["shape"])
        return np.memmap(self.work / f"layer_{layer}.f16", dtype=np.float16, mode="r", shape=shape)

    def held_out(self, layer: int) -> np.ndarray:
        """Held-out activations in the model's own units, `[n, d_model]`."""
        scaled = self.scaled(layer)[self.scale["held_out"]].astype(np.float32)
        return scaled * self.scale[f"scale_{layer}"] + self.scale[f"mean_{layer}"]


def trained(store: Store, layer: int, k: int, d_sae: int, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the arrays of an SAE and the seconds that its training took; trains it where `work` lacks it."""
    name = f"layer_{layer}_k_{k}_features_{d_sae}_samples_{args.samples}_seed_{args.seed}"
    done, checkpoints = store.work / f"{name}.npz", store.work / name
    if not done.exists():
        started = time.monotonic()
        rows = np.flatnonzero(~store.scale["held_out"])
        sae = train(store.scaled(layer), rows, k, d_sae, args.samples, args.seed, checkpoints)
        arrays = fold(sae, store.scale[f"mean_{layer}"], store.scale[f"scale_{layer}"])
        write_arrays(done, seconds=time.monotonic() - started, **arrays)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return dict(np.load(done))


def training_record(args: argparse.Namespace, store: Store, saes: list[dict]) -> dict:
    """The content of provenance.json."""
    return {
        "model": DEMO_MODEL_ID,
        "site": "residual stream after the block, all tokens but BOS, sequences of at most 128",
        "training_code": f"sae-lens {importlib.metadata.version('sae-lens')}, "
        "BatchTopKTrainingSAE, saved as JumpReLU",
        "libraries": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")},
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, no GPU",
        "text": json.loads((args.work / "text.json").read_text()),
        "tokens": int(store.scale["shape"][0]),
        "held_out_tokens": int(store.scale["held_out"].sum()),
        "samples": args.samples,
        "steps": args.samples // BATCH,
        "batch": BATCH,
        "seed": args.seed,
        "saes": saes,
    }


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "text.json").exists():
        collect(args.text, args.work, sorted({layer for layer, _, _ in args.saes}), args.batch_tokens)
    store = Store(args.work, dict(np.load(args.work / "scale.npz")))
    entries, measured_saes = [], []
    for layer, k, d_sae in args.saes:
        arrays = trained(store, layer, k, d_sae, args)
        seconds = float(arrays.pop("seconds"))
        measured = evaluate(arrays, store.held_out(layer))
        average_l0 = round(measured["l0"])
        path = f"layer_{layer}/width_{d_sae // 1024}k/average_l0_{average_l0}"
        write_arrays(args.output / path / "params.npz", **arrays)
        named = {"layer": layer, "average_l0": average_l0, "path": path}
        entries.append(named | {"d_sae": d_sae, "neuronpedia_id": None})
        measured_saes.append({"path": path, "k": k, "training_seconds": round(seconds), "held_out": measured})
        print(path, json.dumps(measured), flush=True)
    configurations = {"release": "trait-tracing-demo", "repo_id": None, "model": DEMO_MODEL_ID}
    write_json(args.output / "demo_configurations.json", configurations | {"saes": entries})
    write_json(args.output / "provenance.json", training_record(args, store, measured_saes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
