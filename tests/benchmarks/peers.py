"""s1 beside other tools that encode sentences with SAEs: the same small Gemma 2, SAEs and sentences.

    peers.py --work DIR                  200 sentences, 6 blocks of d_model 256, 6 SAEs of 256 x 16,384
    peers.py --work DIR --peers delphi   one of them

Each peer has an environment of its own below DIR, made by uv at the versions named here, and a script in
`peer_scripts/` that drives it as its documentation does. Loading and imports are timed apart. What a peer has
written is compared with ours, token by token, without BOS and padding. Rounds of all are interleaved.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from full_scale_extraction import describe_machine, folder_bytes
from full_scale_inputs import (
    D_SAE,
    STAGE,
    sample_residual_stream,
    write_checkpoint,
    write_sae,
    write_sentences,
)
from hardware_floors import child_environment

SCRIPTS = Path(__file__).parent / "peer_scripts"
D_MODEL, D_MLP, VOCABULARY, AVERAGE_L0 = 256, 512, 10_000, 100
OURS_TOO = ("torch==2.15.0", "transformers==5.23.0", "pandas", "scipy")


@dataclass(frozen=True)
class Peer:
    """A tool, what its environment holds, and the script that drives it."""

    script: str
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()  # installed alone: what else they ask for is not used here


PEERS = {
    "SAELens": Peer("sae_lens_loop.py", ("sae-lens==6.54.12", *OURS_TOO)),
    # Of its dependencies a server of language models is the largest by far; the cache needs none of it.
    "delphi": Peer(
        "delphi_latent_cache.py",
        (
            *(
                "aiofiles",
                "anyio",
                "asyncer",
                "beartype",
                "blobfile",
                "datasets",
                "eai-sparsify",
                "faiss-cpu",
            ),
            *("httpx", "jaxtyping", "orjson", "safetensors", "sentence-transformers", "simple-parsing"),
            *OURS_TOO,
        ),
        without_dependencies=("eai-delphi==0.1.3",),
    ),
    "interp_embed": Peer("interp_embed_dataset.py", ("interp-embed==0.1.0", *OURS_TOO)),
}


@dataclass(frozen=True)
class Timing:
    loading: float  # seconds: model, SAEs
    running: float  # seconds: from sentences to files
    whole: float  # seconds of the process, imports included
    n_bytes: int  # of the activations on disk


def make_environment(folder: Path, peer: Peer) -> Path:
    """Return the Python of an environment with the peer in it."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run(
            ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True
        )
        subprocess.run([*install, *peer.requirements], check=True)
        if peer.without_dependencies:
            subprocess.run([*install, "--no-deps", *peer.without_dependencies], check=True)
        (folder / "complete").touch()
    return python


def write_inputs(work: Path, n_sentences: int, n_layers: int) -> Path:
    """Write model, SAEs and sentences; return the job file that the peers' scripts read."""
    from tokenizers import Tokenizer, processors

    model = work / "model"
    write_checkpoint(model, n_layers, VOCABULARY, d_model=D_MODEL, d_mlp=D_MLP)
    # Gemma's own tokenizer puts BOS in front of what it is given; the peers rely on it, we do not.
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    tokenizer.save(str(model / "tokenizer.json"))
    states = sample_residual_stream(model, torch.device("cpu"))
    entries = []
    for layer in range(n_layers):
        entry = {"layer": layer, "average_l0": AVERAGE_L0, "path": f"layer_{layer}", "d_sae": D_SAE}
        write_sae(work / "saes" / f"layer_{layer}" / "params.npz", entry, states[layer], layer, True)
        entries.append(entry)
    configurations = {"release": "random", "repo_id": None, "model": "random Gemma 2", "saes": entries}
    (work / "configurations.json").write_text(json.dumps(configurations), encoding="utf-8")
    job = {
        "model": str(model),
        "saes": [
            {"layer": entry["layer"], "file": str(work / "saes" / entry["path"] / "params.npz")}
            for entry in entries
        ],
        "sentences": str(write_sentences(work, n_sentences)),
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return work / "job.json"


def run_peer(python: Path, peer: Peer, job: Path, output: Path) -> Timing:
    environment = child_environment(job.parent) | {"HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        [str(python), str(SCRIPTS / peer.script), str(job), str(output)],
        capture_output=True,
        text=True,
        env=environment,
    )
    whole = time.perf_counter() - started
    if done.returncode != 0:
        raise ChildProcessError(f"{peer.script} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Timing(said["loading"], said["running"], whole, said["bytes"])


def run_ours(job: Path, output: Path) -> Timing:
    work = job.parent
    command = [sys.executable, str(STAGE / "extract_sae_features.py"), "--device", "cpu"]
    command += ["--input", json.loads(job.read_text())["sentences"], "--output", str(output)]
    command += ["--model", str(work / "model"), "--config", str(work / "configurations.json")]
    command += ["--sae-release", str(work / "saes")]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=child_environment(work))
    whole = time.perf_counter() - started
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))["runs"][-1]
    loading = run["seconds_by_phase"]["model"]
    return Timing(loading, run["seconds"] - loading, whole, folder_bytes(output / "sae_activations"))


def difference(ours: Path, theirs: Path, n_layers: int) -> str:
    """How far a peer's activations are from ours, over all layers."""
    largest, one_sided, active = 0.0, 0, 0
    for layer in range(n_layers):
        mine = scipy.sparse.load_npz(ours / f"sae_activations/layer_{layer}_l0_{AVERAGE_L0}.npz")
        other = scipy.sparse.load_npz(theirs / f"compared_{layer}.npz")
        if mine.shape != other.shape:
            return f"other tokens: {other.shape[0]:,} rows, ours {mine.shape[0]:,}"
        both = mine.astype(bool).multiply(other.astype(bool))
        one_sided += (mine.astype(bool) != other.astype(bool)).nnz
        active += mine.nnz
        relative = abs(mine - other).multiply(both).tocsr().data / mine.multiply(both).tocsr().data.max()
        largest = max(largest, float(relative.max(initial=0)))
    return (
        f"{one_sided:,} of {active:,} on one side only; largest difference {largest:.0e} of the largest value"
    )


def measure(work: Path, args: argparse.Namespace) -> None:
    peers = {name: PEERS[name] for name in args.peers}
    pythons = {
        name: make_environment(args.work / f"environment_{name}", peer) for name, peer in peers.items()
    }
    job = write_inputs(work, args.sentences, args.layers)
    timings: dict[str, list[Timing]] = {name: [] for name in ("ours", *peers)}
    outputs = {}
    for repeat in range(args.repeats):
        outputs["ours"] = work / f"ours_{repeat}"
        timings["ours"].append(run_ours(job, outputs["ours"]))
        for name, peer in peers.items():
            outputs[name] = work / f"{name}_{repeat}"
            timings[name].append(run_peer(pythons[name], peer, job, outputs[name]))
        print(f"round {repeat + 1} of {args.repeats}", flush=True)
    print(f"\n{args.sentences} sentences, {args.layers} blocks and SAEs; medians of {args.repeats} rounds")
    print(f"{'':16s}{'loading s':>11s}{'running s':>11s}{'sentences/s':>13s}{'whole s':>9s}{'MB':>8s}")
    for name, runs in timings.items():
        loading, running, whole = np.median([(t.loading, t.running, t.whole) for t in runs], axis=0)
        print(
            f"{name:16s}{loading:11.2f}{running:11.2f}{args.sentences / running:13.1f}{whole:9.1f}"
            f"{runs[-1].n_bytes / 1e6:8.1f}"
        )
    for name in peers:
        ratios = [theirs.running / mine.running for mine, theirs in zip(timings["ours"], timings[name])]
        apart = difference(outputs["ours"], outputs[name], args.layers)
        print(f"{name}: {np.median(ratios):.1f} times our time; {apart}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the environments, which are kept"
    )
    parser.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=list(PEERS), help="default: all")
    parser.add_argument("--sentences", type=int, default=200, help="a multiple of 8 (default: 200)")
    parser.add_argument("--layers", type=int, default=6, help="blocks, each with one SAE (default: 6)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="interleaved; medians are printed (default: 3)"
    )
    args = parser.parse_args(argv)
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    print(describe_machine(torch.device("cpu")))
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        measure(Path(folder), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
