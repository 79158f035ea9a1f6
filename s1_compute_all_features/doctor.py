"""Check what a run of extract_sae_features.py needs, in a minute or two, before hours are spent.

Prints one line per check. Model and first SAE are loaded (and fetched, as the run would) and eight built-in
sentences go through them.
"""

import argparse
import importlib.metadata
import itertools
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from extract_sae_features import (
    add_compute_options,
    add_source_options,
    choose_device,
    resolve_sources,
    sae_source,
    select_entries,
    tokens_at_once,
)
from feature_files import read_labelled_sentences
from hub_files import network_forbidden

SENTENCES = (
    "No.",
    "The shop was closed.",
    "My grandmother kept bees.",
    "She divided the money evenly, although nobody would have noticed.",
    "Rain is expected after noon, with clearer skies later in the week.",
    "The train was late again, so we sat on the platform and shared the last of the oranges.",
    "He told the committee that the figures were final, and spent the evening changing them.",
    "When the museum opened its new wing, the guards let the children of the street in first.",
)
MINIMUM_VERSIONS = {
    "torch": "2.8",
    "transformers": "5.20",
    "sae-lens": "6.50",
    "numpy": "2.2",
    "scipy": "1.16",
    "huggingface_hub": "1.0",
}
MINIMUM_PYTHON = "3.11"
# Largest difference between two ways to compute a token's residual stream, relative to its norm, and largest
# share of an SAE's active features that may change with it. Rounding stays below, faulty masks go far above.
LIMITS = {
    "float32": (1e-5, 1e-3),
    "TF32": (2e-2, 2e-2),  # as many mantissa bits as float16
    "float16": (2e-2, 2e-2),
    "bfloat16": (1e-1, 5e-2),
}
EMBEDDING_TOLERANCE = 0.01  # bfloat16 rounds the scale itself, by 0.2 %
LITTLE_MARGIN = 0.9  # of what is free
LARGE_FOR_A_CPU = 10**9  # parameters
WIDTH_IF_UNKNOWN = 16_384  # features, where the configurations do not say
REINSTALL = "install the versions this project pins: `uv sync`, or `pip install -r requirements.txt`"


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    NOT_CHECKED = "not checked"


@dataclass
class Plan:
    """The planned run, and what the checks have found of it so far."""

    args: argparse.Namespace
    sentences: pd.DataFrame | None  # of --input
    load_from: str
    model_id: str
    config_file: Path
    configurations: object
    release: str
    device: object = None
    config: object = None
    tokenizer: object = None
    skeleton: object = None  # the model without weights
    model: object = None
    encoder: object = None  # of the first planned SAE
    model_bytes_to_fetch: int = 0
    saes_to_fetch: list = field(default_factory=list)

    @property
    def dtype(self):
        import torch

        return getattr(torch, self.args.dtype)

    @property
    def text_config(self):
        return self.config.get_text_config()

    @property
    def is_gemma(self) -> bool:
        return self.text_config.model_type.startswith("gemma")

    @property
    def layers(self) -> Sequence[int]:
        return self.args.layers or range(self.text_config.num_hidden_layers)

    @cached_property
    def entries(self) -> list:
        """The planned SAEs, layer by layer; whether the model has these layers is a check of its own."""
        return select_entries(self.configurations, self.args.layers, sys.maxsize, self.config_file)

    @property
    def sae_files(self) -> dict:
        """What says how to come by the files of the SAEs."""
        return {
            "uses_sae_lens": self.uses_sae_lens,
            "local_files_only": self.args.local_files_only,
            "revision": self.args.sae_revision,
        }

    @property
    def uses_sae_lens(self) -> bool:
        return self.configurations.uses_sae_lens

    @property
    def limits(self) -> tuple[float, float]:
        tf32 = self.args.dtype == "float32" and self.args.allow_tf32 and self.device.type == "cuda"
        return LIMITS["TF32" if tf32 else self.args.dtype]

    @cached_property
    def tokenized(self):
        from residual_stream import tokenize

        return tokenize(SENTENCES, self.tokenizer, self.text_config.max_position_embeddings)

    @cached_property
    def together(self) -> dict:
        """The residual stream of all built-in sentences in one padded batch."""
        return self.residual_stream([np.arange(len(SENTENCES))])

    @cached_property
    def one_by_one(self) -> dict:
        return self.residual_stream([np.array([index]) for index in range(len(SENTENCES))])

    def residual_stream(self, batches: list[np.ndarray]) -> dict:
        """Return what enters block 0 and planned layers' residual stream, each `[T, d_model]` float32."""
        from residual_stream import EMBEDDINGS, residual_stream_batches

        shape = (len(self.tokenized.token_ids), self.text_config.hidden_size)
        arrays = {key: np.empty(shape, np.float32) for key in (EMBEDDINGS, *self.layers)}
        for rows, states in residual_stream_batches(self.model, self.tokenized, self.layers, batches):
            for key, values in states.items():
                arrays[key][rows] = values
        return arrays

    def fires(self, resid_post: np.ndarray) -> np.ndarray:
        """Return `[T, d_sae]` bool: which features of the first SAE fire. resid_post: `[T, d_model]`."""
        import torch
        from sae_encoder import encode

        x = torch.from_numpy(resid_post).to(self.device, self.dtype)
        encoder = self.encoder.to(self.device, self.dtype)
        rows = encode(lambda start, stop: x[start:stop], len(x), encoder, len(x), [])
        lengths, columns, _ = (np.concatenate(part) for part in zip(*rows))
        fires = np.zeros((len(x), encoder.d_sae), dtype=bool)
        fires[np.repeat(np.arange(len(x)), lengths), columns] = True
        return fires


@dataclass(frozen=True)
class Check:
    name: str
    needs: tuple[str, ...]  # checks without which this one has nothing to look at
    run: Callable[[Plan], tuple[Result, str]]


CHECKS: list[Check] = []


def check(name: str, *needs: str) -> Callable:
    """Register a function that returns result and detail; what it raises is a failure with its remedy."""

    def register(run: Callable[[Plan], tuple[Result, str]]) -> Callable:
        CHECKS.append(Check(name, needs, run))
        return run

    return register


def size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{math.ceil(n_bytes / 1e6)} MB"


def ranges(numbers: Sequence[int]) -> str:
    """Return `[0, 1, 2, 5]` as `0-2,5`."""
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def first_existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def main_memory_free() -> int:
    """Return bytes that programs can still have; where the system does not say, all there are."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest norm of a row's difference, relative to the row's norm. Both `[T, d_model]`."""
    return float((np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@check("libraries")
def check_libraries(plan: Plan) -> tuple[Result, str]:
    def release(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)[:2]]

    found = {"python": platform.python_version()}
    too_old = []
    if release(found["python"]) < release(MINIMUM_PYTHON):
        too_old.append(f"python {found['python']} (at least {MINIMUM_PYTHON} needed)")
    for name, minimum in MINIMUM_VERSIONS.items():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            too_old.append(f"{name} is not installed (at least {minimum} needed)")
            continue
        if release(found[name]) < release(minimum):
            too_old.append(f"{name} {found[name]} (at least {minimum} needed)")
    if too_old:
        raise ValueError(f"{', '.join(too_old)}: {REINSTALL}")
    return Result.OK, ", ".join(f"{name} {version}" for name, version in found.items())


@check("device")
def check_device(plan: Plan) -> tuple[Result, str]:
    import torch

    plan.device = choose_device(plan.args.device, 0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = plan.args.allow_tf32
    if plan.device.type != "cuda":
        return Result.OK, f"{plan.device}, {plan.args.dtype}, {torch.get_num_threads()} threads"
    tf32 = " with TF32" if plan.args.allow_tf32 else ""
    return (
        Result.OK,
        f"{plan.device}, {torch.cuda.get_device_name(plan.device)}, {plan.args.dtype}{tf32}",
    )


@check("output folder")
def check_output(plan: Plan) -> tuple[Result, str]:
    output = plan.args.output
    if output is None:
        return Result.NOT_CHECKED, "needs --input or --output"
    try:
        with tempfile.TemporaryFile(dir=first_existing(output)):
            return Result.OK, f"{output} can be written"
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another --output") from error


@check("model access")
def check_model_access(plan: Plan) -> tuple[Result, str]:
    import torch
    from hub_files import is_local_folder, require_weights, weights_are_cached
    from residual_stream import read_config
    from transformers import AutoModelForCausalLM

    revision = plan.args.revision
    plan.config, plan.tokenizer = read_config(
        plan.load_from, revision=revision, local_files_only=plan.args.local_files_only
    )
    with torch.device("meta"):  # shapes without memory
        plan.skeleton = AutoModelForCausalLM.from_config(plan.config)
    n_parameters = plan.skeleton.num_parameters()
    if is_local_folder(plan.load_from):
        where = "local folder"
    elif weights_are_cached(plan.load_from, revision):
        where = "in the Hugging Face cache"
    else:
        require_weights(plan.load_from, revision, plan.args.local_files_only)
        stored = getattr(plan.config, "dtype", None) or torch.float32
        plan.model_bytes_to_fetch = n_parameters * stored.itemsize
        where = f"access given, {size(plan.model_bytes_to_fetch)} to fetch"
    return Result.OK, f"{plan.model_id}: {where}, {n_parameters / 1e6:,.0f} million parameters"


@check("block list", "model access")
def check_blocks(plan: Plan) -> tuple[Result, str]:
    from residual_stream import decoder_and_blocks

    _, blocks = decoder_and_blocks(plan.skeleton)
    name = next(name for name, module in plan.skeleton.named_modules() if module is blocks)
    return Result.OK, f"{name}: {len(blocks)} blocks, d_model {plan.text_config.hidden_size}"


@check("planned SAEs", "model access")
def check_planned_saes(plan: Plan) -> tuple[Result, str]:
    n_layers = plan.text_config.num_hidden_layers
    entries = select_entries(plan.configurations, plan.args.layers, n_layers, plan.config_file)
    if not entries:
        return Result.WARNING, f"{plan.config_file.name} has none on the chosen layers: hidden states only"
    layers = ranges([entry.layer for entry in entries])
    return Result.OK, f"{len(entries)} on layers {layers} of 0-{n_layers - 1}"


@check("SAE access")
def check_sae_access(plan: Plan) -> tuple[Result, str]:
    from sae_encoder import require_saes

    require_saes(plan.entries, plan.release, **plan.sae_files)
    if Path(plan.release).is_dir():
        return Result.OK, f"{len(plan.entries)} in the folder {plan.release}"
    for entry in plan.entries:
        try:
            require_saes([entry], plan.release, **plan.sae_files | {"local_files_only": True})
        except FileNotFoundError:
            plan.saes_to_fetch.append(entry)
    n_cached = len(plan.entries) - len(plan.saes_to_fetch)
    detail = f"{plan.release}: {n_cached} of {len(plan.entries)} cached"
    if plan.saes_to_fetch:
        layers = ranges([entry.layer for entry in plan.saes_to_fetch])
        detail += f", access given, {len(plan.saes_to_fetch)} to fetch (layers {layers})"
    return Result.OK, detail


@check("memory", "device", "model access")
def check_memory(plan: Plan) -> tuple[Result, str]:
    import torch

    device, main = memory_needed(plan)
    free = {"main memory": main_memory_free()}
    needed = {"main memory": main}
    if plan.device.type == "cuda":
        free[str(plan.device)], _ = torch.cuda.mem_get_info(plan.device)
        needed[str(plan.device)] = device
    else:
        needed["main memory"] += device
    detail = ", ".join(
        f"{place}: about {size(needed[place])} needed, {size(free[place])} free" for place in needed
    )
    if any(needed[place] > free[place] for place in needed):
        raise ValueError(
            f"{detail}: --dtype bfloat16 halves model and SAEs, a smaller --batch-tokens or --chunk-tokens "
            "needs less; or take a larger machine"
        )
    if any(needed[place] > LITTLE_MARGIN * free[place] for place in needed):
        return Result.WARNING, f"{detail}: little margin, free some before the run"
    if plan.device.type == "cpu" and plan.skeleton.num_parameters() > LARGE_FOR_A_CPU:
        return Result.WARNING, f"{detail}; a model of this size is slow without a GPU"
    return Result.OK, detail


def memory_needed(plan: Plan) -> tuple[int, int]:
    """Return an estimate of the bytes that model, SAEs and their arrays take: `(on the device, beside it)`.

    The model is gone before the first SAE comes, so each figure is the larger of the two phases.
    """
    text_config, itemsize = plan.text_config, plan.dtype.itemsize
    d_model = text_config.hidden_size
    d_mlp = getattr(text_config, "intermediate_size", None) or 4 * d_model
    weights = plan.skeleton.num_parameters() * itemsize
    # Within a block: gate, up and their product; query, key, value and the stream before and after.
    within_block = plan.args.batch_tokens * (3 * d_mlp + 6 * d_model) * itemsize
    recorded = 4 * plan.args.batch_tokens * d_model * (len(plan.layers) + 1)
    d_sae = max((entry.d_sae or WIDTH_IF_UNKNOWN for entry in plan.entries), default=0)
    encoder = d_sae * (d_model + 2)
    chunk = tokens_at_once(plan.args, plan.device) * d_sae * (itemsize + 1)
    on_device = max(weights + within_block, encoder * itemsize + chunk)
    # On a GPU the weights pass through main memory; SAEs wait there in float32, one of them being read.
    loading = weights if plan.device.type == "cuda" else 0
    return on_device, max(loading, recorded, 2 * 4 * encoder)


@check("disk space", "model access", "SAE access")
def check_disk(plan: Plan) -> tuple[Result, str]:
    by_disk: dict[int, tuple[Path, list]] = {}
    for what, folder, n_bytes in disk_needs(plan):
        if n_bytes:
            place = first_existing(folder)
            by_disk.setdefault(place.stat().st_dev, (place, []))[1].append((what, n_bytes))
    details, shares = [], []
    for place, needs in by_disk.values():
        free, needed = shutil.disk_usage(place).free, max(0, sum(n_bytes for _, n_bytes in needs))
        shares.append(needed / max(free, 1))
        parts = ", ".join(f"{what} {size(n)}" if n > 0 else f"{what} −{size(-n)}" for what, n in needs)
        details.append(f"about {size(needed)} needed ({parts}), {size(free)} free at {place}")
    detail = "; ".join(details) or "nothing to fetch"
    if plan.sentences is None:
        detail += "; the output's size is estimated with --input"
    if max(shares, default=0) > 1:
        raise ValueError(
            f"{detail}: make room, choose another --output, fewer --layers, or point HF_HOME and "
            "TRAIT_TRACING_CACHE to another disk"
        )
    if max(shares, default=0) > LITTLE_MARGIN:
        return Result.WARNING, f"{detail}: little margin"
    return Result.OK, detail


def disk_needs(plan: Plan) -> list[tuple[str, Path, int]]:
    """Return what will be written, where, and its estimated bytes; what the output has already, negative."""
    from demo_model import cache_root
    from huggingface_hub import constants

    hub_cache = Path(constants.HF_HUB_CACHE)
    per_feature = 4 * (plan.text_config.hidden_size + 2)  # a column of W_enc, b_enc and threshold
    if plan.uses_sae_lens:  # which fetches the decoder as well
        per_feature *= 2
    n_features = sum(entry.d_sae or WIDTH_IF_UNKNOWN for entry in plan.saes_to_fetch)
    needs = [
        ("model to fetch", hub_cache, plan.model_bytes_to_fetch),
        ("SAEs to fetch", hub_cache if plan.uses_sae_lens else cache_root(), per_feature * n_features),
    ]
    if plan.sentences is not None:
        output = plan.args.output
        needs += [(what, output, n_bytes) for what, n_bytes in output_bytes(plan).items()]
        needs.append(
            ("already there", output, -sum(f.stat().st_size for f in output.rglob("*") if f.is_file()))
        )
    return needs


def output_bytes(plan: Plan) -> dict[str, int]:
    """Return the estimated bytes of the files in the output folder, while the run is at its largest."""
    from residual_stream import tokenize

    tokenized = tokenize(plan.sentences["sentence"], plan.tokenizer, plan.text_config.max_position_embeddings)
    per_layer = len(tokenized.token_ids) * plan.text_config.hidden_size  # values
    return {
        "residual stream": 4 * per_layer * len(plan.layers),
        "hidden states": 2 * per_layer * len(plan.layers),
        "embeddings": (4 + 2) * per_layer,
        # A value and its column, 4 bytes each.
        "activations": 8 * len(tokenized.token_ids) * sum(entry.average_l0 for entry in plan.entries),
    }


@check("model", "block list", "planned SAEs", "memory", "disk space")
def check_model(plan: Plan) -> tuple[Result, str]:
    from residual_stream import EMBEDDINGS, load_weights

    plan.model = load_weights(
        plan.load_from,
        plan.config,
        dtype=plan.dtype,
        device=plan.device,
        revision=plan.args.revision,
        local_files_only=plan.args.local_files_only,
    )
    for key, states in plan.one_by_one.items():
        if not np.isfinite(states).all():
            where = "what enters block 0" if key == EMBEDDINGS else f"the residual stream after block {key}"
            raise ValueError(
                f"{where} is not finite in {plan.args.dtype}: use --dtype float32"
                + " or bfloat16" * (plan.args.dtype == "float16")
            )
    largest = max(float(np.abs(states).max()) for states in plan.one_by_one.values())
    return (
        Result.OK,
        f"loaded; {len(SENTENCES)} sentences, {len(plan.tokenized.token_ids)} tokens, all values finite, "
        f"the largest {largest:,.0f}",
    )


@check("BOS", "model")
def check_bos(plan: Plan) -> tuple[Result, str]:
    bos_id = plan.tokenized.bos_id
    if bos_id is None:
        detail = "the tokenizer has no BOS token"
        if plan.is_gemma:
            raise ValueError(
                f"{detail}, without which Gemma's residual stream is not the one SAEs were trained on: "
                "use the tokenizer files of the model's own repository"
            )
        return Result.WARNING, f"{detail}: sentences start without one; check that the SAEs were trained so"
    seen = []
    hook = plan.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0]))
    try:
        plan.residual_stream([np.array([0])])
    finally:
        hook.remove()
    ids = seen[0][0].tolist()
    if ids.count(bos_id) != 1 or ids[0] != bos_id:
        raise ValueError(
            f"{SENTENCES[0]!r} enters the model as {ids}, not with one BOS ({bos_id}): {REINSTALL}"
        )
    return Result.OK, f"one before each sentence, id {bos_id} ({plan.tokenizer.bos_token})"


@check("embedding scale", "model")
def check_embeddings(plan: Plan) -> tuple[Result, str]:
    from residual_stream import EMBEDDINGS

    weight = plan.model.get_input_embeddings().weight
    rows = weight[plan.tokenized.token_ids.astype(np.int64)].detach().float().cpu().numpy()  # [T, d_model]
    entering = plan.one_by_one[EMBEDDINGS]  # [T, d_model]
    scale = float((entering * rows).sum() / (rows * rows).sum())  # least squares
    is_multiple = np.linalg.norm(entering - scale * rows) <= EMBEDDING_TOLERANCE * np.linalg.norm(entering)
    expected = math.sqrt(plan.text_config.hidden_size)
    if plan.is_gemma:
        detail = f"embedding rows times {scale:.2f} enter block 0; √d_model is {expected:.2f}"
        if not is_multiple or abs(scale / expected - 1) > EMBEDDING_TOLERANCE:
            raise ValueError(f"{detail}: {REINSTALL}")
        return Result.OK, detail
    if is_multiple:
        return Result.OK, f"embedding rows times {scale:.2f} enter block 0"
    return Result.OK, "no multiple of the embedding rows enters block 0 (positions or a norm are added)"


@check("hidden states", "model")
def check_hidden_states(plan: Plan) -> tuple[Result, str]:
    import torch
    from residual_stream import decoder_and_blocks

    decoder, blocks = decoder_and_blocks(plan.model)
    last, (limit, _) = len(blocks) - 1, plan.limits
    ours, reference = plan.one_by_one, hidden_states_of_transformers(plan, decoder)
    difference = {layer: relative_difference(ours[layer], reference[layer]) for layer in plan.layers}
    others = [layer for layer in plan.layers if layer != last]
    for layer in others:
        if not difference[layer] <= limit:
            raise ValueError(
                f"after block {layer}, ours differ from transformers' hidden_states by "
                f"{difference[layer]:.1e} (limit {limit:.0e}): {REINSTALL}"
            )
    worst = max((difference[layer] for layer in others), default=0)
    detail = f"differ from transformers' hidden_states by {worst:.1e} at most (limit {limit:.0e})"
    if last not in plan.layers:
        return Result.OK, detail
    norms = [module for module in decoder.children() if "norm" in type(module).__name__.lower()]
    if not norms:
        return Result.WARNING, f"{detail}; no final norm found, so the last layer was not compared"
    with torch.inference_mode():
        normed = norms[-1](torch.from_numpy(ours[last]).to(plan.device, plan.dtype)).float().cpu().numpy()
    normed_difference = relative_difference(normed, reference[last])
    # A norm of weight one leaves what has passed it as it is, so it must also have changed something.
    if difference[last] <= limit or not normed_difference <= limit:
        raise ValueError(
            f"after block {last}, the last one, ours are not the residual stream before the final norm "
            f"(normed, they differ from transformers' by {normed_difference:.1e}): {REINSTALL}"
        )
    return Result.OK, f"{detail}; the last layer is before the final norm"


def hidden_states_of_transformers(plan: Plan, decoder) -> list[np.ndarray]:
    """Return `output_hidden_states` after each block, `[T, d_model]`, one sentence at a time, BOS dropped."""
    import torch

    tokenized = plan.tokenized
    bos = [tokenized.bos_id] if tokenized.bos_id is not None else []
    per_sentence = []
    with torch.inference_mode():
        for ids in np.split(tokenized.token_ids, tokenized.sentence_offsets[1:-1]):
            input_ids = torch.tensor([bos + ids.tolist()], device=plan.device)
            states = decoder(input_ids=input_ids, output_hidden_states=True, use_cache=False).hidden_states
            per_sentence.append([state[0, len(bos) :].float().cpu().numpy() for state in states[1:]])
    return [np.concatenate(layer) for layer in zip(*per_sentence)]


@check("batch against single", "model")
def check_batches(plan: Plan) -> tuple[Result, str]:
    limit, _ = plan.limits
    # np.max, not max: a difference that is not a number must fail.
    worst = np.max([relative_difference(plan.together[key], plan.one_by_one[key]) for key in plan.together])
    lengths = plan.tokenized.n_tokens
    detail = (
        f"{len(SENTENCES)} sentences of {lengths.min()} to {lengths.max()} tokens: residual stream equal to "
        f"{worst:.1e} of its norm (limit {limit:.0e})"
    )
    if not worst <= limit:
        raise ValueError(f"{detail}: padding reaches other tokens; use --batch-tokens 1, or {REINSTALL}")
    return Result.OK, detail


@check("SAE file", "planned SAEs", "SAE access", "disk space")
def check_sae_file(plan: Plan) -> tuple[Result, str]:
    from sae_encoder import read_sae

    if not plan.entries:
        return Result.NOT_CHECKED, "no SAE is planned"
    entry, d_model = plan.entries[0], plan.text_config.hidden_size
    plan.encoder = read_sae(entry, plan.release, d_model, **plan.sae_files)
    return Result.OK, f"{entry.path}: d_in {d_model} as the model's d_model, d_sae {plan.encoder.d_sae}"


@check("SAE, batch against single", "model", "SAE file")
def check_sae_batches(plan: Plan) -> tuple[Result, str]:
    layer, (_, limit) = plan.entries[0].layer, plan.limits
    together, single = plan.fires(plan.together[layer]), plan.fires(plan.one_by_one[layer])
    changed, active = int((together != single).sum()), int(single.sum())
    detail = f"{changed} of {active} active features change (limit {limit:.1%})"
    if changed > limit * active:
        raise ValueError(f"{detail}: use --batch-tokens 1, or --dtype float32")
    return Result.OK, detail


@check("SAE, mean L0", "model", "SAE file")
def check_l0(plan: Plan) -> tuple[Result, str]:
    entry = plan.entries[0]
    measured = plan.fires(plan.one_by_one[entry.layer]).sum(axis=1).mean()
    return Result.OK, f"{measured:.0f} on the built-in sentences, {entry.average_l0} in its name; not judged"


def examine(plan: Plan) -> Iterator[tuple[str, Result, str]]:
    """Run every check whose needs are met; yield name, result and detail of each as it is known."""
    results: dict[str, Result] = {}
    for item in CHECKS:
        missing = [name for name in item.needs if results[name] in (Result.FAILED, Result.NOT_CHECKED)]
        if missing:
            result, detail = Result.NOT_CHECKED, f"needs {missing[0]}"
        else:
            try:
                result, detail = item.run(plan)
            except (ValueError, OSError, ImportError) as error:
                result, detail = Result.FAILED, " ".join(str(error).split())
            except RuntimeError as error:  # PyTorch's: out of memory, no kernel for this dtype
                remedy = "try --device cpu, --dtype float32 or a smaller --batch-tokens"
                result, detail = Result.FAILED, f"{' '.join(str(error).split())}: {remedy}"
        results[item.name] = result
        yield item.name, result, detail


def print_row(name: str, result: str, detail: str) -> None:
    name_width = max(len(item.name) for item in CHECKS)
    result_width = max(map(len, Result))
    before = f"{name:<{name_width}}  {result:<{result_width}}  "
    width = max(60, shutil.get_terminal_size((110, 24)).columns)
    # A word that is longer than the column, a path, stays whole.
    lines = textwrap.wrap(detail, width - len(before), break_long_words=False, break_on_hyphens=False)
    print(before + f"\n{' ' * len(before)}".join(lines), flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Exit status: 0 if no check failed, 1 if one did, 2 for bad arguments or input.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--input", type=Path, help="CSV of the planned run, to estimate its size on disk")
    files.add_argument(
        "--output", type=Path, help="folder of the planned run (default: ./<name of the input>_features)"
    )
    add_source_options(parser)
    add_compute_options(parser)
    return parser


def read_plan(argv: list[str] | None) -> Plan:
    """Return what the arguments plan.

    Raises:
        ValueError, FileNotFoundError: the CSV or the configurations cannot be used, or nothing says which
            SAEs are meant.
    """
    args = build_parser().parse_args(argv)
    if args.output is None and args.input is not None:
        args.output = Path(f"{args.input.stem}_features")
    sentences = read_labelled_sentences(args.input) if args.input is not None else None
    load_from, model_id, config_file, release = resolve_sources(args)

    from sae_encoder import read_configurations

    configurations = read_configurations(config_file)
    return Plan(
        args,
        sentences,
        load_from,
        model_id,
        config_file,
        configurations,
        release=sae_source(release, configurations, config_file),
    )


def main(argv: list[str] | None = None) -> int:
    results = []
    try:
        plan = read_plan(argv)
        print_row("check", "result", "detail")
        with network_forbidden(plan.args.local_files_only):
            for name, result, detail in examine(plan):
                print_row(name, result, detail)
                results.append(result)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error}: {REINSTALL}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(", ".join(f"{results.count(result)} {result}" for result in Result if result in results))
    return 1 if Result.FAILED in results else 0


if __name__ == "__main__":
    sys.exit(main())
