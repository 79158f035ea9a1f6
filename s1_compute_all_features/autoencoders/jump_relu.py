"""JumpReLU SAEs in Gemma Scope's layouts, of which encoder and decoder are read apart."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from autoencoders.configurations import SaeEntry
from autoencoders.csr_rows import CsrRows, dense_rows
from autoencoders.params_file import DECODER, ENCODER, read_arrays


@dataclass(frozen=True)
class JumpReluEncoder:
    """The three arrays that encoding needs."""

    w_enc: torch.Tensor  # [d_in, d_sae]
    b_enc: torch.Tensor  # [d_sae]
    threshold: torch.Tensor  # [d_sae]

    @property
    def d_sae(self) -> int:
        return len(self.threshold)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for array in (self.w_enc, self.b_enc, self.threshold):
            digest.update(array.contiguous().numpy().view(np.uint8).data)
        return digest.hexdigest()

    def to(self, device: torch.device, dtype: torch.dtype) -> "JumpReluEncoder":
        return JumpReluEncoder(
            *(a.to(device=device, dtype=dtype) for a in (self.w_enc, self.b_enc, self.threshold))
        )

    def rows(self, x: torch.Tensor, memory: list[torch.Tensor]) -> CsrRows:
        return dense_rows(*self.activations(x, memory))

    def activations(self, x: torch.Tensor, memory: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """JumpReLU (Gemma Scope, arXiv 2408.05147, equation 2): z = x @ W_enc + b_enc where z > threshold.

        Nothing is below zero, whatever the threshold: z is rectified as well.
        """
        shape = (len(x), self.d_sae)
        if not memory or len(memory[0]) < len(x) or memory[0].shape[1] != self.d_sae:
            # Memory fresh from the system costs more than the comparison that is written into it.
            memory[:] = [x.new_empty(shape), x.new_empty(shape, dtype=torch.bool)]
        z, fires = (array[: len(x)] for array in memory)  # [chunk, d_sae]
        torch.addmm(self.b_enc, x, self.w_enc, out=z)
        torch.gt(z, self.threshold.clamp(min=0), out=fires)
        return z, fires


def read_encoder(file: Path, entry: SaeEntry, d_model: int) -> JumpReluEncoder:
    """Read `W_enc`, `b_enc` and `threshold` of an SAE's file; the decoder, half of it, stays unread.

    Raises:
        ValueError: the file is damaged, lacks an array, or does not fit the model; the message says which.
    """
    encoder = JumpReluEncoder(*read_arrays(file, ENCODER))
    d_sae = entry.d_sae or encoder.w_enc.shape[-1]
    require_shape(file, "W_enc", encoder.w_enc, (d_model, d_sae))
    for name, array in (("b_enc", encoder.b_enc), ("threshold", encoder.threshold)):
        if tuple(array.shape) != (d_sae,):
            raise ValueError(f"{file}: {name} is {tuple(array.shape)}, expected {(d_sae,)}")
    return encoder


def read_decoder(file: Path, entry: SaeEntry, d_model: int | None) -> torch.Tensor:
    """Read `W_dec` [d_sae, d_model] of an SAE's file in float32, the directions in which its features write.

    d_model: `None` where no model is at hand, and the file decides.

    Raises:
        ValueError: the file is damaged, lacks the array, or does not fit the model.
    """
    (w_dec,) = read_arrays(file, DECODER)
    require_shape(file, "W_dec", w_dec, (entry.d_sae or w_dec.shape[0], d_model or w_dec.shape[-1]))
    return w_dec.float()


def require_shape(file: Path, name: str, array: torch.Tensor, expected: tuple[int, int]) -> None:
    if tuple(array.shape) != expected:
        raise ValueError(
            f"{file}: {name} is {tuple(array.shape)}, model and configuration need {expected}: "
            "this SAE belongs to another model"
        )
