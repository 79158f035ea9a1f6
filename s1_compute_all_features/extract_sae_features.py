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
CHUNK_TOKENS = {"cpu": 1024}  # encoded at once, where the option does not say
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
        "--chunk-tokens", type=positive_int, help="tokens encoded at once (default: 1024 on a CPU, else 8192)"
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


def fill_residual_stream(
    model, tokenized, folder: Path, keys: list, batch_tokens: int, workers: Workers
) -> None:
    """Write this process' share of the residual stream into arrays that exist. keys: layers, `EMBEDDINGS`."""
    from residual_stream import EMBEDDINGS, pack_batches, residual_stream_batches
    from tqdm import tqdm

    batches = workers.share(pack_batches(tokenized.n_positions, batch_tokens))
    total = int(sum(tokenized.n_tokens[batch].sum() for batch in batches))
    layers = [key for key in keys if key != EMBEDDINGS]
    with tqdm(total=total, unit="token", desc="residual stream", disable=not workers.is_first) as bar:
        for rows, states in residual_stream_batches(model, tokenized, layers, batches):
            for key in keys:
                values = states[key].numpy()  # [len(rows), d_model] float32
                if not np.isfinite(values).all():
                    where = key if key == EMBEDDINGS else f"layer {key}"
                    raise ValueError(
                        f"the model's {where} is not finite: its values overflow this dtype; "
                        "use --dtype float32 or bfloat16"
                    )
                write_rows(folder / residual_stream_file(key), rows, values)
            bar.update(len(rows))


def layer_tokens(path: Path, device, dtype, most_bytes: int) -> Callable:
    """Return a function of start and stop that gives `[stop - start, d_model]` of a residual stream file.

    A file of up to `most_bytes` is read and copied to the device once, for all SAEs of the layer.
    """
    import torch

    def read(start: int | None, stop: int | None):
        # Mapped anew for each chunk, so that pages read earlier do not stay mapped.
        rows = np.array(np.load(path, mmap_mode="r")[start:stop])
        return torch.from_numpy(rows).to(device=device, dtype=dtype)

    if path.stat().st_size > most_bytes:
        return read
    whole = read(None, None)
    return lambda start, stop: whole[start:stop]


def summary_file(folder: Path, entry) -> Path:
    name = Path(sae_activations_file(entry.layer, entry.average_l0)).stem
    return folder / SCRATCH / f"{name}.json"


def encode_saes(encoders: Iterator, total: int, encode_rows: Callable, release_id: str, folder: Path, show):
    """Encode `total` SAEs and write their CSR files, each after a summary for run.json in scratch/.

    A file is written while the next SAE is computed. encoders: yields `(entry, encoder, digest)`;
    encode_rows: makes an iterator of CSR rows of an entry and its encoder.
    """
    from tqdm import tqdm

    def write(entry, rows: CsrWriter, digest: str) -> None:
        summary = {
            "sae_id": entry.path,
            "sae_release": release_id,
            "d_sae": rows.n_columns,
            "measured_l0": round(rows.n_values / rows.n_rows, 3),
            "share_of_features_firing": round(float(rows.fires.mean()), 5),
            "encoder_sha256": digest,
        }
        write_json(summary_file(folder, entry), summary)
        rows.write(folder / sae_activations_file(entry.layer, entry.average_l0))
        rows.close()
        bar.update()

    with (
        tqdm(total=total, unit="SAE", desc="SAEs", disable=not (total and show)) as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        written = None
        for entry, encoder, digest in encoders:
            rows = CsrWriter(encoder.d_sae, folder / SCRATCH)
            for chunk in encode_rows(entry, encoder):
                rows.append(*chunk)
            if written is not None:
                written.result()
            written = writer.submit(write, entry, rows, digest)
        if written is not None:
            written.result()


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


def missing_files(
    folder: Path, layers: list[int], entries, release: str, earlier: list[dict]
) -> tuple[list[int], list]:
    """Return the layers without hidden states and the SAEs without activations or without their summary.

    Raises:
        ValueError: a file of that layer and L0 is there, but of another SAE.
    """
    described = {sae["file"]: sae for sae in earlier}
    missing_layers = [layer for layer in layers if not (folder / hidden_states_file(layer)).exists()]
    missing_saes = []
    for entry in entries:
        name = sae_activations_file(entry.layer, entry.average_l0)
        summary = summary_file(folder, entry)
        if summary.exists():
            described[name] = json.loads(summary.read_text(encoding="utf-8"))
        if not (folder / name).exists() or name not in described:
            missing_saes.append(entry)
            continue
        there = (described[name]["sae_release"], described[name]["sae_id"])
        if there != (release, entry.path):
            raise ValueError(
                f"{folder / name} holds {there[1]} of {there[0]}, this run wants {entry.path} of {release}, "
                "whose file has the same name: choose another --output"
            )
    return missing_layers, missing_saes


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


def extract(args: argparse.Namespace, workers: Workers) -> str:
    """Do the whole run, or this process' share of it; return the closing line."""
    laps = Laps()
    sentences = read_labelled_sentences(args.input)
    load_from, model_id, config_file, release = workers.first_then_others(lambda: resolve_sources(args))

    import torch
    from residual_stream import EMBEDDINGS, load_weights, read_config, tokenize
    from sae_encoder import READERS, encode, prefetch, read_configurations, read_sae, require_saes

    configurations = read_configurations(config_file)
    # What run.json names: a folder's path would tie the result to this machine.
    release_id = args.sae_release or configurations.release
    release = sae_source(release, configurations, config_file)
    device, dtype = choose_device(args.device, workers.local_rank), getattr(torch, args.dtype)
    chunk_tokens = args.chunk_tokens or CHUNK_TOKENS.get(device.type, 8192)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.allow_tf32

    source = {"revision": args.revision, "local_files_only": args.local_files_only}
    config, tokenizer = workers.first_then_others(lambda: read_config(load_from, **source))
    text_config = config.get_text_config()
    n_layers, d_model = text_config.num_hidden_layers, text_config.hidden_size
    entries = select_entries(configurations, args.layers, n_layers, config_file)
    if workers.is_first and not Path(load_from).is_dir() and configurations.model != model_id:
        print(f"note: {config_file} is for {configurations.model}, the model is {model_id}", file=sys.stderr)
    layers = args.layers or list(range(n_layers))
    tokenized = tokenize(sentences["sentence"], tokenizer, text_config.max_position_embeddings)
    n_tokens = int(tokenized.sentence_offsets[-1])

    folder: Path = args.output
    inputs = {
        "format_version": FORMAT_VERSION,
        "input_sha256": sha256_of(args.input),
        "model": model_id,
        "model_revision": getattr(config, "_commit_hash", None),
        "dtype": args.dtype,
        "allow_tf32": args.allow_tf32,
    }

    def prepare() -> None:
        if workers.is_first:
            open_folder(folder, inputs, args.overwrite)
            if not (folder / "sentences.csv").exists() or not (folder / "tokens.npz").exists():
                write_tables(folder, sentences, tokenized)

    workers.together(prepare)
    run_file = folder / "run.json"
    before = (
        json.loads(run_file.read_text(encoding="utf-8")) if run_file.exists() else {"saes": [], "runs": []}
    )
    missing_layers, missing_saes = missing_files(folder, layers, entries, release_id, before["saes"])
    sae_files = {
        "uses_sae_lens": configurations.uses_sae_lens,
        "local_files_only": args.local_files_only,
        "revision": args.sae_revision,
    }
    if missing_saes:
        require_saes(missing_saes, release, **sae_files)
    needed = sorted({*missing_layers, *(entry.layer for entry in missing_saes)})
    has_embeddings = (folder / "embeddings.npz").exists()
    keys = needed if has_embeddings else [EMBEDDINGS, *needed]
    missing_keys = [key for key in keys if not (folder / residual_stream_file(key)).exists()]
    is_unfinished = bool(keys) or not run_file.exists() or (folder / SCRATCH).exists()

    # Each process has read what is there before the first one changes it.
    workers.together(lambda: None)
    if missing_keys:
        model = workers.first_then_others(
            lambda: load_weights(load_from, config, dtype=dtype, device=device, **source)
        )
        laps.lap("model")

        def create() -> None:
            for key in missing_keys if workers.is_first else []:
                create_rows(folder / residual_stream_file(key), (n_tokens, d_model))

        def finish() -> None:
            for key in missing_keys if workers.is_first else []:
                finish_rows(folder / residual_stream_file(key))

        workers.together(create)
        with named_memory_failure(device):
            workers.together(
                partial(
                    fill_residual_stream, model, tokenized, folder, missing_keys, args.batch_tokens, workers
                )
            )
        workers.together(finish)
        del model  # the SAE phase has the device for itself
        if device.type == "cuda":
            torch.cuda.empty_cache()
        laps.lap("residual stream")

    def write_share() -> None:
        (folder / SCRATCH).mkdir(exist_ok=True)
        if workers.is_first and not has_embeddings:
            source_file = folder / residual_stream_file(EMBEDDINGS)
            write_half_if_finite(folder / "embeddings.npz", "embeddings", source_file)
            source_file.unlink()
        for layer in workers.share(missing_layers):
            source_file = folder / residual_stream_file(layer)
            write_half_if_finite(folder / hidden_states_file(layer), "hidden_states", source_file)
        laps.lap("hidden states")
        mine = workers.share(missing_saes)
        readers = 1 if device.type == "cpu" else READERS
        encoders = prefetch(
            mine, partial(read_sae, release=release, d_model=d_model, **sae_files), d_model, readers
        )
        most_bytes = 0 if device.type == "cpu" else ON_DEVICE_BYTES
        tokens_of = lru_cache(1)(partial(layer_tokens, device=device, dtype=dtype, most_bytes=most_bytes))

        def encode_rows(entry, encoder) -> Iterator[tuple]:
            tokens = tokens_of(folder / residual_stream_file(entry.layer))
            return encode(tokens, n_tokens, encoder.to(device, dtype), chunk_tokens)

        with named_memory_failure(device):
            encode_saes(encoders, len(mine), encode_rows, release_id, folder, show=workers.is_first)
        laps.lap("SAEs")

    if is_unfinished:
        workers.together(write_share)
    if is_unfinished and workers.is_first:
        arguments = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
        }
        this_run = {
            "arguments": arguments,
            "device": str(device),
            "processes": workers.size,
            "seconds": laps.total,
            "seconds_by_phase": laps.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "peak_device_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "new_layers": missing_layers,
            "new_saes": len(missing_saes),
        }
        run = {
            **inputs,
            "d_model": d_model,
            "n_layers": n_layers,
            "layers": [k for k in range(n_layers) if (folder / hidden_states_file(k)).exists()],
            "n_sentences": len(sentences),
            "n_tokens": n_tokens,
            "input": str(args.input),
            "bos": tokenized.bos_id is not None,
            "saes": describe_saes(folder, entries, before["saes"]),
            "libraries": library_versions(),
            "arguments": arguments,
            "runs": [*before["runs"], this_run],
        }
        write_json(run_file, run)
        shutil.rmtree(folder / SCRATCH)
    if workers.is_first and args.discard_residual_stream:
        shutil.rmtree(folder / RESIDUAL_STREAM, ignore_errors=True)
    return (
        f"{folder}: {len(sentences)} sentences, {n_tokens} tokens, {len(layers)} layers, {len(entries)} SAEs "
        f"({len(missing_layers)} layers and {len(missing_saes)} SAEs new) in {laps.total:.0f} s on {device}"
    )


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    workers = Workers.from_environment()
    try:
        closing_line = extract(args, workers)
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
