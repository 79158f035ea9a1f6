"""The effect phase: first-order effects of all features of each SAE, from gradients and decoder."""

import numpy as np
import scipy.sparse
from autoencoders.configurations import SaeEntry
from autoencoders.sae_effects import ablation, steering, token_attribution
from extraction.device_memory import named_memory_failure
from extraction.extraction_plan import Plan
from extraction.workers import Workers
from output_folder.layout import gradients_file, sae_activations_file, sae_effects_file
from twins_s1.atomic_files import write_arrays
from twins_s1.progress import progress


def compute_effects(plan: Plan, workers: Workers, entries: list[SaeEntry]) -> None:
    """Write `sae_effects/` for this process' share of the SAEs, whose activations and gradients are there."""
    mine = workers.share(entries)
    shown = bool(mine) and workers.is_first
    with named_memory_failure(plan.compute.device), progress(len(mine), "SAE", "effects", shown=shown) as bar:
        for entry in mine:
            write_effects(plan, entry)
            bar.update()


def write_effects(plan: Plan, entry: SaeEntry) -> None:
    """Write the effects of one SAE: ablation as `scipy.sparse.load_npz` reads it, and two more arrays."""
    place = entry.layer, entry.average_l0
    activations = scipy.sparse.load_npz(plan.output / sae_activations_file(*place))  # CSR [T, d_sae]
    gradients = np.load(plan.output / gradients_file(entry.layer))["gradients"]  # [T, d_model] float32
    w_dec = plan.saes.read_decoder(entry, plan.d_model).to(plan.compute.device)
    offsets = plan.tokenized.sentence_offsets
    attribution = token_attribution(activations, gradients, w_dec)
    ablated = ablation(attribution, activations, offsets)  # CSR [n, d_sae]
    write_arrays(
        plan.output / sae_effects_file(*place),
        indices=ablated.indices,
        indptr=ablated.indptr,
        format=np.array(b"csr"),
        shape=np.array(ablated.shape, dtype=np.int64),
        data=ablated.data,
        steering=steering(gradients, offsets, w_dec),
        token_attribution=attribution,
    )
