"""Activations of a chunk of tokens as rows of a CSR matrix."""

import numpy as np
import torch

CsrRows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""row_lengths [chunk] int64, columns [k] int32, values [k] float32."""


def dense_rows(z: torch.Tensor, fires: torch.Tensor) -> CsrRows:
    """Return where `fires` of `z`, both `[chunk, d_sae]`, as CSR rows. Compaction happens on their device.

    Raises:
        ValueError: a value is not finite.
    """
    require_finite(z)
    d_sae = z.shape[1]
    flat = positions(fires)
    ends = torch.searchsorted(flat, d_sae * torch.arange(1, len(z) + 1, device=z.device))  # [chunk]
    columns, values = (flat % d_sae).int(), z.flatten()[flat].float()  # [k]
    return np.diff(ends.cpu().numpy(), prepend=0), columns.cpu().numpy(), values.cpu().numpy()


def positions(chosen: torch.Tensor) -> torch.Tensor:
    """Flat positions of the true entries, int64 ascending, on their device."""
    if chosen.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(chosen.numpy()))  # far faster here than nonzero()
    return chosen.flatten().nonzero().flatten()


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
