"""Estimates of the memory and the disk space that a planned run needs."""

from collections.abc import Sequence
from pathlib import Path

from autoencoders.configurations import SaeEntry
from extraction.extraction_plan import Plan
from extraction.sae_pass import ON_DEVICE_BYTES
from hub.cache_folder import cache_root
from huggingface_hub import constants
from language_model.likelihood_gradients import MOST_POSITIONS
from language_model.vocabulary_head import HEAD_BYTES

WIDTH_IF_UNKNOWN = 16_384  # features, where the configurations do not say


def memory_needed(plan: Plan, n_parameters: int) -> tuple[int, int]:
    """Return an estimate of the bytes that model, SAEs and their arrays take: `(on the device, beside it)`.

    The model is gone before the first SAE comes, so each figure is that of the largest phase.
    """
    d_model, itemsize = plan.d_model, plan.compute.dtype.itemsize
    d_mlp = getattr(plan.text_config, "intermediate_size", None) or 4 * d_model
    weights = n_parameters * itemsize
    # Within a block: gate, up and their product; query, key, value and the stream before and after.
    within_block = plan.compute.batch_tokens * (3 * d_mlp + 6 * d_model) * itemsize
    recorded = 4 * plan.compute.batch_tokens * d_model * (len(plan.layers) + 1)
    d_sae = max((entry.d_sae or WIDTH_IF_UNKNOWN for entry in plan.entries), default=0)
    encoder = d_sae * (d_model + 2)
    # A screen has the weights both ways round and in bfloat16; of a pair a bfloat16 number and a bool.
    per_weight, per_pair = (
        (4 + 4 + 2, 2 + 1) if plan.compute.encoder == "screened" else (itemsize, itemsize + 1)
    )
    chunk = plan.compute.chunk_tokens * d_sae * per_pair
    on_device = max(weights + within_block, encoder * per_weight + chunk + layer_tokens_bytes(plan))
    effects = 0
    if plan.with_effects:
        on_device = max(on_device, weights + gradient_pass_bytes(plan, d_mlp), 4 * d_sae * d_model)
        effects = effect_pass_bytes(plan, d_sae)
    # On a GPU the weights pass through main memory; SAEs wait there in float32, one of them being read.
    loading = weights if plan.compute.device.type == "cuda" else 0
    return on_device, max(loading, recorded, 2 * 4 * encoder, effects)


def gradient_pass_bytes(plan: Plan, d_mlp: int) -> int:
    """Bytes that one backward pass takes beside the weights: what blocks keep for it, and logits."""
    itemsize, positions = plan.compute.dtype.itemsize, min(plan.compute.batch_tokens, MOST_POSITIONS)
    # Of a block: gate, up, their product and its activation; inputs and outputs of norms and attention.
    kept = positions * plan.n_layers * (4 * d_mlp + 10 * plan.d_model) * itemsize
    return kept + 5 * min(HEAD_BYTES, 4 * positions * plan.text_config.vocab_size)


def effect_pass_bytes(plan: Plan, d_sae: int) -> int:
    """Bytes that the effects of one SAE take: decoder (twice while it is read), gradients, sensitivities."""
    of_sentences = 0
    if plan.sentences is not None:
        of_sentences = 4 * plan.n_tokens * plan.d_model + 2 * 4 * len(plan.sentences) * d_sae
    return 2 * 4 * d_sae * plan.d_model + of_sentences


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
    plan: Plan,
    model_bytes: int,
    saes_to_fetch: Sequence[SaeEntry],
    decoders_to_fetch: Sequence[SaeEntry] = (),
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
    if not plan.saes.uses_sae_lens:
        n_rows = sum(entry.d_sae or WIDTH_IF_UNKNOWN for entry in decoders_to_fetch)
        needs.append(("decoders to fetch", cache_root(), 4 * plan.d_model * n_rows))
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
    entries_per_sae = [plan.n_tokens * entry.average_l0 for entry in plan.entries]
    sizes = {
        "residual stream": 4 * per_layer * len(plan.layers),
        "hidden states": 2 * per_layer * len(plan.layers),
        "embeddings": (4 + 2) * per_layer,
        # A value and its column, 4 bytes each.
        "activations": 8 * sum(entries_per_sae),
    }
    if plan.with_effects:
        n_layers = len({entry.layer for entry in plan.entries})
        n_features = sum(entry.d_sae or WIDTH_IF_UNKNOWN for entry in plan.entries)
        sizes |= {
            "gradients": 4 * (per_layer * n_layers + plan.n_tokens),
            # Steering is dense; ablation has at most an entry for each that fires, attribution just as many.
            "effects": 4 * len(plan.sentences) * n_features + (8 + 4) * sum(entries_per_sae),
        }
    return sizes
