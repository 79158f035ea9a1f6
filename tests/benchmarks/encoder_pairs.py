"""Dense and screened encoder in turn on the same tokens, so that a shared machine slows both alike.

With one thread (OMP_NUM_THREADS=1) the process' CPU time is taken, in which other processes do not count;
otherwise the time that passes.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from full_scale_inputs import Inputs


def clock_of(device: torch.device) -> Callable[[], float]:
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


@dataclass(frozen=True)
class Pair:
    """One SAE on all tokens of its layer, encoded both ways chunk by chunk in turn; seconds."""

    dense: float
    screened: float  # preparing the screen included
    preparing: float
    per_chunk: list[float]  # dense / screened, without preparing
    candidates_per_firing: float
    one_sided: int  # activations that only one of the two has
    firing: int

    @property
    def ratio(self) -> float:
        return self.dense / self.screened


def encode_in_turn(file: Path, entry, residual_stream: np.ndarray, device: torch.device, chunk: int) -> Pair:
    from autoencoders.jump_relu import read_encoder
    from autoencoders.screened_jump_relu import Conditioning, ScreenedJumpRelu

    clock = clock_of(device)

    def timed(work, *arguments):
        started = clock()
        result = work(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result, clock() - started

    dense = read_encoder(file, entry, residual_stream.shape[1]).to(device, torch.float32)
    starts = range(0, len(residual_stream), chunk)
    conditioning = Conditioning.fit(residual_stream[start : start + chunk] for start in starts).to(device)
    screened, preparing = timed(ScreenedJumpRelu.of, dense, conditioning)
    memories, seconds, ratios, one_sided, firing = ([], []), np.zeros(2), [], 0, 0
    for start in starts:
        x = torch.from_numpy(np.array(residual_stream[start : start + chunk])).to(device)
        if start == 0:  # memory and code are warm before anything counts
            dense.rows(x, memories[0])
            screened.rows(x, memories[1])
            screened.n_candidates = 0
        rows, first = timed(dense.rows, x, memories[0])
        other, second = timed(screened.rows, x, memories[1])
        seconds += first, second
        ratios.append(first / second)
        firing += len(rows[1])
        places = [
            np.repeat(np.arange(len(x)), lengths) * dense.d_sae + columns
            for lengths, columns, _ in (rows, other)
        ]
        one_sided += len(np.setxor1d(*places, assume_unique=True))
    found = screened.n_candidates / firing
    return Pair(seconds[0], seconds[1] + preparing, preparing, ratios, found, one_sided, firing)


def compare_encoders(inputs: Inputs, run_folder: Path, device: torch.device, chunk: int, n_saes: int) -> None:
    """Print both encoders' seconds per SAE on the residual stream that a run left, and their median ratio."""
    from autoencoders.configurations import read_configurations

    pairs = []
    print(f"\nboth encoders in turn, {chunk:,} tokens at once; {clock_of(device).__name__}, s per SAE")
    columns = ("dense", "screened", "preparing", "ratio", "of chunks", "candidates", "one-sided")
    print(f"{'layer, L0':12s}" + "".join(f"{column:>11s}" for column in columns))
    for entry, file in islice(zip(read_configurations(inputs.config).saes, inputs.files), n_saes):
        rows = np.load(run_folder / "residual_stream" / f"layer_{entry.layer}.npy", mmap_mode="r")
        pair = encode_in_turn(file, entry, rows, device, chunk)
        pairs.append(pair)
        print(
            f"{f'{entry.layer}, {entry.average_l0}':12s}{pair.dense:11.2f}{pair.screened:11.2f}"
            f"{pair.preparing:11.2f}{pair.ratio:11.2f}{statistics.median(pair.per_chunk):11.2f}"
            f"{pair.candidates_per_firing:11.3f}{pair.one_sided:11d}",
            flush=True,
        )
    chunks = [ratio for pair in pairs for ratio in pair.per_chunk]
    quartiles = statistics.quantiles(chunks, n=4) if len(chunks) > 1 else chunks * 3
    print(
        f"median ratio {statistics.median(pair.ratio for pair in pairs):.2f} of SAEs, {quartiles[1]:.2f} of "
        f"chunks (quartiles {quartiles[0]:.2f} and {quartiles[2]:.2f}); "
        f"{sum(pair.one_sided for pair in pairs)} of {sum(pair.firing for pair in pairs):,} on one side only"
    )
    print(json.dumps(cpu_capabilities()) if device.type == "cpu" else torch.cuda.get_device_name(device))


def cpu_capabilities() -> dict[str, bool]:
    """The units that decide, as PyTorch sees them."""
    return {
        "AVX512": torch.cpu._is_avx512_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
