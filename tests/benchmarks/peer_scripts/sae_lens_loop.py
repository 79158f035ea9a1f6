"""SAELens' own loop, as its tutorials have it: `run_with_cache` per batch, `encode` of each SAE; dense."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from transformer_lens.model_bridge import TransformerBridge

BATCH = 8


def load_sae(file: Path) -> JumpReLUSAE:
    with np.load(file) as params:
        arrays = {name: torch.from_numpy(params[name]) for name in params}
    d_in, d_sae = arrays["W_enc"].shape
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False))
    sae.load_state_dict(arrays)
    return sae.eval()


def main() -> None:
    job, output, started = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), time.perf_counter()
    output.mkdir()
    model = TransformerBridge.boot_transformers(job["model"], device="cpu", dtype=torch.float32)
    tokenizer = model.tokenizer
    saes = {sae["layer"]: load_sae(Path(sae["file"])) for sae in job["saes"]}
    hooks = {layer: f"blocks.{layer}.hook_resid_post" for layer in saes}
    sentences = list(pd.read_csv(job["sentences"])["sentence"])
    loaded = time.perf_counter()
    dense = {layer: [] for layer in saes}
    with torch.no_grad():
        for first in range(0, len(sentences), BATCH):
            tokens = tokenizer(sentences[first : first + BATCH], padding=True, return_tensors="pt")
            _, cache = model.run_with_cache(tokens["input_ids"], names_filter=list(hooks.values()))
            is_token = tokens["attention_mask"].bool()
            is_token[:, 0] = False  # BOS
            for layer, sae in saes.items():
                dense[layer].append(sae.encode(cache[hooks[layer]])[is_token].numpy())
    for layer, parts in dense.items():
        np.save(output / f"layer_{layer}.npy", np.concatenate(parts))
    ended = time.perf_counter()
    n_bytes = sum(file.stat().st_size for file in output.iterdir())
    for layer in saes:
        rows = scipy.sparse.csr_matrix(np.load(output / f"layer_{layer}.npy"))
        scipy.sparse.save_npz(output / f"compared_{layer}.npz", rows)
    print(json.dumps({"loading": loaded - started, "running": ended - loaded, "bytes": n_bytes}))


if __name__ == "__main__":
    main()
