"""Running out of memory, said in one line; and how much was used."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def named_memory_failure(device: torch.device) -> Iterator[None]:
    """Turn running out of device memory, after all halving, into a ValueError of one line."""
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
