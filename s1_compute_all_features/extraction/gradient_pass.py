"""The gradient phase: ∂ℓ_i/∂resid_post of all sentences and layers, in one forward and one backward pass."""

import shutil

import numpy as np
from extraction.device_memory import named_memory_failure
from extraction.extraction_plan import Plan
from extraction.gradient_spool import GradientSpool
from extraction.residual_stream_pass import load_model
from extraction.run_record import Laps
from extraction.workers import Workers
from language_model.likelihood_gradients import MOST_POSITIONS, gradient_batches
from language_model.tokens import pack_batches
from torch import nn
from twins_s1.progress import progress


def compute_gradients(plan: Plan, workers: Workers, laps: Laps, layers: list[int]) -> None:
    """Write `gradients/` for `layers`, and the tokens' log-probabilities.

    The pass is one of its own, apart from the residual stream's, so that the bytes of a folder do not depend
    on whether gradients were asked for.
    """
    spool = GradientSpool.of(plan, layers)
    with workers.together(), named_memory_failure(plan.compute.device):
        model = load_model(plan, workers)
        laps.lap("model for gradients")
        if workers.is_first:
            spool.create()
    with workers.together(), named_memory_failure(plan.compute.device):
        fill_spool(plan, workers, model, spool)
    with workers.together():
        if workers.is_first:
            spool.write_files(plan.output)
            shutil.rmtree(spool.folder)
    laps.lap("gradients")


def fill_spool(plan: Plan, workers: Workers, model: nn.Module, spool: GradientSpool) -> None:
    """Write this process' share of the sentences that are not finished."""
    n_tokens = plan.tokenized.n_tokens
    positions = min(plan.compute.batch_tokens, MOST_POSITIONS)
    all_batches = pack_batches(plan.tokenized.n_positions, positions)
    finished = spool.finished
    batches = [batch for batch in workers.share(all_batches) if not finished[batch].all()]
    total = int(sum(n_tokens[batch].sum() for batch in batches))
    with progress(total, "token", "gradients", shown=workers.is_first) as bar:
        for batch in gradient_batches(model, plan.tokenized, spool.layers, batches):
            for layer, values in batch.by_layer.items():
                if not np.isfinite(values.numpy()).all():
                    raise ValueError(
                        f"the gradients at layer {layer} are not finite in {plan.compute.dtype_name}; "
                        "use --dtype float32"
                    )
            spool.write(batch)
            bar.update(len(batch.rows))
