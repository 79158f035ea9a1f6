"""The model's own vocabulary head on states that were computed before, in pieces.

A vocabulary is large (262,144 words in Gemma 3: 1 MB of logits a position), so logits never exist for all
positions and all words: a backward pass takes a few positions at a time, a sum over words a few words.
"""

import math
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


class LogSum:
    """log Σ_v weight_v exp(logit_v) of m positions, taken slice by slice of the words, without overflow."""

    def __init__(self) -> None:
        self.largest, self.total = -math.inf, 0.0  # [m] each once something is added

    def add(self, logits: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add words: logits [m, words], which are overwritten; weights [words].

        Returns the terms [m, words] relative to the largest logit so far, and by how much terms that were
        returned before shrink, [m].
        """
        largest = logits.amax(dim=1).clamp(min=self.largest)
        shrink = (self.largest - largest).exp()
        terms = logits.sub_(largest[:, None]).exp_().mul_(weights)
        self.largest, self.total = largest, self.total * shrink + terms.sum(dim=1)
        return terms, shrink

    @property
    def value(self) -> torch.Tensor:
        return self.largest + self.total.log()


@dataclass(frozen=True)
class VocabularyHead:
    """Log-probabilities from the decoder's output, the normaliser summed over all words or over a sample."""

    model: nn.Module
    sample: WordSample | None = None

    @torch.inference_mode()
    def log_probs(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability (nats) of each target id [m] given states [m, d_model]."""
        normaliser, own, places = LogSum(), new_values(states), self._places(targets)
        for words in self._slices(states):
            logits = self._logits(states, words)
            take_targets(own, logits, places, words)
            normaliser.add(logits, self._weights[words])
        return own - normaliser.value

    @torch.inference_mode()
    def log_probs_and_kl(
        self, states: torch.Tensor, targets: torch.Tensor, unchanged: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [m], and KL(unchanged ‖ changed) per position [m], nats.

        unchanged: the decoder's output [m, d_model] without a change.
        """
        normaliser, own, places = LogSum(), new_values(states), self._places(targets)
        normaliser_before, difference = LogSum(), 0.0  # Σ_v weight_v exp(before_v) (before_v - after_v)
        for words in self._slices(states):
            before, after = self._logits(unchanged, words), self._logits(states, words)
            take_targets(own, after, places, words)
            change = before - after
            terms, shrink = normaliser_before.add(before, self._weights[words])
            difference = difference * shrink + (terms * change).sum(dim=1)
            normaliser.add(after, self._weights[words])
        divergence = difference / normaliser_before.total - normaliser_before.value + normaliser.value
        return own - normaliser.value, divergence

    @torch.inference_mode()
    def mean_probability(self, states: torch.Tensor) -> torch.Tensor:
        """Mean probability of each word over the states [m, d_model], [words]."""
        normaliser = LogSum()
        for words in self._slices(states):
            normaliser.add(self._logits(states, words), self._weights[words])
        each = [
            self._logits(states, words).sub_(normaliser.value[:, None]).exp_().mean(dim=0)
            for words in self._slices(states)
        ]
        return torch.cat(each)

    def _slices(self, states: torch.Tensor) -> Iterator[slice]:
        """Yield stretches of the words, each as long as HEAD_BYTES of logits allow."""
        n_words = len(self._weights)
        at_once = max(1, HEAD_BYTES // (max(1, len(states)) * states.element_size()))
        for start in range(0, n_words, at_once):
            yield slice(start, min(start + at_once, n_words))

    def _logits(self, states: torch.Tensor, words: slice) -> torch.Tensor:
        """Logits [m, words], by the model's own head with only these rows in it."""
        decoder, _ = decoder_and_blocks(self.model)
        whole, (weight, bias) = self.model.get_output_embeddings(), self._rows
        part = nn.Linear(weight.shape[1], words.stop - words.start, bias=bias is not None, device="meta")
        part.weight = nn.Parameter(weight[words], requires_grad=False)
        if bias is not None:
            part.bias = nn.Parameter(bias[words], requires_grad=False)
        self.model.set_output_embeddings(part)
        try:
            return logits_of(self.model, decoder, states)
        finally:
            self.model.set_output_embeddings(whole)

    @cached_property
    def _rows(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [words, d_model] and bias of the head, of the sample or of all words."""
        head = self.model.get_output_embeddings()
        weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
        if self.sample is None:
            return weight, bias
        return weight[self.sample.ids], None if bias is None else bias[self.sample.ids]

    @cached_property
    def _weights(self) -> torch.Tensor:
        """How many words each one stands for, [words]."""
        weight, _ = self._rows
        return weight.new_ones(len(weight)).float() if self.sample is None else self.sample.weights

    def _places(self, targets: torch.Tensor) -> torch.Tensor:
        """Where the target ids stand among the words, [m]."""
        return targets if self.sample is None else torch.searchsorted(self.sample.ids, targets)


def new_values(states: torch.Tensor) -> torch.Tensor:
    """A float32 or wider number for each of the states, [m]."""
    return states.new_full(
        states.shape[:1], torch.nan, dtype=torch.promote_types(states.dtype, torch.float32)
    )


def take_targets(own: torch.Tensor, logits: torch.Tensor, places: torch.Tensor, words: slice) -> None:
    """Put the logits of those targets into `own` [m] whose place is among `words`; logits: [m, words]."""
    here = ((places >= words.start) & (places < words.stop)).nonzero()[:, 0]
    own[here] = logits[here, places[here] - words.start]
