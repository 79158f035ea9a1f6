"""The model's own vocabulary head on states that were computed before, a few positions at a time.

A vocabulary is large (262,144 words in Gemma 3: 1 MB of logits a position), so logits never exist for all
positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

HEAD_BYTES = 1 << 27  # of one array of logits, positions x vocabulary; about five are alive at once


class _GivenStates(nn.Module):
    """Stands in for the decoder stack."""

    def __init__(self, states: torch.Tensor):
        super().__init__()
        self.states = states

    def forward(self, *_args, **_kwargs) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.states)


@contextmanager
def given_states(model: nn.Module, decoder: nn.Module, states: torch.Tensor) -> Iterator[None]:
    """Inside, `model(...)` applies its head, scaling and soft-capping included, to `states`."""
    name = next(name for name, module in model.named_modules() if module is decoder)
    parent = model.get_submodule(name.rpartition(".")[0])
    child = name.rpartition(".")[2]
    setattr(parent, child, _GivenStates(states))
    try:
        yield
    finally:
        setattr(parent, child, decoder)


def head_chunks(model: nn.Module, states: torch.Tensor) -> Iterator[slice]:
    """Yield slices of `states` [m, d_model], each as long as HEAD_BYTES of logits allow."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    at_once = max(1, HEAD_BYTES // (vocabulary * states.element_size()))
    for start in range(0, len(states), at_once):
        yield slice(start, min(start + at_once, len(states)))


def logits_of(model: nn.Module, decoder: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Logits [m, vocabulary], float32 or wider, of a chunk of the decoder's output `states` [m, d_model]."""
    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)  # not looked at
    with given_states(model, decoder, states[None]):
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits if logits.dtype == torch.float64 else logits.float()


def target_log_probs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability (nats) of each target id [m] under logits [m, vocabulary]."""
    return -nn.functional.cross_entropy(logits, targets, reduction="none")
