"""Encode all tokens of a layer, as rows of a CSR matrix, chunk by chunk."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from autoencoders.csr_rows import CsrRows


class Encoder(Protocol):
    """What the extraction needs of an SAE."""

    @property
    def d_sae(self) -> int: ...

    def sha256(self) -> str:
        """Return the digest of all arrays that encoding uses, by which duplicates among SAEs are found."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Encoder": ...

    def rows(self, x: torch.Tensor, memory: list[torch.Tensor]) -> CsrRows:
        """Return the activations of x, `[chunk, d_in]` of this device and dtype.

        memory: empty at first; what a call leaves in it, the next one may compute in.

        Raises:
            ValueError: an activation is not finite.
        """


@torch.inference_mode()
def encode(
    tokens: Callable[[int, int], torch.Tensor],
    n_tokens: int,
    encoder: Encoder,
    chunk_tokens: int,
    memory: list[torch.Tensor],
) -> Iterator[CsrRows]:
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
            rows = encoder.rows(x, memory)
        except torch.OutOfMemoryError:
            if chunk_tokens == 1:
                raise
            memory.clear()
            torch.cuda.empty_cache()
            chunk_tokens //= 2
            continue
        start += len(rows[0])
        yield rows
