"""Train the demonstration SAEs of the embedded model and save them in the layout of Gemma Scope.

Text comes from `gather_text.py`. BatchTopK SAEs (Bussmann et al., arXiv 2412.06410) are trained by
sae-lens, which turns them into JumpReLU SAEs; centring and scaling of the input are then folded into
the weights, so that encoding needs nothing but `relu_above_threshold(x @ W_enc + b_enc)`.
"""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

STAGE = Path(__file__).resolve().parents[1]
sys.path.append(str(STAGE))

from language_model.embedded_model import DEMO_MODEL_ID, demo_model_folder  # noqa: E402
from language_model.model_source import load_model  # noqa: E402
from language_model.residual_stream import residual_stream_batches  # noqa: E402
from language_model.tokens import pack_batches, tokenize  # noqa: E402
from twins_s1.progress import progress  # noqa: E402

TOKENS_BY_SOURCE = {
    "austen": 140_000,
    "sotu": 70_000,
    "emails": 170_000,
    "fortunes": 100_000,
    "model_samples": 150_000,
    "own_sentences": 80_000,
}
# (layer, k): k is the mean number of active features a token that training aims at.
SAES = ((3, 32), (6, 32), (9, 16), (9, 48), (12, 32), (15, 32))
HELD_OUT_EVERY = 20  # every 20th text is held out


def split_texts(folder: Path, tokenizer, context: int) -> tuple[list[str], list[bool], dict]:
    """Return pieces of at most `context` tokens, whether each is held out, and the token count by source."""
    pieces: list[str] = []
    held_out: list[bool] = []
    report = {}
    for source, budget in TOKENS_BY_SOURCE.items():
        file = folder / f"{source}.jsonl"
        texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
        order = np.random.default_rng(0).permutation(len(texts))
        n_tokens = 0
        for position, index in enumerate(order):
            ids = tokenizer(texts[index], add_special_tokens=False).input_ids
            for start in range(0, len(ids), context):
                piece = ids[start : start + context]
                if len(piece) >= 5:
                    pieces.append(tokenizer.decode(piece))
                    held_out.append(position % HELD_OUT_EVERY == 0)
                    n_tokens += len(piece)
            if n_tokens >= budget:
                break
        report[source] = {
            "tokens": n_tokens,
            "texts": position + 1,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    return pieces, held_out, report


def collect(text: Path, work: Path, batch_tokens: int) -> None:
    """Write `work/layer_K.f16` (scaled activations), `work/scale.npz` and `work/text.json`."""
    layers = sorted({layer for layer, _ in SAES})
    model, tokenizer = load_model(str(demo_model_folder()), dtype=torch.float32, device=torch.device("cpu"))
    pieces, held_out, report = split_texts(text, tokenizer, context=127)
    tokenized = tokenize(pieces, tokenizer, model.config.max_position_embeddings)
    total, d_model = int(tokenized.sentence_offsets[-1]), model.config.hidden_size
    token_held_out = np.repeat(held_out, tokenized.n_tokens)  # [T] bool

    def batches(subset):
        # Matrix products in bfloat16, the residual stream itself in float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield from residual_stream_batches(
                model, subset, layers, pack_batches(subset.n_positions, batch_tokens)
            )

    sample = tokenize(list(np.random.default_rng(1).permutation(pieces)[:300]), tokenizer, 10_000)
    states = {layer: [] for layer in layers}
    for _, batch in batches(sample):
        for layer in layers:
            states[layer].append(batch[layer])
    scale = {}
    for layer in layers:
        x = torch.cat(states[layer]).double()  # [sample tokens, d_model]
        deviation = x.std(dim=0)
        # The few dimensions of enormous variance would take the whole loss: bring them down to three
        # times the median deviation and leave the geometry of the others as it is.
        unit = deviation.median()
        scale[f"mean_{layer}"] = x.mean(dim=0).float().numpy()
        scale[f"scale_{layer}"] = (unit * (deviation / (3 * unit)).clamp(min=1)).float().numpy()

    stores = {
        layer: np.memmap(work / f"layer_{layer}.f16", dtype=np.float16, mode="w+", shape=(total, d_model))
        for layer in layers
    }
    with progress(total, "token", "residual stream") as bar:
        for rows, batch in batches(tokenized):
            for layer in layers:
                scaled = (batch[layer].numpy() - scale[f"mean_{layer}"]) / scale[f"scale_{layer}"]
                stores[layer][rows] = scaled.clip(-60_000, 60_000)
            bar.update(len(rows))
    for store in stores.values():
        store.flush()
    np.savez(work / "scale.npz", held_out=token_held_out, shape=np.array([total, d_model]), **scale)
    (work / "text.json").write_text(json.dumps(report, indent=2))


class Shuffled:
    """Endless random batches of rows of a float16 memory map, as sae-lens' trainer wants its data."""

    def __init__(self, store: np.ndarray, rows: np.ndarray, batch: int, seed: int):
        self.store, self.rows, self.batch = store, rows, batch
        self.rng = np.random.default_rng(seed)
        self.queue = np.empty(0, dtype=np.int64)

    def __iter__(self):
        return self

    def __next__(self) -> torch.Tensor:
        if len(self.queue) < self.batch:
            self.queue = np.concatenate([self.queue, self.rng.permutation(self.rows)])
        take, self.queue = np.sort(self.queue[: self.batch]), self.queue[self.batch :]
        return torch.from_numpy(self.store[take].astype(np.float32))


def train(store: np.ndarray, rows: np.ndarray, k: int, d_sae: int, samples: int, seed: int):
    """Return sae-lens' inference SAE (JumpReLU) trained on the given rows."""
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    batch = 2048
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=store.shape[1], d_sae=d_sae, k=k, apply_b_dec_to_input=True, dtype="float32", device="cpu"
        )
    )
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=samples,
            train_batch_size_samples=batch,
            lr=1e-3,
            lr_end=1e-4,
            lr_warm_up_steps=50,
            lr_decay_steps=samples // batch // 4,
            dead_feature_window=200,
            autocast=True,  # matrix products in bfloat16, weights and optimiser in float32
            device="cpu",
        ),
        sae,
        Shuffled(store, rows, batch, seed),
    )
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder that gather_text.py wrote")
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder for activations (about 7 GB), kept for a second start",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        help="folder for the SAEs (default: beside this script)",
    )
    parser.add_argument("--d-sae", type=int, default=2048, help="features of each SAE (default: 2048)")
    parser.add_argument(
        "--samples", type=int, default=3_000_000, help="activations each SAE is trained on, repeats counted"
    )
    parser.add_argument(
        "--batch-tokens", type=int, default=4096, help="padded tokens a forward pass (default: 4096)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of initialisation and order (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "text.json").exists():
        collect(args.text, args.work, args.batch_tokens)
    scale = np.load(args.work / "scale.npz")
    shape, held_out = tuple(scale["shape"]), scale["held_out"]
    entries, provenance = [], []
    for layer, k in SAES:
        done = args.work / f"layer_{layer}_k_{k}.npz"
        store = np.memmap(args.work / f"layer_{layer}.f16", dtype=np.float16, mode="r", shape=shape)
        mean, deviation = scale[f"mean_{layer}"], scale[f"scale_{layer}"]
        if not done.exists():
            started = time.monotonic()
            sae = train(store, np.flatnonzero(~held_out), k, args.d_sae, args.samples, args.seed)
            with tempfile.NamedTemporaryFile(dir=args.work, suffix=".npz", delete=False) as part:
                np.savez(part, seconds=time.monotonic() - started, **fold(sae, mean, deviation))
            Path(part.name).replace(done)
        saved = dict(np.load(done))
        seconds = float(saved.pop("seconds"))
        measured = evaluate(saved, store[held_out].astype(np.float32) * deviation + mean)
        path = f"layer_{layer}/width_{args.d_sae // 1024}k/average_l0_{round(measured['l0'])}"
        target = args.output / path / "params.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target.with_suffix(".part.npz"), **saved)
        target.with_suffix(".part.npz").replace(target)
        entries.append(
            {
                "layer": layer,
                "average_l0": round(measured["l0"]),
                "path": path,
                "d_sae": args.d_sae,
                "neuronpedia_id": None,
            }
        )
        provenance.append({"path": path, "k": k, "training_seconds": round(seconds), "held_out": measured})
        print(path, json.dumps(measured))
    configurations = {
        "release": "trait-tracing-demo",
        "repo_id": None,
        "model": DEMO_MODEL_ID,
        "saes": entries,
    }
    (args.output / "demo_configurations.json").write_text(json.dumps(configurations, indent=2) + "\n")
    summary = {
        "model": DEMO_MODEL_ID,
        "site": "residual stream after the block, all tokens but BOS, sequences of at most 128",
        "training_code": f"sae-lens {importlib.metadata.version('sae-lens')}, "
        "BatchTopKTrainingSAE, saved as JumpReLU",
        "libraries": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")},
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, no GPU",
        "text": json.loads((args.work / "text.json").read_text()),
        "tokens": int(shape[0]),
        "held_out_tokens": int(held_out.sum()),
        "samples": args.samples,
        "steps": args.samples // 2048,
        "batch": 2048,
        "seed": args.seed,
        "saes": provenance,
    }
    (args.output / "provenance.json").write_text(json.dumps(summary, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
