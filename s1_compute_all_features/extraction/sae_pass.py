"""Phase 2: each SAE loaded once, all tokens of its layer encoded, its activations written as CSR."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from autoencoders.configurations import SaeEntry
from autoencoders.encoding import encode
from autoencoders.prefetch import LoadedSae, prefetch
from autoencoders.screened_jump_relu import Conditioning, ScreenedJumpRelu, screened
from extraction.device_memory import named_memory_failure
from extraction.extraction_plan import Plan
from extraction.workers import Workers
from output_folder.arrays import CsrWriter, read_rows, row_chunks
from output_folder.layout import SCRATCH, residual_stream_file, sae_activations_file, sae_summary_file
from twins_s1.atomic_files import write_json
from twins_s1.progress import progress

ON_DEVICE_BYTES = 1 << 30  # of a layer's tokens that stay on a GPU for all SAEs of the layer
READERS = 4  # threads that read SAEs ahead of a GPU


def encode_saes(plan: Plan, workers: Workers, entries: list[SaeEntry]) -> None:
    """Encode this process' share of the SAEs and write their CSR files, each after a summary for run.json.

    While one is computed, the next ones are read and the one before is written. The device holds one SAE
    and the tokens of one layer at a time.
    """
    device = plan.compute.device
    on_cpu = device.type == "cpu"
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the model is gone: the SAEs have the device for themselves
    mine = workers.share(entries)
    layer = LayerTokens(device, plan.compute.dtype, most_bytes=0 if on_cpu else ON_DEVICE_BYTES)
    memory: list[torch.Tensor] = []

    def write(loaded: LoadedSae, rows: CsrWriter, n_candidates: int | None) -> None:
        write_activations(plan, loaded, rows, n_candidates)
        bar.update()

    with (
        named_memory_failure(device),
        progress(len(mine), "SAE", "SAEs", shown=bool(mine) and workers.is_first) as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        written = None
        for loaded in prefetch(mine, plan.saes, plan.d_model, readers=1 if on_cpu else READERS):
            tokens = layer.of(plan.output / residual_stream_file(loaded.entry.layer))
            encoded = encode_one(plan, loaded, tokens, layer.conditioning, memory)
            if written is not None:
                written.result()
            written = writer.submit(write, loaded, *encoded)
        if written is not None:
            written.result()


def encode_one(
    plan: Plan,
    loaded: LoadedSae,
    tokens: Callable[[int, int], torch.Tensor],
    conditioning: Callable[[], Conditioning],
    memory: list[torch.Tensor],
) -> tuple[CsrWriter, int | None]:
    """Return an SAE's activations, and of a screened one the number of candidates among all pairs.

    It has left the device when they are returned.
    """
    rows = CsrWriter(loaded.encoder.d_sae, plan.output / SCRATCH)
    on_device = loaded.encoder.to(plan.compute.device, plan.compute.dtype)
    if plan.compute.encoder == "screened":
        on_device = screened(on_device, conditioning)
    try:
        for chunk in encode(tokens, plan.n_tokens, on_device, plan.compute.chunk_tokens, memory):
            rows.append(*chunk)
    except ValueError as error:
        raise ValueError(f"{loaded.entry.path}: {error}") from error
    return rows, on_device.n_candidates if isinstance(on_device, ScreenedJumpRelu) else None


def write_activations(plan: Plan, loaded: LoadedSae, rows: CsrWriter, n_candidates: int | None) -> None:
    """Write what run.json will say of an SAE, then its activations: a file that is there is described."""
    summary = {
        "sae_id": loaded.entry.path,
        "sae_release": plan.saes.name,
        "d_sae": rows.n_columns,
        "measured_l0": round(rows.n_values / rows.n_rows, 3),
        "share_of_features_firing": round(float(rows.fires.mean()), 5),
        "candidates_per_firing": round(n_candidates / rows.n_values, 3)
        if n_candidates is not None and rows.n_values
        else None,
        "encoder_sha256": loaded.encoder_sha256,
        "weights_id": loaded.weights_id,
    }
    place = loaded.entry.layer, loaded.entry.average_l0
    write_json(plan.output / sae_summary_file(*place), summary)
    rows.write(plan.output / sae_activations_file(*place))
    rows.close()


class LayerTokens:
    """The residual stream of one layer at a time, on the device where it is small enough.

    A file of up to `most_bytes` is read and copied once, for all SAEs of the layer; a larger one in pieces.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, most_bytes: int):
        self.device, self.dtype, self.most_bytes = device, dtype, most_bytes
        self.path: Path | None = None
        self.whole: torch.Tensor | None = None
        self.fitted: Conditioning | None = None

    def of(self, path: Path) -> Callable[[int, int], torch.Tensor]:
        """Return a function of start and stop that gives `[stop - start, d_model]` of the file at `path`."""
        if path != self.path:
            self.path, self.whole, self.fitted = path, None, None  # the layer before goes first
            if path.stat().st_size <= self.most_bytes:
                self.whole = self._read(None, None)
        return self._read if self.whole is None else lambda start, stop: self.whole[start:stop]

    def conditioning(self) -> Conditioning:
        """Return centre and scale of the layer's tokens, fitted once."""
        if self.fitted is None:
            self.fitted = Conditioning.fit(row_chunks(self.path)).to(self.device)
        return self.fitted

    def _read(self, start: int | None, stop: int | None) -> torch.Tensor:
        return torch.from_numpy(read_rows(self.path, start, stop)).to(device=self.device, dtype=self.dtype)
