"""interp_embed: a Dataset per SAE, with forward passes of its own; its loading is replaced by local files."""

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from interp_embed import Dataset
from interp_embed.saes.local_sae import LocalSAE
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from transformer_lens.model_bridge import TransformerBridge


class FromFiles(LocalSAE):
    """Its LocalSAE, which names a release on the hub, with model and SAE from a folder instead."""

    def __init__(self, model: str, sae: dict):
        super().__init__(device="cpu")
        self.folder, self.entry = model, sae

    def load_models(self):
        with np.load(self.entry["file"]) as params:
            arrays = {name: torch.from_numpy(params[name]) for name in params}
        d_in, d_sae = arrays["W_enc"].shape
        metadata = SAEMetadata(hook_name=f"blocks.{self.entry['layer']}.hook_resid_post")
        config = JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False, metadata=metadata)
        self.sae = JumpReLUSAE(config)
        self.sae.load_state_dict(arrays)
        self.model = TransformerBridge.boot_transformers(self.folder, device="cpu", dtype=torch.float32)
        self.tokenizer = self.model.tokenizer


def main() -> None:
    job, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    output.mkdir()
    table = pd.read_csv(job["sentences"])
    loading = running = 0.0
    rows = {}
    with contextlib.redirect_stdout(sys.stderr):
        for entry in job["saes"]:
            started = time.perf_counter()
            sae = FromFiles(job["model"], entry)
            sae.load()
            loaded = time.perf_counter()
            dataset = Dataset(table, sae, field="sentence", compute_activations=True)
            dataset.save_to_file(str(output / f"layer_{entry['layer']}.pkl"))
            loading, running = loading + loaded - started, running + time.perf_counter() - loaded
            rows[entry["layer"]] = dataset.latents("all", compress=True)
    n_bytes = sum(file.stat().st_size for file in output.iterdir())
    for layer, sentences in rows.items():
        without_bos = scipy.sparse.vstack([sentence[1:] for sentence in sentences]).tocsr()
        scipy.sparse.save_npz(output / f"compared_{layer}.npz", without_bos)
    print(json.dumps({"loading": loading, "running": running, "bytes": n_bytes}))


if __name__ == "__main__":
    main()
