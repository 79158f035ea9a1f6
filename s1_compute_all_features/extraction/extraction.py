"""A run: what the folder lacks is computed in two phases, then described in run.json."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from autoencoders.configurations import SaeEntry
from extraction.effect_pass import compute_effects
from extraction.extraction_plan import Plan
from extraction.gradient_pass import compute_gradients
from extraction.residual_stream_pass import compute_residual_stream, write_dense_arrays
from extraction.run_record import Laps, describe_run, inputs_of
from extraction.sae_pass import encode_saes
from extraction.workers import Workers
from language_model.residual_stream import EMBEDDINGS
from output_folder.layout import (
    RESIDUAL_STREAM,
    SCRATCH,
    gradients_file,
    hidden_states_file,
    opened_for_writing,
    read_record,
    residual_stream_file,
    sae_activations_file,
    sae_effects_file,
    sae_summary_file,
)
from output_folder.tables import write_tables
from twins_s1.atomic_files import write_json


@dataclass(frozen=True)
class Missing:
    """What a folder lacks of a plan."""

    layers: list[int]  # without hidden states
    saes: list[SaeEntry]  # without activations or without their summary
    gradients: list[int]  # layers whose SAEs lack effects, without gradients
    effects: list[SaeEntry]  # without effects, where they are asked for
    embeddings: bool
    record: bool  # run.json does not say all that is there

    @property
    def keys(self) -> list[int | str]:
        """The layers, and `EMBEDDINGS`, whose residual stream the missing files are made of."""
        layers = sorted({*self.layers, *(entry.layer for entry in self.saes)})
        return [EMBEDDINGS, *layers] if self.embeddings else layers

    @property
    def anything(self) -> bool:
        return bool(self.keys or self.effects) or self.record


def extract(plan: Plan, workers: Workers, laps: Laps, *, overwrite: bool, discard: bool) -> str:
    """Do what the folder lacks, or this process' share of it; return the closing line.

    overwrite: start anew where the folder was made with other inputs. discard: delete the residual stream.
    """
    with folder_of_run(plan, workers, overwrite):
        with workers.together():  # each process has read what is there before the first one changes it
            before = read_record(plan.output)
            missing = missing_parts(plan, before["saes"])
            plan.saes.require(missing.saes)
        to_compute = [k for k in missing.keys if not (plan.output / residual_stream_file(k)).exists()]
        if to_compute:
            compute_residual_stream(plan, workers, laps, to_compute)
        if missing.anything:
            with workers.together():
                (plan.output / SCRATCH).mkdir(exist_ok=True)
                write_dense_arrays(plan, workers, missing.layers, missing.embeddings)
                laps.lap("hidden states")
                encode_saes(plan, workers, missing.saes)
                laps.lap("SAEs")
            if missing.gradients:
                compute_gradients(plan, workers, laps, missing.gradients)
            with workers.together():
                compute_effects(plan, workers, missing.effects)
                laps.lap("effects")
            if workers.is_first:
                record = describe_run(plan, before, laps, workers.size, missing.layers, len(missing.saes))
                write_json(plan.output / "run.json", record)
                shutil.rmtree(plan.output / SCRATCH)
        if workers.is_first and discard:
            shutil.rmtree(plan.output / RESIDUAL_STREAM, ignore_errors=True)
    return (
        f"{plan.output}: {len(plan.sentences)} sentences, {plan.n_tokens} tokens, {len(plan.layers)} layers, "
        f"{len(plan.entries)} SAEs ({len(missing.layers)} layers and {len(missing.saes)} SAEs new) in "
        f"{laps.total:.0f} s on {plan.compute.device}"
    )


@contextmanager
def folder_of_run(plan: Plan, workers: Workers, overwrite: bool) -> Iterator[None]:
    """Hold the output folder, with sentences and tokens in it; the first process holds it for all."""
    with ExitStack() as held:
        with workers.together():
            if workers.is_first:
                held.enter_context(opened_for_writing(plan.output, inputs_of(plan), overwrite))
                write_tables(plan.output, plan.sentences.table, plan.tokenized)
        yield


def missing_parts(plan: Plan, earlier: list[dict]) -> Missing:
    """Return what the folder lacks.

    Raises:
        ValueError: a file of that layer and L0 is there, but of another SAE.
    """
    folder = plan.output
    described = {sae["file"]: sae for sae in earlier}
    missing_saes = []
    for entry in plan.entries:
        name = sae_activations_file(entry.layer, entry.average_l0)
        summary = folder / sae_summary_file(entry.layer, entry.average_l0)
        if summary.exists():
            described[name] = json.loads(summary.read_text(encoding="utf-8"))
        if not (folder / name).exists() or name not in described:
            missing_saes.append(entry)
            continue
        there = (described[name]["sae_release"], described[name]["sae_id"])
        if there != (plan.saes.name, entry.path):
            raise ValueError(
                f"{folder / name} holds {there[1]} of {there[0]}, this run wants {entry.path} of "
                f"{plan.saes.name}, whose file has the same name: choose another --output"
            )
    missing_effects = [
        entry
        for entry in plan.entries
        if plan.with_effects and not (folder / sae_effects_file(entry.layer, entry.average_l0)).exists()
    ]
    layers_of_effects = sorted({entry.layer for entry in missing_effects})
    return Missing(
        gradients=[k for k in layers_of_effects if not (folder / gradients_file(k)).exists()],
        effects=missing_effects,
        layers=[k for k in plan.layers if not (folder / hidden_states_file(k)).exists()],
        saes=missing_saes,
        embeddings=not (folder / "embeddings.npz").exists(),
        record=not (folder / "run.json").exists() or (folder / SCRATCH).exists(),
    )
