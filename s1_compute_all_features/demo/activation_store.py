"""The text on which the demonstration SAEs are trained as activations on disk, and batches of them."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from language_model.embedded_model import demo_model_folder
from language_model.model_source import load_model
from language_model.residual_stream import residual_stream_batches
from language_model.tokens import TokenizedSentences, pack_batches, tokenize
from twins_s1.atomic_files import write_arrays, write_json
from twins_s1.progress import progress

TOKENS_BY_SOURCE = {
    "austen": 140_000,
    "sotu": 70_000,
    "emails": 170_000,
    "fortunes": 100_000,
    "model_samples": 150_000,
    "own_sentences": 150_000,
    "prose": 4_500_000,
}
HELD_OUT_EVERY = 20  # every 20th text is held out
STORED = np.dtype(np.float16)
BATCHES_A_STEP = 20  # of which the activations are on disk before the next are computed


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


def collect(text: Path, work: Path, layers: Sequence[int], batch_tokens: int) -> None:
    """Write `work/layer_K.f16` (scaled activations), `work/scale.npz` and, once complete, `work/text.json`.

    Rows lie in the order in which they are computed, so that the files only ever grow at their end.
    `work/collected.json` says how many batches are on disk: a second start goes on after them.
    """
    model, tokenizer = load_model(str(demo_model_folder()), dtype=torch.float32, device=torch.device("cpu"))
    pieces, held_out, report = split_texts(text, tokenizer, context=127)
    tokenized = tokenize(pieces, tokenizer, model.config.max_position_embeddings)
    total, d_model = int(tokenized.sentence_offsets[-1]), model.config.hidden_size

    def states(subset: TokenizedSentences, batches: Sequence[np.ndarray]):
        # Matrix products in bfloat16, the residual stream itself in float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield from residual_stream_batches(model, subset, layers, batches)

    batches = pack_batches(tokenized.n_positions, batch_tokens)
    if not (work / "scale.npz").exists():
        sample = tokenize(list(np.random.default_rng(1).permutation(pieces)[:300]), tokenizer, 10_000)
        recorded = list(states(sample, pack_batches(sample.n_positions, batch_tokens)))
        order = np.concatenate(batches)
        held_out_rows = np.repeat(np.array(held_out)[order], tokenized.n_tokens[order])
        scale = {"held_out": held_out_rows, "shape": np.array([total, d_model])}
        for layer in layers:
            scale |= centre_and_scale(layer, torch.cat([batch[layer] for _, batch in recorded]).double())
        write_arrays(work / "scale.npz", **scale)
    scale = dict(np.load(work / "scale.npz"))
    if tuple(scale["shape"]) != (total, d_model):
        raise ValueError(f"{work}: begun with other text than {text}; name an empty folder")

    marker = work / "collected.json"
    done = json.loads(marker.read_text())["batches"] if marker.exists() else 0
    n_rows = [int(tokenized.n_tokens[batch].sum()) for batch in batches]
    with ExitStack() as stack:
        bar = stack.enter_context(progress(total, "token", "residual stream"))
        bar.update(sum(n_rows[:done]))
        stores = {}
        for layer in layers:
            stores[layer] = stack.enter_context(open(work / f"layer_{layer}.f16", "r+b" if done else "wb"))
            stores[layer].truncate(sum(n_rows[:done]) * d_model * STORED.itemsize)
            stores[layer].seek(0, os.SEEK_END)
        while done < len(batches):
            for rows, batch in states(tokenized, batches[done : done + BATCHES_A_STEP]):
                for layer, store in stores.items():
                    scaled = (batch[layer].numpy() - scale[f"mean_{layer}"]) / scale[f"scale_{layer}"]
                    store.write(scaled.clip(-60_000, 60_000).astype(STORED).tobytes())
                bar.update(len(rows))
            for store in stores.values():
                store.flush()
            done = min(done + BATCHES_A_STEP, len(batches))
            write_json(marker, {"batches": done})
    write_json(work / "text.json", report)


def centre_and_scale(layer: int, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what is taken from activations `[n, d_model]` and what they are then divided by, `[d_model]`."""
    deviation = x.std(dim=0)
    # The few dimensions of enormous variance would take the whole loss: bring them down to three
    # times the median deviation and leave the geometry of the others as it is.
    unit = deviation.median()
    scale = unit * (deviation / (3 * unit)).clamp(min=1)
    return {f"mean_{layer}": x.mean(dim=0).float().numpy(), f"scale_{layer}": scale.float().numpy()}


class Shuffled:
    """Endless random batches of rows of a float16 memory map, as sae-lens' trainer wants its data."""

    def __init__(self, store: np.ndarray, rows: np.ndarray, batch: int, seed: int):
        self.store, self.rows, self.batch = store, rows, batch
        self.rng = np.random.default_rng(seed)
        self.queue = np.empty(0, dtype=np.int64)

    def __iter__(self):
        return self

    def __next__(self) -> torch.Tensor:
        return torch.from_numpy(self.store[np.sort(self.take())].astype(np.float32))

    def take(self) -> np.ndarray:
        if len(self.queue) < self.batch:
            self.queue = np.concatenate([self.queue, self.rng.permutation(self.rows)])
        taken, self.queue = self.queue[: self.batch], self.queue[self.batch :]
        return taken

    def skip(self, n_batches: int) -> None:
        for _ in range(n_batches):
            self.take()
