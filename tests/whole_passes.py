"""Whole forward passes with something added after a block: what s1's resumed passes must equal."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from language_model.residual_stream import decoder_and_blocks


@contextmanager
def added_after(model, layer: int, change: torch.Tensor) -> Iterator[None]:
    """Inside, `change` [position - 1 or 1, d_model] is added after `layer` behind the first position."""

    def add(_module, _args, output):
        states = output[0] if isinstance(output, tuple) else output
        states = torch.cat([states[:, :1], states[:, 1:] + change], dim=1)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = decoder_and_blocks(model)[1][layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def steered_logits(model, input_ids: torch.Tensor, layer: int, change: torch.Tensor) -> torch.Tensor:
    """Logits [position, vocabulary] of one text, BOS at its front."""
    with added_after(model, layer, change), torch.no_grad():
        return model(input_ids).logits[0]
