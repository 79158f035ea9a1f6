"""Encode all tokens of a layer, as rows of a CSR matrix, chunk by chunk."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch


class Encoder(Protocol):
    """What the extraction needs of an SAE."""

    @property
    def d_sae(self) -> int: ...

    def sha256(self) -> str:
        """Return the digest of all arrays that encoding uses, by which duplicates among SAEs are found."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Encoder": ...

    def activations(self, x: torch.Tensor, memory: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[chunk, d_sae]` values, and bool of the same shape: where a feature fires.

        x: `[chunk, d_in]` of this device and dtype. Values where no feature fires mean nothing. memory: empty
        at first; what a call leaves in it, the next one may compute in.
        """


def compact(z: torch.Tensor, fires: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of a chunk as CSR: row_lengths [chunk] int64, columns [k] int32, values [k] float32.

    z, fires: `[chunk, d_sae]`. Compaction happens on their device.
    """
    d_sae = z.shape[1]
    if z.device.type == "cpu":
        flat = torch.from_numpy(np.flatnonzero(fires.numpy()))  # [k] int64, far faster here than nonzero()
    else:
        flat = fires.flatten().nonzero().flatten()  # [k] int64
    ends = torch.searchsorted(flat, d_sae * torch.arange(1, len(z) + 1, device=z.device))  # [chunk]
    columns, values = (flat % d_sae).int(), z.flatten()[flat].float()  # [k]
    return np.diff(ends.cpu().numpy(), prepend=0), columns.cpu().numpy(), values.cpu().numpy()


def require_finite(z: torch.Tensor) -> None:
    """Raise ValueError if a value is NaN or infinitely large, which a comparison or a file would hide.

    Minus infinity is below every threshold: that feature is silent, whatever it would have been exactly.
    """
    # One sum tells in nearly all cases, at a fraction of the cost of looking at each value.
    if not torch.isfinite(z.sum(dtype=torch.float32)) and not (z < torch.inf).all():
        raise ValueError(
            "its activations are not finite: they overflow this dtype, or its weights are damaged; "
            "use --dtype float32 or bfloat16"
        )


@torch.inference_mode()
def encode(
    tokens: Callable[[int, int], torch.Tensor],
    n_tokens: int,
    encoder: Encoder,
    chunk_tokens: int,
    memory: list[torch.Tensor],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield an SAE's activations on `n_tokens` tokens as rows of a CSR matrix, chunk by chunk.

    tokens: returns `[stop - start, d_model]` of the residual stream on the encoder's device. Device memory
    holds the encoder and one dense chunk; a chunk that does not fit is halved, as are all after it. memory:
    empty at first; the next SAE computes in what is left in it.

    Raises:
        ValueError: an activation is not finite.
    """
    start = 0
    while start < n_tokens:
        try:
            x = tokens(start, min(start + chunk_tokens, n_tokens))
            z, fires = encoder.activations(x, memory)
            require_finite(z)
            rows = compact(z, fires)
        except torch.OutOfMemoryError:
            if chunk_tokens == 1:
                raise
            memory.clear()
            torch.cuda.empty_cache()
            chunk_tokens //= 2
            continue
        start += len(rows[0])
        yield rows
