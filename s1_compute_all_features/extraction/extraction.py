"""A run: what the folder lacks is computed in two phases, then described in run.json."""

import json
import shutil
from collections.abc import Iterator, Sequence
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
from output_folder.arrays import require_shape
from output_folder.layout import (
    FEATURE_FOLDER,
    RESIDUAL_STREAM,
    SCRATCH,
    gradients_file,
    hidden_states_file,
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
            described = described_saes(plan, before["saes"])
            require_same_saes(plan, workers.share([e for e in plan.entries if e in described]), described)
            missing = missing_parts(plan, described)
            plan.saes.require(workers.share(missing.saes))
            plan.saes.require(workers.share(missing.effects), "decoders")
            to_compute = [key for key in missing.keys if not has_residual_stream(plan, key)]
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
            if missing.effects:
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
                opened = FEATURE_FOLDER.opened_for_writing(plan.output, inputs_of(plan), overwrite)
                held.enter_context(opened)
                write_tables(plan.output, plan.sentences.table, plan.tokenized)
        yield


def described_saes(plan: Plan, earlier: list[dict]) -> dict[SaeEntry, dict]:
    """Return what the folder says of the planned SAEs whose activations are there.

    A run that has ended says it in run.json (`earlier`), one that was interrupted in a summary of each.
    """
    by_file = {sae["file"]: sae for sae in earlier}
    described = {}
    for entry in plan.entries:
        name = sae_activations_file(entry.layer, entry.average_l0)
        summary = plan.output / sae_summary_file(entry.layer, entry.average_l0)
        if summary.exists():
            by_file[name] = json.loads(summary.read_text(encoding="utf-8"))
        if name in by_file and (plan.output / name).exists():
            described[entry] = by_file[name]
    return described


def require_same_saes(plan: Plan, entries: Sequence[SaeEntry], described: dict[SaeEntry, dict]) -> None:
    """Raise ValueError if the folder's activations of one of `entries` are those of another SAE.

    Encoders are read and compared only where the files are not the very ones that were read before.
    """
    for entry in entries:
        there = described[entry]
        same_path = there["sae_id"] == entry.path
        if same_path and there.get("weights_id") == plan.saes.weights_id(entry):
            continue
        if not same_path or there["encoder_sha256"] != plan.saes.read(entry, plan.d_model).sha256():
            difference = "with other weights" if same_path else "whose file has the same name"
            file = plan.output / sae_activations_file(entry.layer, entry.average_l0)
            raise ValueError(
                f"{file} holds {there['sae_id']} of {there['sae_release']}, this run wants {entry.path} of "
                f"{plan.saes.name}, {difference}: choose another --output, or --overwrite to start anew"
            )


def missing_parts(plan: Plan, described: dict[SaeEntry, dict]) -> Missing:
    folder = plan.output
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
        saes=[entry for entry in plan.entries if entry not in described],
        embeddings=not (folder / "embeddings.npz").exists(),
        record=not (folder / "run.json").exists() or (folder / SCRATCH).exists(),
    )


def has_residual_stream(plan: Plan, key: int | str) -> bool:
    """Return whether the file is there; ValueError if it has not one row for each token."""
    file = plan.output / residual_stream_file(key)
    if not file.exists():
        return False
    require_shape(file, (plan.n_tokens, plan.d_model))
    return True
