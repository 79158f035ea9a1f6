"""The model's own vocabulary head on states that were computed before, a few positions at a time.

A vocabulary is large (262,144 words in Gemma 3: 1 MB of logits a position), so logits never exist for all
positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from language_model.residual_stream import decoder_and_blocks
from language_model.word_sample import WordSample
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


def head_chunks(head: nn.Module, states: torch.Tensor) -> Iterator[slice]:
    """Yield slices of `states` [m, d_model], each as long as HEAD_BYTES of logits allow."""
    vocabulary = head.weight.shape[0]
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


@dataclass(frozen=True)
class VocabularyHead:
    """Log-probabilities from the decoder's output, the normaliser summed over all words or over a sample."""

    model: nn.Module
    sample: WordSample | None = None

    @torch.inference_mode()
    def log_probs(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability (nats) of each target id [m] given states [m, d_model]."""
        places = self._places(targets)
        found = [states.new_zeros(0, dtype=torch.float32)]
        for chunk, logits in self._logits(states):
            own = logits.gather(1, places[chunk, None])[:, 0]
            found.append(own - log_normaliser(logits, self._weights(logits)))
        return torch.cat(found)

    @torch.inference_mode()
    def log_probs_and_kl(
        self, states: torch.Tensor, targets: torch.Tensor, unchanged: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [m], and KL(unchanged ‖ changed) per position [m], nats.

        unchanged: the decoder's output [m, d_model] without a change.
        """
        places = self._places(targets)
        log_probs, divergences = [], []
        for (chunk, after), (_, before) in zip(self._logits(states), self._logits(unchanged)):
            weights = self._weights(after)
            after = after - log_normaliser(after.clone(), weights)[:, None]
            before = before - log_normaliser(before.clone(), weights)[:, None]
            divergences.append((before.exp() * (before - after)) @ weights)
            log_probs.append(after.gather(1, places[chunk, None])[:, 0])
        return torch.cat(log_probs), torch.cat(divergences)

    @torch.inference_mode()
    def mean_probability(self, states: torch.Tensor) -> torch.Tensor:
        """Mean probability of each word over the states [m, d_model], [words]."""
        total = sum(logits.softmax(dim=1).sum(dim=0) for _, logits in self._logits(states))
        return total / len(states)

    def _logits(self, states: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield slices of the states with their logits [positions, words]."""
        decoder, _ = decoder_and_blocks(self.model)
        for chunk in head_chunks(self._rows, states):
            with self._rows_in_place():
                logits = logits_of(self.model, decoder, states[chunk])
            yield chunk, logits

    @cached_property
    def _rows(self) -> nn.Module:
        """The model's head, or a part of it for the words of the sample."""
        whole = self.model.get_output_embeddings()
        if self.sample is None:
            return whole
        rows = nn.Linear(whole.in_features, len(self.sample.ids), bias=whole.bias is not None, device="meta")
        rows.weight = nn.Parameter(whole.weight[self.sample.ids], requires_grad=False)
        if whole.bias is not None:
            rows.bias = nn.Parameter(whole.bias[self.sample.ids], requires_grad=False)
        return rows

    @contextmanager
    def _rows_in_place(self) -> Iterator[None]:
        whole = self.model.get_output_embeddings()
        self.model.set_output_embeddings(self._rows)
        try:
            yield
        finally:
            self.model.set_output_embeddings(whole)

    def _weights(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.new_ones(logits.shape[1]) if self.sample is None else self.sample.weights.to(logits)

    def _places(self, targets: torch.Tensor) -> torch.Tensor:
        return targets if self.sample is None else torch.searchsorted(self.sample.ids, targets)


def log_normaliser(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """log Σ_v weights_v exp(logits_v), [m], of logits [m, words], which are overwritten."""
    largest = logits.amax(dim=1)
    return largest + (logits.sub_(largest[:, None]).exp_() @ weights).log()
