"""The gradient phase: ∂ℓ_i/∂resid_post of all sentences and layers, in one forward and one backward pass."""

from pathlib import Path

import numpy as np
from extraction.device_memory import named_memory_failure
from extraction.extraction_plan import Plan
from extraction.residual_stream_pass import load_model
from extraction.run_record import Laps
from extraction.workers import Workers
from language_model.likelihood_gradients import MOST_POSITIONS, gradient_batches
from language_model.tokens import pack_batches
from output_folder.arrays import create_rows, finish_rows, row_chunks, write_npz, write_rows
from output_folder.layout import SCRATCH, TOKEN_LOG_PROBS, gradients_file
from torch import nn
from twins_s1.progress import progress


def compute_gradients(plan: Plan, workers: Workers, laps: Laps, layers: list[int]) -> None:
    """Write `gradients/` for `layers`, and the tokens' log-probabilities.

    The pass is one of its own, apart from the residual stream's, so that the bytes of a folder do not depend
    on whether gradients were asked for.
    """
    spools = {layer: gradient_rows(plan, layer) for layer in layers}
    spools[TOKEN_LOG_PROBS] = plan.output / SCRATCH / "token_log_probs.npy"
    with workers.together(), named_memory_failure(plan.compute.device):
        model = load_model(plan, workers)
        laps.lap("model for gradients")
        if workers.is_first:
            for key, spool in spools.items():
                create_rows(spool, (plan.n_tokens, 1 if key == TOKEN_LOG_PROBS else plan.d_model))
    with workers.together(), named_memory_failure(plan.compute.device):
        fill_gradients(plan, workers, model, spools, layers)
    with workers.together():
        if workers.is_first:
            for key, spool in spools.items():
                finish_rows(spool)
                write_gradient_file(plan, key, spool)
                spool.unlink()
    laps.lap("gradients")


def gradient_rows(plan: Plan, layer: int) -> Path:
    return plan.output / SCRATCH / f"gradients_layer_{layer}.npy"


def fill_gradients(
    plan: Plan, workers: Workers, model: nn.Module, spools: dict[int | str, Path], layers: list[int]
) -> None:
    """Write this process' share of the sentences into the row files of `spools`, which exist."""
    n_tokens = plan.tokenized.n_tokens
    positions = min(plan.compute.batch_tokens, MOST_POSITIONS)
    batches = workers.share(pack_batches(plan.tokenized.n_positions, positions))
    total = int(sum(n_tokens[batch].sum() for batch in batches))
    with progress(total, "token", "gradients", shown=workers.is_first) as bar:
        for batch in gradient_batches(model, plan.tokenized, layers, batches):
            for layer, values in batch.by_layer.items():
                if not np.isfinite(values.numpy()).all():
                    raise ValueError(
                        f"the gradients at layer {layer} are not finite in {plan.compute.dtype_name}; "
                        "use --dtype float32"
                    )
                write_rows(spools[layer], batch.rows, values.numpy())
            write_rows(spools[TOKEN_LOG_PROBS], batch.rows, batch.log_probs.numpy()[:, None])
            bar.update(len(batch.rows))


def write_gradient_file(plan: Plan, key: int | str, spool: Path) -> None:
    """Turn finished rows into the NPZ that stays."""
    if key == TOKEN_LOG_PROBS:
        name, target, shape = "token_log_probs", TOKEN_LOG_PROBS, (plan.n_tokens,)
    else:
        name, target, shape = "gradients", gradients_file(key), (plan.n_tokens, plan.d_model)
    pieces = (chunk.data for chunk in row_chunks(spool))
    write_npz(plan.output / target, {name: (shape, np.dtype(np.float32), pieces)})
