"""Checks of the model's and the SAEs' files: are they there, may they be fetched, do they fit."""

import torch
from language_model.residual_stream import decoder_and_blocks
from preflight.examination import Examination, Result, ranges, size
from transformers import AutoModelForCausalLM


def check_model_access(exam: Examination) -> tuple[Result, str]:
    model, config = exam.plan.model, exam.plan.config
    with torch.device("meta"):  # shapes without memory
        exam.skeleton = AutoModelForCausalLM.from_config(config)
    n_parameters = exam.skeleton.num_parameters()
    if model.is_folder:
        where = "local folder"
    elif model.is_cached:
        where = "in the Hugging Face cache"
    else:
        model.require_weights()
        stored = getattr(config, "dtype", None) or torch.float32
        exam.model_bytes_to_fetch = n_parameters * stored.itemsize
        where = f"access given, {size(exam.model_bytes_to_fetch)} to fetch"
    return Result.OK, f"{model.name}: {where}, {n_parameters / 1e6:,.0f} million parameters"


def check_blocks(exam: Examination) -> tuple[Result, str]:
    _, blocks = decoder_and_blocks(exam.skeleton)
    name = next(name for name, module in exam.skeleton.named_modules() if module is blocks)
    return Result.OK, f"{name}: {len(blocks)} blocks, d_model {exam.plan.d_model}"


def check_planned_saes(exam: Examination) -> tuple[Result, str]:
    plan = exam.plan
    plan.require_layers()
    if not plan.entries:
        name = plan.configurations.file.name
        return Result.WARNING, f"{name} has none on the chosen layers: hidden states only"
    layers = ranges([entry.layer for entry in plan.entries])
    return Result.OK, f"{len(plan.entries)} on layers {layers} of 0-{plan.n_layers - 1}"


def check_sae_access(exam: Examination) -> tuple[Result, str]:
    saes, entries = exam.plan.saes, exam.plan.entries
    saes.require(entries)
    if exam.plan.with_effects:
        saes.require(entries, "decoders")
    if saes.is_folder:
        return Result.OK, f"{len(entries)} in the folder {saes.place}"
    exam.saes_to_fetch = [entry for entry in entries if not saes.is_cached(entry)]
    n_cached = len(entries) - len(exam.saes_to_fetch)
    detail = f"{saes.place}: {n_cached} of {len(entries)} cached"
    if exam.saes_to_fetch:
        layers = ranges([entry.layer for entry in exam.saes_to_fetch])
        detail += f", access given, {len(exam.saes_to_fetch)} to fetch (layers {layers})"
    if exam.plan.with_effects:
        exam.decoders_to_fetch = [entry for entry in entries if not saes.is_cached(entry, "decoders")]
        detail += f"; decoders: {len(entries) - len(exam.decoders_to_fetch)} of {len(entries)} cached"
    return Result.OK, detail


def check_sae_file(exam: Examination) -> tuple[Result, str]:
    if not exam.plan.entries:
        return Result.NOT_CHECKED, "no SAE is planned"
    entry, d_model = exam.plan.entries[0], exam.plan.d_model
    exam.encoder = exam.plan.saes.read(entry, d_model)
    return Result.OK, f"{entry.path}: d_in {d_model} as the model's d_model, d_sae {exam.encoder.d_sae}"
