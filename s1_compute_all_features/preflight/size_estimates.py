"""Estimates of the memory and the disk space that a planned run needs."""

from collections.abc import Sequence
from pathlib import Path

from autoencoders.configurations import SaeEntry
from extraction.extraction_plan import Plan
from extraction.sae_pass import ON_DEVICE_BYTES
from hub.cache_folder import cache_root
from huggingface_hub import constants

WIDTH_IF_UNKNOWN = 16_384  # features, where the configurations do not say


def memory_needed(plan: Plan, n_parameters: int) -> tuple[int, int]:
    """Return an estimate of the bytes that model, SAEs and their arrays take: `(on the device, beside it)`.

    The model is gone before the first SAE comes, so each figure is the larger of the two phases.
    """
    d_model, itemsize = plan.d_model, plan.compute.dtype.itemsize
    d_mlp = getattr(plan.text_config, "intermediate_size", None) or 4 * d_model
    weights = n_parameters * itemsize
    # Within a block: gate, up and their product; query, key, value and the stream before and after.
    within_block = plan.compute.batch_tokens * (3 * d_mlp + 6 * d_model) * itemsize
    recorded = 4 * plan.compute.batch_tokens * d_model * (len(plan.layers) + 1)
    d_sae = max((entry.d_sae or WIDTH_IF_UNKNOWN for entry in plan.entries), default=0)
    encoder = d_sae * (d_model + 2)
    chunk = plan.compute.chunk_tokens * d_sae * (itemsize + 1)
    on_device = max(weights + within_block, encoder * itemsize + chunk + layer_tokens_bytes(plan))
    # On a GPU the weights pass through main memory; SAEs wait there in float32, one of them being read.
    loading = weights if plan.compute.device.type == "cuda" else 0
    return on_device, max(loading, recorded, 2 * 4 * encoder)


def layer_tokens_bytes(plan: Plan) -> int:
    """Bytes that the tokens of a layer take beside an SAE: on a GPU all of them, up to a limit."""
    at_once = plan.compute.chunk_tokens
    if plan.compute.device.type != "cpu":
        row_bytes = 4 * plan.d_model  # of the float32 file
        n_tokens = ON_DEVICE_BYTES // row_bytes if plan.sentences is None else plan.n_tokens
        if n_tokens * row_bytes <= ON_DEVICE_BYTES:
            at_once = n_tokens
    return at_once * plan.d_model * plan.compute.dtype.itemsize


def disk_needs(
    plan: Plan, model_bytes: int, saes_to_fetch: Sequence[SaeEntry]
) -> list[tuple[str, Path, int]]:
    """Return what will be written, where, and its estimated bytes; what the output has already, negative."""
    hub_cache = Path(constants.HF_HUB_CACHE)
    per_feature = 4 * (plan.d_model + 2)  # a column of W_enc, b_enc and threshold
    if plan.saes.uses_sae_lens:  # which fetches the decoder as well
        per_feature *= 2
    n_features = sum(entry.d_sae or WIDTH_IF_UNKNOWN for entry in saes_to_fetch)
    needs = [
        ("model to fetch", hub_cache, model_bytes),
        ("SAEs to fetch", hub_cache if plan.saes.uses_sae_lens else cache_root(), per_feature * n_features),
    ]
    if plan.sentences is not None:
        output = plan.output
        needs += [(what, output, n_bytes) for what, n_bytes in output_bytes(plan).items()]
        needs.append(
            ("already there", output, -sum(f.stat().st_size for f in output.rglob("*") if f.is_file()))
        )
    return needs


def output_bytes(plan: Plan) -> dict[str, int]:
    """Return the estimated bytes of the files in the output folder, while the run is at its largest."""
    per_layer = plan.n_tokens * plan.d_model  # values
    return {
        "residual stream": 4 * per_layer * len(plan.layers),
        "hidden states": 2 * per_layer * len(plan.layers),
        "embeddings": (4 + 2) * per_layer,
        # A value and its column, 4 bytes each.
        "activations": 8 * plan.n_tokens * sum(entry.average_l0 for entry in plan.entries),
    }
