"""Phase 2: each SAE loaded once, all tokens of its layer encoded, its activations written as CSR."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import torch
from autoencoders.configurations import SaeEntry
from autoencoders.encoding import READERS, encode, prefetch
from extraction.device_memory import named_memory_failure
from extraction.extraction_plan import Plan
from extraction.workers import Workers
from output_folder.arrays import CsrWriter, read_rows
from output_folder.layout import SCRATCH, residual_stream_file, sae_activations_file, sae_summary_file
from twins_s1.atomic_files import write_json
from twins_s1.progress import progress

ON_DEVICE_BYTES = 1 << 30  # of a layer's tokens that stay on a GPU for all SAEs of the layer


def encode_saes(plan: Plan, workers: Workers, entries: list[SaeEntry]) -> None:
    """Encode this process' share of the SAEs and write their CSR files, each after a summary for run.json.

    While one is computed, the next ones are read and the one before is written.
    """
    device, dtype = plan.compute.device, plan.compute.dtype
    on_cpu = device.type == "cpu"
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the model is gone: the SAEs have the device for themselves
    mine = workers.share(entries)
    encoders = prefetch(
        mine, partial(plan.saes.read, d_model=plan.d_model), plan.d_model, 1 if on_cpu else READERS
    )
    most_bytes = 0 if on_cpu else ON_DEVICE_BYTES
    tokens_of = lru_cache(1)(partial(layer_tokens, device=device, dtype=dtype, most_bytes=most_bytes))
    memory: list[torch.Tensor] = []

    def write(entry: SaeEntry, rows: CsrWriter, digest: str) -> None:
        write_activations(plan, entry, rows, digest)
        bar.update()

    with (
        named_memory_failure(device),
        progress(len(mine), "SAE", "SAEs", shown=bool(mine) and workers.is_first) as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        written = None
        for entry, encoder, digest in encoders:
            rows = CsrWriter(encoder.d_sae, plan.output / SCRATCH)
            tokens = tokens_of(plan.output / residual_stream_file(entry.layer))
            on_device = encoder.to(device, dtype)
            for chunk in encode(tokens, plan.n_tokens, on_device, plan.compute.chunk_tokens, memory):
                rows.append(*chunk)
            if written is not None:
                written.result()
            written = writer.submit(write, entry, rows, digest)
        if written is not None:
            written.result()


def write_activations(plan: Plan, entry: SaeEntry, rows: CsrWriter, digest: str) -> None:
    """Write what run.json will say of an SAE, then its activations: a file that is there is described."""
    summary = {
        "sae_id": entry.path,
        "sae_release": plan.saes.name,
        "d_sae": rows.n_columns,
        "measured_l0": round(rows.n_values / rows.n_rows, 3),
        "share_of_features_firing": round(float(rows.fires.mean()), 5),
        "encoder_sha256": digest,
    }
    place = entry.layer, entry.average_l0
    write_json(plan.output / sae_summary_file(*place), summary)
    rows.write(plan.output / sae_activations_file(*place))
    rows.close()


def layer_tokens(
    path: Path, device: torch.device, dtype: torch.dtype, most_bytes: int
) -> Callable[[int | None, int | None], torch.Tensor]:
    """Return a function of start and stop that gives `[stop - start, d_model]` of a residual stream file.

    A file of up to `most_bytes` is read and copied to the device once, for all SAEs of the layer.
    """

    def read(start: int | None, stop: int | None) -> torch.Tensor:
        return torch.from_numpy(read_rows(path, start, stop)).to(device=device, dtype=dtype)

    if path.stat().st_size > most_bytes:
        return read
    whole = read(None, None)
    return lambda start, stop: whole[start:stop]
