"""EleutherAI's delphi: LatentCache on sentences padded to one length; it knows no mask, so all is encoded."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from delphi.latents.cache import LatentCache
from delphi.sparse_coders.custom.gemmascope import JumpReluSae
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

BATCH, SPLITS = 8, 5  # as its documentation has them


def load_sae(file: Path) -> JumpReluSae:
    with np.load(file) as params:
        sae = JumpReluSae(*params["W_enc"].shape)
        sae.load_state_dict({name: torch.from_numpy(params[name]) for name in params})
    return sae


def on_disk(folder: Path, is_token: np.ndarray, d_sae: int) -> scipy.sparse.csr_matrix:
    """What the cache has written, without BOS and padding: CSR [T, d_sae]."""
    row_of = np.full(is_token.shape, -1)
    row_of[is_token] = np.arange(is_token.sum())
    rows, columns, values = [], [], []
    for file in folder.glob("*.safetensors"):
        split, first = load_file(file), int(file.stem.split("_")[0])
        sentence, position, latent = split["locations"].astype(np.int64).T
        rows.append(row_of[sentence, position])
        columns.append(latent + first)
        values.append(split["activations"].astype(np.float32))
    row, column, value = (np.concatenate(parts) for parts in (rows, columns, values))
    kept = row >= 0
    return scipy.sparse.csr_matrix(
        (value[kept], (row[kept], column[kept])), shape=(int(is_token.sum()), d_sae)
    )


def main() -> None:
    job, output, started = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), time.perf_counter()
    output.mkdir()
    model = AutoModel.from_pretrained(job["model"], dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    saes = {f"layers.{sae['layer']}": load_sae(Path(sae["file"])) for sae in job["saes"]}
    sentences = list(pd.read_csv(job["sentences"])["sentence"])
    loaded = time.perf_counter()
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    cache = LatentCache(model, {hook: sae.encode for hook, sae in saes.items()}, batch_size=BATCH)
    cache.run(tokens["input_ids"].numel(), tokens["input_ids"])
    cache.save_splits(SPLITS, output)
    ended = time.perf_counter()
    n_bytes = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    is_token = tokens["attention_mask"].numpy().astype(bool)
    is_token[:, 0] = False  # BOS
    for hook, sae in saes.items():
        rows = on_disk(output / hook, is_token, len(sae.threshold))
        scipy.sparse.save_npz(output / f"compared_{hook.removeprefix('layers.')}.npz", rows)
    print(json.dumps({"loading": loaded - started, "running": ended - loaded, "bytes": n_bytes}))


if __name__ == "__main__":
    main()
