"""Running out of memory, said in one line; and how much was used."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def named_memory_failure(device: torch.device) -> Iterator[None]:
    """Turn running out of memory, after all halving, into a ValueError of one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_device = isinstance(error, torch.OutOfMemoryError)
        # What PyTorch's allocator of main memory raises has no class of its own.
        if not on_device and not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        place, remedy = (device, "the device, or use --device cpu") if on_device else ("main memory", "some")
        what = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{place}: not enough memory ({what}); what is finished is kept: free {remedy}"
        ) from error


def peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
