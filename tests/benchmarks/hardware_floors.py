"""What this machine needs for the bare work of an extraction: reading, copying, matrix products, writing."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from full_scale_inputs import STAGE


def forget(files: Sequence[Path]) -> bool:
    """Ask the system to drop these files from the page cache; return whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def child_environment(work: Path) -> dict[str, str]:
    """The environment, with compiled Python kept in `work` even where it is forbidden elsewhere.

    Compiling all imports at every start takes longer than the start itself.
    """
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(work.resolve() / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The shortest of `repeats` calls, after one that is not counted."""
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(repeats + 1):
        wait()
        started = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def product_seconds(rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one `addmm`, best of five."""
    left, right, bias = (
        torch.randn(shape, device=device, dtype=dtype)
        for shape in ((rows, inner), (inner, columns), (columns,))
    )
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return best_seconds(lambda: torch.addmm(bias, left, right, out=out), device, repeats=5)


def import_seconds(work: Path) -> float:
    """Seconds of a Python process that only imports what the command imports."""
    imports = "import extract_sae_features\n"
    imports += "from transformers import AutoTokenizer, Gemma2ForCausalLM"
    command = [sys.executable, "-c", imports]
    run = functools.partial(subprocess.run, command, cwd=STAGE, check=True, env=child_environment(work))
    return best_seconds(run, torch.device("cpu"), repeats=2)


def reading_rate(files: Sequence[Path], n_bytes: int, cold: bool) -> float:
    """Bytes per second of reading the first `n_bytes` of each file into one buffer."""
    if cold:
        forget(files)
    view = memoryview(np.ones(n_bytes, dtype=np.uint8))
    started, total = time.perf_counter(), 0
    for file in files:
        with file.open("rb", buffering=0) as handle:
            filled = 0
            while filled < n_bytes and (count := handle.readinto(view[filled:])):
                filled += count
        total += filled
    return total / (time.perf_counter() - started)


def writing_rate(folder: Path, n_bytes: int) -> float:
    """Bytes per second of a plain write of at most 4 GB, without fsync, as the command writes."""
    block = np.ones(2**24, dtype=np.uint8).data
    n_blocks = max(1, min(n_bytes, 4 * 10**9) // len(block))
    path = folder / "floor.bin"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as handle:
        for _ in range(n_blocks):
            handle.write(block)
    seconds = time.perf_counter() - started
    path.unlink()
    return n_blocks * len(block) / seconds


def copying_rate(n_bytes: int, device: torch.device) -> float:
    """Bytes per second from pinned memory to the device; without a device of its own, infinite."""
    if device.type != "cuda":
        return float("inf")
    host = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    return n_bytes / best_seconds(lambda: there.copy_(host, non_blocking=True), device, repeats=5)
