"""Phase 1: the model's residual stream after every wanted block, in one pass, written in float32."""

from collections.abc import Sequence

import numpy as np
import torch
from extraction.device_memory import named_memory_failure
from extraction.extraction_plan import Plan
from extraction.run_record import Laps
from extraction.workers import Workers
from language_model.residual_stream import EMBEDDINGS, residual_stream_batches
from language_model.tokens import pack_batches
from output_folder.arrays import create_rows, finish_rows, write_half_if_finite, write_rows
from output_folder.layout import hidden_states_file, residual_stream_file
from twins_s1.progress import progress


def compute_residual_stream(plan: Plan, workers: Workers, laps: Laps, keys: list[int | str]) -> None:
    """Run the model and write its residual stream. keys: layers, and `EMBEDDINGS` if wanted."""
    files = [plan.output / residual_stream_file(key) for key in keys]
    with workers.together(), named_memory_failure(plan.compute.device):
        model = load_model(plan, workers)
        laps.lap("model")
        if workers.is_first:
            for file in files:
                create_rows(file, (plan.n_tokens, plan.d_model))
    with workers.together(), named_memory_failure(plan.compute.device):
        fill_rows(plan, workers, model, keys)
    with workers.together():
        if workers.is_first:
            for file in files:
                finish_rows(file)
    laps.lap("residual stream")


def load_model(plan: Plan, workers: Workers) -> torch.nn.Module:
    """Return the model on its device; the first process fetches it, the others find it in the cache."""
    compute = plan.compute
    with progress(1, "model", "loading the model", shown=workers.is_first) as bar:
        model = workers.first_then_others(
            lambda: plan.model.load_weights(plan.config, dtype=compute.dtype, device=compute.device)
        )
        bar.update()
    return model


def fill_rows(plan: Plan, workers: Workers, model: torch.nn.Module, keys: list[int | str]) -> None:
    """Write this process' share of the sentences into the arrays of `keys`, which exist."""
    n_tokens = plan.tokenized.n_tokens
    batches = workers.share(pack_batches(plan.tokenized.n_positions, plan.compute.batch_tokens))
    total = int(sum(n_tokens[batch].sum() for batch in batches))
    layers = [key for key in keys if key != EMBEDDINGS]
    with progress(total, "token", "residual stream", shown=workers.is_first) as bar:
        for rows, states in residual_stream_batches(model, plan.tokenized, layers, batches):
            for key in keys:
                values = states[key].numpy()  # [len(rows), d_model] float32
                if not np.isfinite(values).all():
                    where = key if key == EMBEDDINGS else f"layer {key}"
                    raise ValueError(
                        f"the model's {where} is not finite: its values overflow this dtype; "
                        "use --dtype float32 or bfloat16"
                    )
                write_rows(plan.output / residual_stream_file(key), rows, values)
            bar.update(len(rows))


def write_dense_arrays(plan: Plan, workers: Workers, layers: Sequence[int], with_embeddings: bool) -> None:
    """Write this process' share of the hidden states and, the first process, the embeddings."""
    if workers.is_first and with_embeddings:
        source = plan.output / residual_stream_file(EMBEDDINGS)
        write_half_if_finite(plan.output / "embeddings.npz", "embeddings", source)
        source.unlink()
    mine = workers.share(layers)
    with progress(len(mine), "layer", "hidden states", shown=bool(mine) and workers.is_first) as bar:
        for layer in mine:
            target = plan.output / hidden_states_file(layer)
            write_half_if_finite(target, "hidden_states", plan.output / residual_stream_file(layer))
            bar.update()
