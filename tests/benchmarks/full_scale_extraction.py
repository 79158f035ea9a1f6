"""Time s1 at Gemma 2 2B's true shape, beside what the same machine needs for the bare work.

    full_scale_extraction.py --work DIR              1,000 sentences, 26 blocks, 135 SAEs of 2,304 x 16,384
    full_scale_extraction.py --work DIR --scale 0.1  100 sentences, 3 blocks, 14 SAEs; and the extrapolation
    full_scale_extraction.py --work DIR --sentences 1000 --layers 1 --saes 3 --vocabulary 16000
    full_scale_extraction.py --work DIR --growth     100, 1,000 and 10,000 sentences, one block, one SAE
    full_scale_extraction.py --work DIR --processes 2          a second run by torchrun: the same bytes?
    full_scale_extraction.py --work DIR --compare-precision    float32, TF32 and bfloat16 on CUDA
    full_scale_extraction.py --work DIR --encoder-pairs 6      besides, both encoders in turn on six SAEs

Weights and SAEs are random; their shapes are true. DIR keeps them for the next call: at full size 11 GB of
model and 20 GB of SAEs, and beside it 12 GB of output. The sentences are the project's own; beyond 2,080 of
them, halves of two are joined, which is input for a benchmark and nothing else.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
import transformers
from encoder_pairs import compare_encoders
from full_scale_inputs import D_MODEL, D_SAE, STAGE, TOKENIZER_SIZE, Inputs, make_inputs
from hardware_floors import (
    best_seconds,
    child_environment,
    copying_rate,
    forget,
    import_seconds,
    product_seconds,
    reading_rate,
    writing_rate,
)

FULL_SENTENCES, FULL_LAYERS, FULL_SAES, FULL_VOCABULARY = 1000, 26, 135, 256_000
PHASES = ("model", "residual stream", "hidden states", "SAEs")
GIB = 2**30


# Running the command


@dataclass(frozen=True)
class Run:
    """One finished run of the command."""

    folder: Path
    wall: float  # seconds of the whole process, start-up included
    record: dict  # run.json
    seconds: dict[str, float]  # by phase

    @property
    def last(self) -> dict:
        return self.record["runs"][-1]

    @property
    def n_tokens(self) -> int:
        return self.record["n_tokens"]


def run_command(
    inputs: Inputs, output: Path, args: argparse.Namespace, *more: str, processes: int = 1
) -> Run:
    """Run extract_sae_features.py into an empty `output`, the inputs dropped from memory unless --warm."""
    shutil.rmtree(output, ignore_errors=True)
    if not args.warm:
        forget(inputs.cached_files())
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [str(STAGE / "extract_sae_features.py"), "--input", str(inputs.sentences)]
    command += ["--output", str(output), "--model", str(inputs.model), "--config", str(inputs.config)]
    command += ["--sae-release", str(inputs.saes), "--device", args.device.type]
    command += more or precision_options(args)
    if args.encoder:
        command += ["--encoder", args.encoder]
    if args.chunk_tokens:
        command += ["--chunk-tokens", str(args.chunk_tokens)]
    log = args.work / "command.log"
    started = time.perf_counter()
    with log.open("w") as stream:
        environment = child_environment(args.work)
        status = subprocess.run(command, stdout=stream, stderr=stream, env=environment).returncode
    wall = time.perf_counter() - started
    if status != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise ChildProcessError(f"{' '.join(command)}\nended with status {status}:\n{tail}")
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return Run(output, wall, record, record["runs"][-1]["seconds_by_phase"])


def precision_options(args: argparse.Namespace) -> list[str]:
    return ["--dtype", args.dtype, *(["--allow-tf32"] if args.allow_tf32 else [])]


@contextmanager
def smaller_card(gigabytes: float | None) -> Iterator[None]:
    """Leave only so much of the CUDA device's memory to the command, by holding the rest in this process."""
    if gigabytes is None:
        yield
        return
    ballast = torch.empty(0, dtype=torch.uint8, device="cuda")  # takes this process' own share first
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(0, int(free - gigabytes * 1e9)), dtype=torch.uint8, device="cuda")
    print(f"{ballast.nbytes / 1e9:.1f} GB of the device held back, {gigabytes:g} GB left to the command")
    try:
        yield
    finally:
        del ballast
        torch.cuda.empty_cache()


# Reports


def forward_seconds(inputs: Inputs, run: Run, args: argparse.Namespace) -> float:
    """Seconds of the decoder alone, without hooks, on the run's batches; on a CPU from two of them."""
    from language_model.model_source import load_model
    from language_model.residual_stream import decoder_and_blocks
    from language_model.tokens import pack_batches

    model, _ = load_model(str(inputs.model), dtype=getattr(torch, args.dtype), device=args.device)
    decoder, _ = decoder_and_blocks(model)
    lengths = pd.read_csv(run.folder / "sentences.csv")["n_tokens"].to_numpy() + 1  # [n], BOS included
    batches = pack_batches(lengths, run.last["arguments"]["batch_tokens"])
    if args.device.type == "cpu" and len(batches) > 2:
        batches = [batches[len(batches) // 3], batches[2 * len(batches) // 3]]
    padded = []
    for batch in batches:
        positions = torch.arange(lengths[batch].max())
        mask = (positions < torch.from_numpy(lengths[batch])[:, None]).long()  # [batch, position]
        ids = torch.randint(TOKENIZER_SIZE, mask.shape)
        padded.append((ids.to(args.device), mask.to(args.device)))

    @torch.inference_mode()
    def forward() -> None:
        for ids, mask in padded:
            decoder(input_ids=ids, attention_mask=mask, use_cache=False)

    seconds = best_seconds(forward, args.device, repeats=1)
    return seconds * lengths.sum() / sum(lengths[batch].sum() for batch in batches)


def folder_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def describe_machine(device: torch.device) -> str:
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    versions = {"torch": torch, "transformers": transformers, "numpy": np, "scipy": scipy}
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory:.0f} GiB"
        f"{gpu}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
        + time.strftime("; %Y-%m-%d")
    )


def gib(n_bytes: float | None) -> str:
    return "-" if n_bytes is None else f"{n_bytes / GIB:.2f} GiB"


def report(inputs: Inputs, run: Run, start_up: float, args: argparse.Namespace) -> None:
    """Print phases, rates, sizes, the floors and, of a smaller run, the extrapolation."""
    n_saes = len(inputs.files)
    cold = not args.warm and forget(inputs.files[:1])
    read = {"model": sum(file.stat().st_size for file in inputs.model.glob("*.safetensors"))}
    read["SAEs"] = inputs.encoder_bytes * n_saes
    written = {
        "residual stream": folder_bytes(run.folder / "residual_stream"),
        "hidden states": folder_bytes(run.folder / "hidden_states"),
        "SAEs": folder_bytes(run.folder / "sae_activations"),
    }
    print(
        f"\n{run.n_tokens:,} tokens, {run.n_tokens / inputs.n_sentences:.1f} a sentence; whole command "
        f"{run.wall:.1f} s, {run.n_tokens / run.wall:,.0f} tokens/s; inputs {'cold' if cold else 'warm'}"
    )
    print(
        f"{'phase':18s}{'s':>9s}{'tokens/s':>11s}{'MB read':>10s}{'MB/s':>8s}{'MB written':>12s}{'MB/s':>8s}"
    )
    for phase in PHASES:
        seconds = max(run.seconds[phase], 1e-3)
        traffic = ""
        for width, n_bytes in ((10, read.get(phase, 0)), (12, written.get(phase, 0))):
            traffic += f"{n_bytes / 1e6:{width},.0f}{n_bytes / 1e6 / seconds:8,.0f}"
        print(f"{phase:18s}{seconds:9.1f}{run.n_tokens / seconds:11,.0f}{traffic}")
    rest = run.wall - sum(run.seconds[phase] for phase in PHASES)
    print(f"{'rest':18s}{rest:9.1f}")
    nominal = np.mean([sae["average_l0"] for sae in run.record["saes"]])
    measured = np.mean([sae["measured_l0"] for sae in run.record["saes"]])
    found = [sae["candidates_per_firing"] for sae in run.record["saes"] if sae["candidates_per_firing"]]
    candidates = f", candidates per firing {np.mean(found):.2f}" if found else ""
    print(f"{run.record['encoder']} encoder; mean L0 {measured:.1f}, nominal {nominal:.1f}{candidates}")
    main_memory, on_device = run.last["peak_memory_bytes"], run.last["peak_device_bytes"]
    print(f"peak main memory {gib(main_memory)}, peak device memory {gib(on_device)}")
    sizes = {path.name: folder_bytes(path) / 1e6 for path in sorted(run.folder.iterdir())}
    print("output in MB:", ", ".join(f"{name} {size:,.1f}" for name, size in sizes.items() if size >= 0.1))

    dtype = getattr(torch, args.dtype)
    chunk = min(run.last["chunk_tokens"], run.n_tokens)
    square = 8192 if args.device.type == "cuda" else 4096
    peak = (
        2 * square**3 / product_seconds(square, square, square, args.device, dtype)
    )  # floating point operations/s
    one_sae = product_seconds(chunk, D_MODEL, D_SAE, args.device, dtype) * run.n_tokens / chunk
    encode_flops = 2 * run.n_tokens * D_MODEL * D_SAE * n_saes
    print(
        f"\n{args.dtype}{' with TF32' if args.allow_tf32 else ''} matrix products: peak "
        f"{peak / 1e12:.3f} TFLOP/s (square, {square:,}); encode phase reaches "
        f"{encode_flops / run.seconds['SAEs'] / peak:.1%} of it, products of its shape alone "
        f"{encode_flops / n_saes / one_sae / peak:.1%} ({chunk:,} tokens at once)"
    )
    sample = list({os.stat(file).st_ino: file for file in inputs.files}.values())[:4]
    rate_cold, rate_warm = (reading_rate(sample, inputs.encoder_bytes, cold=c) for c in (cold, False))
    on_device = args.device.type == "cuda"
    copying = copying_rate(inputs.encoder_bytes, args.device)
    writing = writing_rate(args.work, sum(written.values()))
    first_read = "cold" if cold else "warm"
    floors = [
        ("model", "import libraries", start_up),
        ("model", f"read checkpoint, {first_read}", read["model"] / rate_cold),
        ("residual stream", "decoder alone", forward_seconds(inputs, run, args)),
        ("residual stream", "write", written["residual stream"] / writing),
        ("hidden states", "write", written["hidden states"] / writing),
        ("SAEs", "matrix products", one_sae * n_saes),
        ("SAEs", f"read encoders, {first_read}", read["SAEs"] / rate_cold),
        *([("SAEs", "read encoders, warm", read["SAEs"] / rate_warm)] if cold else []),
        *([("SAEs", "copy to device", read["SAEs"] / copying)] if on_device else []),
        ("SAEs", "write", written["SAEs"] / writing),
    ]
    print(
        f"GB/s: reading {rate_cold / 1e9:.2f} {first_read}, {rate_warm / 1e9:.2f} warm; "
        + (f"copying to the device {copying / 1e9:.1f}; " if on_device else "")
        + f"writing {writing / 1e9:.2f} without fsync"
    )
    print(f"\n{'phase':18s}{'floor':24s}{'floor s':>9s}{'ours s':>9s}{'ratio':>12s}")
    for phase, name, seconds in floors:
        ratio = f"{run.seconds[phase] / seconds:,.2f}" if seconds > 0 else "-"
        print(f"{phase:18s}{name:24s}{seconds:9.2f}{run.seconds[phase]:9.2f}{ratio:>12s}")
    if (inputs.n_sentences, inputs.n_layers, n_saes) != (FULL_SENTENCES, FULL_LAYERS, FULL_SAES):
        extrapolate(inputs, run, start_up)


def extrapolate(inputs: Inputs, run: Run, start_up: float) -> None:
    tokens = FULL_SENTENCES / inputs.n_sentences
    layers, saes = FULL_LAYERS / inputs.n_layers, FULL_SAES / len(inputs.files)
    embedding, *blocks, _ = sorted(inputs.model.glob("*.safetensors"))
    embedding_bytes, block_bytes = embedding.stat().st_size, blocks[0].stat().st_size
    full_bytes = embedding_bytes * FULL_VOCABULARY / inputs.vocabulary + block_bytes * FULL_LAYERS
    factors = {
        "model": full_bytes / (embedding_bytes + block_bytes * inputs.n_layers),
        "residual stream": tokens * layers,
        "hidden states": tokens * layers,
        "SAEs": tokens * saes,
    }
    print(
        f"\nEXTRAPOLATED, not measured: {FULL_SENTENCES:,} sentences, {FULL_LAYERS} blocks, {FULL_SAES} SAEs."
        "\nThe model by its bytes, the others by tokens and blocks or SAEs, which is too much where reading,"
        "\nwhich does not grow with the tokens, bounds a small run."
    )
    loading = run.wall - sum(run.seconds[phase] for phase in PHASES[1:]) - start_up
    seconds = run.seconds | {"model": max(0, loading)}
    for phase, factor in factors.items():
        print(f"{phase:18s}{seconds[phase]:9.2f} s x {factor:9.2f} ={seconds[phase] * factor:10.1f} s")
    total = start_up + sum(seconds[phase] * factor for phase, factor in factors.items())
    print(f"{'start-up':18s}{start_up:9.2f} s             ={start_up:10.1f} s\n{'total':43s}{total:10.1f} s")


def compare_processes(inputs: Inputs, single: Run, args: argparse.Namespace) -> None:
    """Run again by torchrun; print the times and whether all arrays have the same bytes."""
    several = run_command(inputs, args.work / "output_processes", args, processes=args.processes)
    names = sorted(p.relative_to(single.folder) for p in single.folder.rglob("*.np?"))
    names.append(Path("sentences.csv"))
    different = [
        str(name)
        for name in names
        if (single.folder / name).read_bytes() != (several.folder / name).read_bytes()
    ]
    print(f"\n{'processes':12s}{'whole s':>9s}" + "".join(f"{phase:>17s}" for phase in PHASES))
    for n, run in ((1, single), (args.processes, several)):
        print(f"{n:<12d}{run.wall:9.1f}" + "".join(f"{run.seconds[phase]:17.1f}" for phase in PHASES))
    verdict = f"DIFFERENT: {', '.join(different)}" if different else "the same bytes"
    print(f"{len(names)} files: {verdict}")
    shutil.rmtree(several.folder)


def compare_precision(inputs: Inputs, args: argparse.Namespace) -> None:
    """Run in float32, TF32 and bfloat16; print times and how many features go on or off, per active one."""
    print(f"\n{'precision':12s}{'whole s':>9s}{'SAEs s':>9s}{'device':>12s}{'on/off changes':>18s}")
    reference = None
    for name, options in (
        ("float32", ["--dtype", "float32"]),
        ("TF32", ["--dtype", "float32", "--allow-tf32"]),
        ("bfloat16", ["--dtype", "bfloat16"]),
    ):
        run = run_command(inputs, args.work / f"output_{name}", args, *options)
        reference = reference or run
        changed = active = 0
        for sae in run.record["saes"]:
            ours, exact = (scipy.sparse.load_npz(r.folder / sae["file"]) > 0 for r in (run, reference))
            changed += (ours != exact).nnz
            active += exact.nnz
        device = gib(run.last["peak_device_bytes"])
        print(f"{name:12s}{run.wall:9.1f}{run.seconds['SAEs']:9.1f}{device:>12s}{changed / active:18.3%}")
        if run is not reference:
            shutil.rmtree(run.folder)
    shutil.rmtree(reference.folder)


def inputs_of(args: argparse.Namespace, n_sentences: int, n_layers: int, n_saes: int) -> Inputs:
    return make_inputs(
        args.work,
        n_sentences=n_sentences,
        n_layers=n_layers,
        n_saes=n_saes,
        vocabulary=args.vocabulary,
        distinct=args.distinct,
        with_decoder=args.with_decoder,
        device=args.device,
    )


def grow(args: argparse.Namespace) -> None:
    """Time per token beyond the fixed cost, which is the time of a run of ten sentences."""
    import_seconds(args.work)  # leaves compiled Python for the command
    sizes = [10, *sorted(args.growth)]
    rows = []
    for n in sizes:
        inputs = inputs_of(args, n, n_layers=1, n_saes=1)
        repeats = 1 if n == sizes[-1] else args.repeats
        runs = [run_command(inputs, args.work / "output_growth", args) for _ in range(repeats)]
        run = min(runs, key=lambda run: run.wall)
        phases = sum(run.seconds[phase] for phase in PHASES[1:])
        rows.append((n, run.n_tokens, run.wall, phases, run.last["peak_memory_bytes"]))
    _, fixed_tokens, fixed, fixed_phases, _ = rows[0]
    print(
        f"\nfixed cost {fixed:.2f} s (the run of {sizes[0]} sentences); the fastest of {args.repeats} runs,"
    )
    print("the largest size run once")
    print(f"{'':38s}ms per token beyond it")
    print(f"{'sentences':>10s}{'tokens':>10s}{'s':>9s}{'all':>12s}{'phases*':>12s}{'peak memory':>14s}")
    per_token, memories = [], []
    for n, tokens, seconds, phases, memory in rows[1:]:
        more_tokens = (tokens - fixed_tokens) / 1e3
        per_token.append([(seconds - fixed) / more_tokens, (phases - fixed_phases) / more_tokens])
        memories.append(memory)
        columns = "".join(f"{ms:12.3f}" for ms in per_token[-1])
        print(f"{n:10,}{tokens:10,}{seconds:9.2f}{columns}{gib(memory):>14s}")
    slowest, fastest = np.max(per_token, axis=0), np.min(per_token, axis=0)
    ratios = "".join(f"{ratio:12.2f}" for ratio in slowest / fastest)
    print(f"{'largest to smallest':29s}{ratios}{max(memories) / min(memories):14.2f}")
    print("* without start-up, tokens and loading the model")
    shutil.rmtree(args.work / "output_growth")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_argument_group("size")
    size.add_argument("--work", type=Path, required=True, help="folder for model, SAEs and output; kept")
    size.add_argument("--scale", type=float, default=1.0, help="share of sentences, blocks and SAEs")
    size.add_argument("--sentences", type=int, help=f"default: {FULL_SENTENCES:,} x scale, at least 20")
    size.add_argument("--layers", type=int, help=f"blocks of the model (default: {FULL_LAYERS} x scale)")
    size.add_argument("--saes", type=int, help=f"default: {FULL_SAES} x scale")
    size.add_argument(
        "--vocabulary", type=int, help=f"default: {FULL_VOCABULARY:,} x scale, at least {TOKENIZER_SIZE:,}"
    )
    size.add_argument("--distinct", type=int, help="SAE files at most; other names are links to them")
    size.add_argument("--with-decoder", action="store_true", help="SAE files hold W_dec too: 302 MB each")
    command = parser.add_argument_group("the command")
    command.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    command.add_argument("--allow-tf32", action="store_true")
    command.add_argument("--encoder", choices=("dense", "screened"), help="default: the command's own")
    command.add_argument("--chunk-tokens", type=int, help="default: the command's own")
    command.add_argument("--warm", action="store_true", help="leave the inputs in the page cache")
    command.add_argument("--memory-limit-gb", type=float, help="CUDA: memory left to the command")
    more = parser.add_argument_group("other measurements")
    more.add_argument(
        "--growth", type=int, nargs="*", metavar="N", help="numbers of sentences (default: 100 1000 10000)"
    )
    more.add_argument("--repeats", type=int, default=3, help="of --growth; the fastest counts")
    more.add_argument("--processes", type=int, default=1, help="run a second time with so many")
    more.add_argument(
        "--encoder-pairs", type=int, default=0, metavar="N", help="both encoders in turn on the first N SAEs"
    )
    more.add_argument("--compare-precision", action="store_true", help="float32, TF32 and bfloat16 instead")
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    args = build_parser().parse_args(argv)
    args.sentences = args.sentences or max(20, round(FULL_SENTENCES * args.scale))
    args.layers = args.layers or max(1, round(FULL_LAYERS * args.scale))
    per_layer = FULL_SAES / FULL_LAYERS
    args.saes = args.saes or max(1, min(round(FULL_SAES * args.scale), int(per_layer * args.layers)))
    args.vocabulary = args.vocabulary or max(TOKENIZER_SIZE, round(FULL_VOCABULARY * args.scale))
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.device = torch.device(args.device)
    if args.growth == []:
        args.growth = [100, 1000, 10_000]
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = args.allow_tf32
    print(describe_machine(args.device))
    try:
        if args.growth:
            grow(args)
            return 0
        inputs = inputs_of(args, args.sentences, args.layers, args.saes)
        if args.compare_precision:
            compare_precision(inputs, args)
            return 0
        start_up = import_seconds(args.work)  # first: it leaves compiled Python for the command
        with smaller_card(args.memory_limit_gb):
            run = run_command(inputs, args.work / "output", args)
        report(inputs, run, start_up, args)
        if args.encoder_pairs:
            chunk = run.last["chunk_tokens"]
            compare_encoders(inputs, run.folder, args.device, chunk, args.encoder_pairs)
        if args.processes > 1:
            compare_processes(inputs, run, args)
        shutil.rmtree(run.folder)
    except (ValueError, ChildProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
