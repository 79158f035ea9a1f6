"""The text on which the demonstration SAEs are trained as activations on disk, and batches of them."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Collection:
    """What is collected: texts in batches of neighbouring lengths, and the layers after which."""

    model: torch.nn.Module
    tokenized: TokenizedSentences
    batches: list[np.ndarray]
    layers: Sequence[int]

    @property
    def rows(self) -> list[int]:
        """Tokens of each batch."""
        return [int(self.tokenized.n_tokens[batch].sum()) for batch in self.batches]

    @property
    def d_model(self) -> int:
        return self.model.config.hidden_size

    def states(self, batches: Sequence[np.ndarray]) -> Iterator[dict[int, np.ndarray]]:
        """Yield by layer the residual stream of each batch, `[rows, d_model]` float32."""
        # Matrix products in bfloat16, the residual stream itself in float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _, batch in residual_stream_batches(self.model, self.tokenized, self.layers, batches):
                yield {layer: batch[layer].numpy() for layer in self.layers}


def collect(text: Path, work: Path, layers: Sequence[int], batch_tokens: int) -> None:
    """Write `work/layer_K.f16` (scaled activations), `work/scale.npz` and, once complete, `work/text.json`.

    Rows lie in the order in which they are computed, so that the files only ever grow at their end.
    `work/collected.json` says how many batches are on disk: a second start goes on after them.
    """
    model, tokenizer = load_model(str(demo_model_folder()), dtype=torch.float32, device=torch.device("cpu"))
    pieces, held_out, report = split_texts(text, tokenizer, context=127)

    def collection(texts: Sequence[str]) -> Collection:
        tokenized = tokenize(texts, tokenizer, model.config.max_position_embeddings)
        return Collection(model, tokenized, pack_batches(tokenized.n_positions, batch_tokens), layers)

    whole = collection(pieces)
    if not (work / "scale.npz").exists():
        sample = collection(list(np.random.default_rng(1).permutation(pieces)[:300]))
        order = np.concatenate(whole.batches)
        held_out_rows = np.repeat(np.array(held_out)[order], whole.tokenized.n_tokens[order])
        shape = np.array([len(held_out_rows), whole.d_model])
        write_arrays(work / "scale.npz", held_out=held_out_rows, shape=shape, **scale_of(sample))
    scale = dict(np.load(work / "scale.npz"))
    if tuple(scale["shape"]) != (sum(whole.rows), whole.d_model):
        raise ValueError(f"{work}: begun with other text than {text}; name an empty folder")
    append_batches(whole, work, scale)
    write_json(work / "text.json", report)


def append_batches(collection: Collection, work: Path, scale: dict[str, np.ndarray]) -> None:
    """Append to `work/layer_K.f16` what is missing, and keep count in `work/collected.json`."""
    marker, rows = work / "collected.json", collection.rows
    done = json.loads(marker.read_text())["batches"] if marker.exists() else 0
    with ExitStack() as stack:
        bar = stack.enter_context(progress(sum(rows), "token", "residual stream"))
        bar.update(sum(rows[:done]))
        stores = {}
        for layer in collection.layers:
            stores[layer] = stack.enter_context(open(work / f"layer_{layer}.f16", "r+b" if done else "wb"))
            # What a killed step wrote is written again.
            stores[layer].truncate(sum(rows[:done]) * collection.d_model * STORED.itemsize)
            stores[layer].seek(0, os.SEEK_END)
        while done < len(rows):
            for states in collection.states(collection.batches[done : done + BATCHES_A_STEP]):
                for layer, store in stores.items():
                    scaled = (states[layer] - scale[f"mean_{layer}"]) / scale[f"scale_{layer}"]
                    store.write(scaled.clip(-60_000, 60_000).astype(STORED).tobytes())
                bar.update(len(scaled))
            for store in stores.values():
                store.flush()
            done = min(done + BATCHES_A_STEP, len(rows))
            write_json(marker, {"batches": done})


def scale_of(sample: Collection) -> dict[str, np.ndarray]:
    recorded = list(sample.states(sample.batches))
    scale = {}
    for layer in sample.layers:
        x = torch.from_numpy(np.concatenate([states[layer] for states in recorded]))
        scale |= centre_and_scale(layer, x.double())
    return scale


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
