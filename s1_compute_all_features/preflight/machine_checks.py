"""Checks of this machine: libraries, device, output folder, memory, disk."""

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

import torch
from preflight.examination import REINSTALL, Examination, Result, size
from preflight.size_estimates import disk_needs, memory_needed

MINIMUM_VERSIONS = {
    "torch": "2.8",
    "transformers": "5.20",
    "sae-lens": "6.50",
    "numpy": "2.2",
    "scipy": "1.16",
    "huggingface_hub": "1.0",
}
MINIMUM_PYTHON = "3.11"
LITTLE_MARGIN = 0.9  # of what is free
LARGE_FOR_A_CPU = 10**9  # parameters


def check_libraries(exam: Examination) -> tuple[Result, str]:
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


def check_device(exam: Examination) -> tuple[Result, str]:
    compute = exam.plan.compute
    compute.prepare()
    on_cuda = compute.device.type == "cuda"
    tf32 = " with TF32" if on_cuda and compute.allow_tf32 else ""
    how = f"{compute.dtype_name}{tf32}, {compute.encoder} encoder"
    if not on_cuda:
        return Result.OK, f"{compute.device}, {how}, {torch.get_num_threads()} threads"
    return Result.OK, f"{compute.device}, {torch.cuda.get_device_name(compute.device)}, {how}"


def check_output(exam: Examination) -> tuple[Result, str]:
    output = exam.plan.output
    if output is None:
        return Result.NOT_CHECKED, "needs --input or --output"
    try:
        with tempfile.TemporaryFile(dir=first_existing(output)):
            return Result.OK, f"{output} can be written"
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another --output") from error


def check_memory(exam: Examination) -> tuple[Result, str]:
    compute, n_parameters = exam.plan.compute, exam.skeleton.num_parameters()
    device, main = memory_needed(exam.plan, n_parameters)
    free = {"main memory": main_memory_free()}
    needed = {"main memory": main}
    if compute.device.type == "cuda":
        free[str(compute.device)], _ = torch.cuda.mem_get_info(compute.device)
        needed[str(compute.device)] = device
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
    if compute.device.type == "cpu" and n_parameters > LARGE_FOR_A_CPU:
        return Result.WARNING, f"{detail}; a model of this size is slow without a GPU"
    return Result.OK, detail


def check_disk(exam: Examination) -> tuple[Result, str]:
    by_disk: dict[int, tuple[Path, list]] = {}
    needs = disk_needs(exam.plan, exam.model_bytes_to_fetch, exam.saes_to_fetch, exam.decoders_to_fetch)
    for what, folder, n_bytes in needs:
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
    if exam.plan.sentences is None:
        detail += "; the output's size is estimated with --input"
    if max(shares, default=0) > 1:
        raise ValueError(
            f"{detail}: make room, choose another --output, fewer --layers, or point HF_HOME and "
            "TRAIT_TRACING_CACHE to another disk"
        )
    if max(shares, default=0) > LITTLE_MARGIN:
        return Result.WARNING, f"{detail}: little margin"
    return Result.OK, detail


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
