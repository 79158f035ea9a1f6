"""What run.json says of a folder: all it holds, and each run that added to it."""

import json
import time
from pathlib import Path

import torch
from autoencoders.configurations import SaeEntry
from extraction.device_memory import peak_memory_bytes
from extraction.extraction_plan import Plan
from output_folder.layout import (
    FORMAT_VERSION,
    hidden_states_file,
    sae_activations_file,
    sae_effects_file,
    sae_summary_file,
)
from twins_s1.provenance import library_versions


class Laps:
    """Seconds by phase of a run."""

    def __init__(self):
        self.started = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase] = round(now - self.last, 2)
        self.last = now

    @property
    def total(self) -> float:
        return round(time.monotonic() - self.started, 1)


def inputs_of(plan: Plan) -> dict:
    """What the content of the folder depends on."""
    return {
        "format_version": FORMAT_VERSION,
        "input_sha256": plan.sentences.sha256,
        "model": plan.model.name,
        "model_revision": getattr(plan.config, "_commit_hash", None),
        "model_fingerprint": plan.model.fingerprint,
        "dtype": plan.compute.dtype_name,
        "allow_tf32": plan.compute.allow_tf32,
        "encoder": plan.compute.encoder,
    }


def describe_run(
    plan: Plan, before: dict, laps: Laps, processes: int, new_layers: list[int], n_new_saes: int
) -> dict:
    device = plan.compute.device
    this_run = {
        "arguments": plan.arguments,
        "device": str(device),
        "chunk_tokens": plan.compute.chunk_tokens,
        "processes": processes,
        "seconds": laps.total,
        "seconds_by_phase": laps.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "new_layers": new_layers,
        "new_saes": n_new_saes,
    }
    return {
        **inputs_of(plan),
        "d_model": plan.d_model,
        "n_layers": plan.n_layers,
        "layers": [k for k in range(plan.n_layers) if (plan.output / hidden_states_file(k)).exists()],
        "n_sentences": len(plan.sentences),
        "n_tokens": plan.n_tokens,
        "input": str(plan.sentences.file),
        "labelled": plan.sentences.labelled,
        "bos": plan.tokenized.bos_id is not None,
        "saes": describe_saes(plan.output, plan.entries, before["saes"]),
        "libraries": library_versions("torch", "transformers", "numpy", "scipy"),
        "arguments": plan.arguments,
        "runs": [*before["runs"], this_run],
    }


def describe_saes(folder: Path, entries: list[SaeEntry], before: list[dict]) -> list[dict]:
    """Return run.json's list of SAEs: those of this run and, in a folder that grew, those of earlier ones."""
    known = {sae["file"]: sae for sae in before}
    for entry in entries:
        name = sae_activations_file(entry.layer, entry.average_l0)
        summary = folder / sae_summary_file(entry.layer, entry.average_l0)
        if summary.exists():
            known[name] = {
                "layer": entry.layer,
                "average_l0": entry.average_l0,
                "neuronpedia_id": entry.neuronpedia_id,
                "file": name,
                **json.loads(summary.read_text(encoding="utf-8")),
            }
    described = sorted(known.values(), key=lambda sae: (sae["layer"], sae["average_l0"]))
    first: dict[str, str] = {}
    for sae in described:
        effects = sae_effects_file(sae["layer"], sae["average_l0"])
        sae["effects"] = effects if (folder / effects).exists() else None
        sae.pop("duplicate_of", None)
        earlier = first.setdefault(sae["encoder_sha256"], sae["sae_id"])
        if earlier != sae["sae_id"]:
            sae["duplicate_of"] = earlier
    return described
