"""Run labelled sentences through a language model and every residual-stream SAE of it, once.

Phase 1 takes the residual stream after all blocks in one forward pass per padded batch; phase 2 loads
each SAE once and encodes all tokens. A file that exists under its final name is complete, so the same
command started again goes on where it stopped.
"""

import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from feature_files import (
    FORMAT_VERSION,
    RESIDUAL_STREAM,
    SCRATCH,
    CsrWriter,
    create_rows,
    finish_rows,
    hidden_states_file,
    library_versions,
    open_folder,
    read_labelled_sentences,
    read_rows,
    residual_stream_file,
    sae_activations_file,
    sentence_groups,
    sha256_of,
    write_arrays,
    write_atomically,
    write_half_if_finite,
    write_json,
    write_rows,
)
from workers import Workers

STAGE = Path(__file__).resolve().parent
DEFAULT_MODEL = "google/gemma-2-2b"
CONFIGURATIONS = {DEFAULT_MODEL: STAGE / "gemma_scope_16k_configurations.json"}
DEMO = STAGE / "demo"
ON_DEVICE_BYTES = 1 << 30  # of a layer's tokens that stay on a GPU for all SAEs of the layer


def layer_list(text: str) -> list[int]:
    """Parse `0-5,12` into `[0, 1, 2, 3, 4, 5, 12]`."""
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of layers such as 0-5,12")
        layers.update(range(int(first), int(last or first) + 1))
    return sorted(layers)


def positive_int(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name model and SAEs; doctor.py takes the same ones."""
    model = parser.add_argument_group("model")
    which = model.add_mutually_exclusive_group()
    which.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"hub id or local folder (default: {DEFAULT_MODEL})"
    )
    which.add_argument(
        "--demo", action="store_true", help="the embedded Gemma 3 270M and its SAEs; needs no hub, no GPU"
    )
    model.add_argument("--revision", help="branch, tag or commit of the model on the hub (default: main)")
    model.add_argument(
        "--local-files-only", action="store_true", help="use the local Hugging Face cache, never the network"
    )
    model.add_argument("--layers", type=layer_list, help="blocks to take, for example 0-5,12 (default: all)")
    saes = parser.add_argument_group("sparse autoencoders")
    saes.add_argument(
        "--config", type=Path, help="configurations JSON (default: the file that belongs to the model)"
    )
    saes.add_argument(
        "--sae-release",
        help="hub repository, sae-lens release or local folder that the paths are relative to",
    )
    saes.add_argument("--sae-revision", help="branch, tag or commit of the SAE repository (default: main)")


def add_compute_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where and how precisely to compute; doctor.py takes the same ones."""
    compute = parser.add_argument_group("computation")
    compute.add_argument(
        "--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="default: auto"
    )
    compute.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of model and SAEs (default: float32)",
    )
    compute.add_argument(
        "--allow-tf32", action="store_true", help="TF32 matrix products on CUDA; changes a few activations"
    )
    compute.add_argument(
        "--batch-tokens", type=positive_int, default=4096, help="padded tokens a forward pass (default: 4096)"
    )
    compute.add_argument(
        "--chunk-tokens", type=positive_int, help="tokens encoded at once (default: 2048 on a CPU, else 8192)"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input", type=Path, required=True, help="CSV with columns sentence,concept_strength_label"
    )
    files.add_argument(
        "--output", type=Path, help="folder to write (default: ./<name of the input>_features)"
    )
    files.add_argument(
        "--overwrite", action="store_true", help="start anew in a folder made with other inputs"
    )
    files.add_argument(
        "--discard-residual-stream",
        action="store_true",
        help="delete the float32 residual stream at the end; adding SAEs later repeats the forward pass",
    )
    add_source_options(parser)
    add_compute_options(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    args = build_parser().parse_args(argv)
    if args.output is None:
        args.output = Path(f"{args.input.stem}_features")
    return args


def resolve_sources(args: argparse.Namespace) -> tuple[str, str, Path, str | None]:
    """Return the model to load, the id recorded for it, the configurations file and the SAE release."""
    if args.demo:
        from demo_model import DEMO_MODEL_ID, demo_model_folder

        return (
            str(demo_model_folder()),
            DEMO_MODEL_ID,
            args.config or DEMO / "demo_configurations.json",
            args.sae_release or str(DEMO),
        )
    config = args.config or CONFIGURATIONS.get(args.model)
    if config is None:
        raise ValueError(
            f"no SAE configurations belong to {args.model}: name a file with --config "
            "(build_configurations.py writes one)"
        )
    return args.model, args.model, config, args.sae_release


def sae_source(release: str | None, configurations, config_file: Path) -> str:
    """Return the folder, hub repository, or for SAEs that sae-lens reads, its release, that holds the SAEs.

    Raises:
        ValueError: neither the option nor the configurations file says.
    """
    named = configurations.release if configurations.uses_sae_lens else configurations.repo_id
    release = release or named
    if release is None:
        raise ValueError(f"{config_file} names no repo_id: say where its SAEs lie with --sae-release")
    if configurations.uses_sae_lens or "/" in release or Path(release).is_dir():
        return release
    from sae_lens_formats import hub_repository

    return hub_repository(release)


def choose_device(name: str, local_rank: int):
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    ):
        raise ValueError(f"--device {name}: PyTorch finds no such device here; use --device cpu or auto")
    return torch.device(name, local_rank % torch.cuda.device_count() if name == "cuda" else None)


def tokens_at_once(args: argparse.Namespace, device) -> int:
    """Return how many tokens are encoded together."""
    return args.chunk_tokens or (2048 if device.type == "cpu" else 8192)


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


@contextmanager
def named_memory_failure(device) -> Iterator[None]:
    """Turn running out of device memory, after all halving, into a ValueError of one line."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{device}: not enough memory ({str(error).splitlines()[0]}); what is finished is kept: "
            "free the device, or use --device cpu"
        ) from error


def peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Job:
    """What a run is to do, read from all inputs but the weights, and this process' part in it."""

    args: argparse.Namespace
    workers: Workers
    laps: Laps
    sentences: pd.DataFrame
    tokenized: object  # TokenizedSentences
    load_from: str  # hub id or folder of the model
    model_id: str  # what run.json calls it
    config: object  # of the model
    entries: list  # the planned SAEs
    sae_files: dict  # where their files lie, for read_sae
    release_id: str  # what run.json calls that: a folder's path would tie the result to this machine
    device: object
    dtype: object

    @property
    def folder(self) -> Path:
        return self.args.output

    @property
    def n_layers(self) -> int:
        return self.config.get_text_config().num_hidden_layers

    @property
    def d_model(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def n_tokens(self) -> int:
        return int(self.tokenized.sentence_offsets[-1])

    @property
    def layers(self) -> list[int]:
        return self.args.layers or list(range(self.n_layers))

    @property
    def chunk_tokens(self) -> int:
        return tokens_at_once(self.args, self.device)

    @property
    def inputs(self) -> dict:
        """What the content of the folder depends on."""
        return {
            "format_version": FORMAT_VERSION,
            "input_sha256": sha256_of(self.args.input),
            "model": self.model_id,
            "model_revision": getattr(self.config, "_commit_hash", None),
            "dtype": self.args.dtype,
            "allow_tf32": self.args.allow_tf32,
        }

    def residual_stream(self, key: int | str) -> Path:
        return self.folder / residual_stream_file(key)


def compute_residual_stream(job: Job, keys: list) -> None:
    """Run the model and write its residual stream in float32. keys: layers, and `EMBEDDINGS` if wanted."""
    from residual_stream import load_weights

    workers = job.workers
    source = {"revision": job.args.revision, "local_files_only": job.args.local_files_only}
    model = workers.first_then_others(
        lambda: load_weights(job.load_from, job.config, dtype=job.dtype, device=job.device, **source)
    )
    job.laps.lap("model")

    def create() -> None:
        for key in keys if workers.is_first else []:
            create_rows(job.residual_stream(key), (job.n_tokens, job.d_model))

    def finish() -> None:
        for key in keys if workers.is_first else []:
            finish_rows(job.residual_stream(key))

    workers.together(create)
    with named_memory_failure(job.device):
        workers.together(lambda: fill_residual_stream(job, model, keys))
    workers.together(finish)
    job.laps.lap("residual stream")


def fill_residual_stream(job: Job, model, keys: list) -> None:
    """Write this process' share of the sentences into the arrays of `keys`, which exist."""
    from residual_stream import EMBEDDINGS, pack_batches, residual_stream_batches
    from tqdm import tqdm

    n_tokens = job.tokenized.n_tokens
    batches = job.workers.share(pack_batches(job.tokenized.n_positions, job.args.batch_tokens))
    total = int(sum(n_tokens[batch].sum() for batch in batches))
    layers = [key for key in keys if key != EMBEDDINGS]
    with tqdm(total=total, unit="token", desc="residual stream", disable=not job.workers.is_first) as bar:
        for rows, states in residual_stream_batches(model, job.tokenized, layers, batches):
            for key in keys:
                values = states[key].numpy()  # [len(rows), d_model] float32
                if not np.isfinite(values).all():
                    where = key if key == EMBEDDINGS else f"layer {key}"
                    raise ValueError(
                        f"the model's {where} is not finite: its values overflow this dtype; "
                        "use --dtype float32 or bfloat16"
                    )
                write_rows(job.residual_stream(key), rows, values)
            bar.update(len(rows))


def write_dense_arrays(job: Job, layers: list[int], with_embeddings: bool) -> None:
    """Write this process' share of the hidden states and, the first process, the embeddings."""
    from residual_stream import EMBEDDINGS

    if job.workers.is_first and with_embeddings:
        source = job.residual_stream(EMBEDDINGS)
        write_half_if_finite(job.folder / "embeddings.npz", "embeddings", source)
        source.unlink()
    for layer in job.workers.share(layers):
        target = job.folder / hidden_states_file(layer)
        write_half_if_finite(target, "hidden_states", job.residual_stream(layer))
    job.laps.lap("hidden states")


def layer_tokens(path: Path, device, dtype, most_bytes: int) -> Callable:
    """Return a function of start and stop that gives `[stop - start, d_model]` of a residual stream file.

    A file of up to `most_bytes` is read and copied to the device once, for all SAEs of the layer.
    """
    import torch

    def read(start: int | None, stop: int | None):
        return torch.from_numpy(read_rows(path, start, stop)).to(device=device, dtype=dtype)

    if path.stat().st_size > most_bytes:
        return read
    whole = read(None, None)
    return lambda start, stop: whole[start:stop]


def summary_file(folder: Path, entry) -> Path:
    name = Path(sae_activations_file(entry.layer, entry.average_l0)).stem
    return folder / SCRATCH / f"{name}.json"


def encode_saes(job: Job, entries: list) -> None:
    """Encode this process' share of the SAEs and write their CSR files, each after a summary for run.json.

    While one is computed, the next ones are read and the one before is written.
    """
    import torch
    from sae_encoder import READERS, encode, prefetch, read_sae
    from tqdm import tqdm

    on_cpu = job.device.type == "cpu"
    if job.device.type == "cuda":
        torch.cuda.empty_cache()  # the model is gone: the SAEs have the device for themselves
    mine = job.workers.share(entries)
    read = partial(read_sae, d_model=job.d_model, **job.sae_files)
    encoders = prefetch(mine, read, job.d_model, readers=1 if on_cpu else READERS)
    most_bytes = 0 if on_cpu else ON_DEVICE_BYTES
    tokens_of = lru_cache(1)(partial(layer_tokens, device=job.device, dtype=job.dtype, most_bytes=most_bytes))
    memory: list = []

    def write(entry, rows: CsrWriter, digest: str) -> None:
        summary = {
            "sae_id": entry.path,
            "sae_release": job.release_id,
            "d_sae": rows.n_columns,
            "measured_l0": round(rows.n_values / rows.n_rows, 3),
            "share_of_features_firing": round(float(rows.fires.mean()), 5),
            "encoder_sha256": digest,
        }
        write_json(summary_file(job.folder, entry), summary)
        rows.write(job.folder / sae_activations_file(entry.layer, entry.average_l0))
        rows.close()
        bar.update()

    with (
        named_memory_failure(job.device),
        tqdm(total=len(mine), unit="SAE", desc="SAEs", disable=not (mine and job.workers.is_first)) as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        written = None
        for entry, encoder, digest in encoders:
            rows = CsrWriter(encoder.d_sae, job.folder / SCRATCH)
            tokens = tokens_of(job.residual_stream(entry.layer))
            on_device = encoder.to(job.device, job.dtype)
            for chunk in encode(tokens, job.n_tokens, on_device, job.chunk_tokens, memory):
                rows.append(*chunk)
            if written is not None:
                written.result()
            written = writer.submit(write, entry, rows, digest)
        if written is not None:
            written.result()
    job.laps.lap("SAEs")


def describe_saes(folder: Path, entries, before: list[dict]) -> list[dict]:
    """Return run.json's list of SAEs: those of this run and, in a folder that grew, those of earlier ones."""
    known = {entry["file"]: entry for entry in before}
    for entry in entries:
        name = sae_activations_file(entry.layer, entry.average_l0)
        summary = summary_file(folder, entry)
        if summary.exists():
            known[name] = {
                "layer": entry.layer,
                "average_l0": entry.average_l0,
                "neuronpedia_id": entry.neuronpedia_id,
                "file": name,
                **json.loads(summary.read_text(encoding="utf-8")),
            }
    first: dict[str, str] = {}
    described = [
        known[name]
        for name in sorted(known, key=lambda name: (known[name]["layer"], known[name]["average_l0"]))
    ]
    for sae in described:
        sae.pop("duplicate_of", None)
        earlier = first.setdefault(sae["encoder_sha256"], sae["sae_id"])
        if earlier != sae["sae_id"]:
            sae["duplicate_of"] = earlier
    return described


def select_entries(configurations, layers: list[int] | None, n_layers: int, config: Path) -> list:
    """Return the configured SAEs on the chosen layers, layer by layer.

    Raises:
        ValueError: a chosen layer or a configured SAE lies beyond the model's last block.
    """
    if layers and layers[-1] >= n_layers:
        raise ValueError(f"--layers: the model has layers 0 to {n_layers - 1}, not {layers[-1]}")
    beyond = [entry for entry in configurations.saes if entry.layer >= n_layers]
    if beyond:
        raise ValueError(
            f"{config}: {beyond[0].path} is on layer {beyond[0].layer}, "
            f"the model has layers 0 to {n_layers - 1}"
        )
    chosen = [entry for entry in configurations.saes if layers is None or entry.layer in layers]
    return sorted(chosen, key=lambda entry: (entry.layer, entry.average_l0))


def write_tables(folder: Path, sentences: pd.DataFrame, tokenized) -> None:
    table = sentences.copy()
    table.insert(0, "sentence_index", np.arange(len(table)))
    table.insert(3, "n_tokens", tokenized.n_tokens)
    table["group"] = sentence_groups(sentences)
    write_atomically(
        folder / "sentences.csv", lambda part: table.to_csv(part, index=False, lineterminator="\n")
    )
    write_arrays(
        folder / "tokens.npz",
        token_ids=tokenized.token_ids,
        tokens=tokenized.tokens,
        sentence_offsets=tokenized.sentence_offsets,
    )


def missing_files(job: Job, earlier: list[dict]) -> tuple[list[int], list]:
    """Return the layers without hidden states and the SAEs without activations or without their summary.

    Raises:
        ValueError: a file of that layer and L0 is there, but of another SAE.
    """
    described = {sae["file"]: sae for sae in earlier}
    missing_layers = [k for k in job.layers if not (job.folder / hidden_states_file(k)).exists()]
    missing_saes = []
    for entry in job.entries:
        name = sae_activations_file(entry.layer, entry.average_l0)
        summary = summary_file(job.folder, entry)
        if summary.exists():
            described[name] = json.loads(summary.read_text(encoding="utf-8"))
        if not (job.folder / name).exists() or name not in described:
            missing_saes.append(entry)
            continue
        there = (described[name]["sae_release"], described[name]["sae_id"])
        if there != (job.release_id, entry.path):
            raise ValueError(
                f"{job.folder / name} holds {there[1]} of {there[0]}, this run wants {entry.path} of "
                f"{job.release_id}, whose file has the same name: choose another --output"
            )
    return missing_layers, missing_saes


def prepare(args: argparse.Namespace, workers: Workers) -> Job:
    """Read all inputs but the weights.

    Raises:
        ValueError, FileNotFoundError: an input is missing or wrong; the message says which and why.
    """
    laps = Laps()
    sentences = read_labelled_sentences(args.input)
    load_from, model_id, config_file, release = workers.first_then_others(lambda: resolve_sources(args))

    import torch
    from residual_stream import read_config, tokenize
    from sae_encoder import read_configurations

    configurations = read_configurations(config_file)
    sae_files = {
        "release": sae_source(release, configurations, config_file),
        "uses_sae_lens": configurations.uses_sae_lens,
        "local_files_only": args.local_files_only,
        "revision": args.sae_revision,
    }
    device, dtype = choose_device(args.device, workers.local_rank), getattr(torch, args.dtype)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.allow_tf32
    config, tokenizer = workers.first_then_others(
        lambda: read_config(load_from, revision=args.revision, local_files_only=args.local_files_only)
    )
    text_config = config.get_text_config()
    entries = select_entries(configurations, args.layers, text_config.num_hidden_layers, config_file)
    if workers.is_first and not Path(load_from).is_dir() and configurations.model != model_id:
        print(f"note: {config_file} is for {configurations.model}, the model is {model_id}", file=sys.stderr)
    return Job(
        args=args,
        workers=workers,
        laps=laps,
        sentences=sentences,
        tokenized=tokenize(sentences["sentence"], tokenizer, text_config.max_position_embeddings),
        load_from=load_from,
        model_id=model_id,
        config=config,
        entries=entries,
        sae_files=sae_files,
        release_id=args.sae_release or configurations.release,
        device=device,
        dtype=dtype,
    )


def extract(job: Job) -> str:
    """Do what the folder lacks, or this process' share of it; return the closing line."""
    from residual_stream import EMBEDDINGS
    from sae_encoder import require_saes

    folder, workers, run_file = job.folder, job.workers, job.folder / "run.json"

    def open_and_write_tables() -> None:
        if workers.is_first:
            open_folder(folder, job.inputs, job.args.overwrite)
            if not (folder / "sentences.csv").exists() or not (folder / "tokens.npz").exists():
                write_tables(folder, job.sentences, job.tokenized)

    workers.together(open_and_write_tables)
    before = {"saes": [], "runs": []}
    if run_file.exists():
        before = json.loads(run_file.read_text(encoding="utf-8"))
    missing_layers, missing_saes = missing_files(job, before["saes"])
    if missing_saes:
        require_saes(missing_saes, **job.sae_files)
    lacks_embeddings = not (folder / "embeddings.npz").exists()
    wanted = sorted({*missing_layers, *(entry.layer for entry in missing_saes)})
    keys = [EMBEDDINGS, *wanted] if lacks_embeddings else wanted
    is_unfinished = bool(keys) or not run_file.exists() or (folder / SCRATCH).exists()
    to_compute = [key for key in keys if not job.residual_stream(key).exists()]

    # Each process has read what is there before the first one changes it.
    workers.together(lambda: None)
    if to_compute:
        compute_residual_stream(job, to_compute)
    if is_unfinished:

        def write_files() -> None:
            (folder / SCRATCH).mkdir(exist_ok=True)
            write_dense_arrays(job, missing_layers, lacks_embeddings)
            encode_saes(job, missing_saes)

        workers.together(write_files)
        if workers.is_first:
            write_json(run_file, describe_run(job, before, missing_layers, missing_saes))
            shutil.rmtree(folder / SCRATCH)
    if workers.is_first and job.args.discard_residual_stream:
        shutil.rmtree(folder / RESIDUAL_STREAM, ignore_errors=True)
    return (
        f"{folder}: {len(job.sentences)} sentences, {job.n_tokens} tokens, {len(job.layers)} layers, "
        f"{len(job.entries)} SAEs ({len(missing_layers)} layers and {len(missing_saes)} SAEs new) in "
        f"{job.laps.total:.0f} s on {job.device}"
    )


def describe_run(job: Job, before: dict, new_layers: list[int], new_saes: list) -> dict:
    """Return what run.json says of the folder: all it holds, and each run that added to it."""
    import torch

    arguments = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(job.args).items()
    }
    on_cuda = job.device.type == "cuda"
    this_run = {
        "arguments": arguments,
        "device": str(job.device),
        "chunk_tokens": job.chunk_tokens,
        "processes": job.workers.size,
        "seconds": job.laps.total,
        "seconds_by_phase": job.laps.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_bytes": torch.cuda.max_memory_allocated(job.device) if on_cuda else None,
        "new_layers": new_layers,
        "new_saes": len(new_saes),
    }
    return {
        **job.inputs,
        "d_model": job.d_model,
        "n_layers": job.n_layers,
        "layers": [k for k in range(job.n_layers) if (job.folder / hidden_states_file(k)).exists()],
        "n_sentences": len(job.sentences),
        "n_tokens": job.n_tokens,
        "input": str(job.args.input),
        "bos": job.tokenized.bos_id is not None,
        "saes": describe_saes(job.folder, job.entries, before["saes"]),
        "libraries": library_versions(),
        "arguments": arguments,
        "runs": [*before["runs"], this_run],
    }


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    workers = Workers.from_environment()
    from hub_files import network_forbidden

    try:
        with network_forbidden(args.local_files_only):
            closing_line = extract(prepare(args, workers))
    except (ValueError, OSError) as error:
        if workers.is_first:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on in {args.output}", file=sys.stderr)
        return 130
    finally:
        workers.leave()
    if workers.is_first:
        print(closing_line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
