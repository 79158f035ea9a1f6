"""The blocks above a layer, run again and again from residual streams that were recorded once."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from language_model.padded_batch import PaddedBatch
from language_model.residual_stream import decoder_and_blocks, states_of, with_states
from language_model.tokens import TokenizedSentences
from language_model.vocabulary_head import VocabularyHead
from torch import nn


@dataclass(frozen=True)
class RecordedBatch:
    """One padded batch of sentences and what the model makes of it."""

    sentences: np.ndarray  # [batch] int64
    padded: PaddedBatch
    outputs: dict[int, torch.Tensor | tuple]  # by layer, what its block returned
    final: torch.Tensor  # [m, d_model], the decoder's output at the positions that predict

    @property
    def predicts(self) -> torch.Tensor:
        return predicting(self.padded)

    @property
    def targets(self) -> torch.Tensor:
        """The token ids that are predicted, [m] in the order of `predicts`."""
        return self.padded.input_ids[:, 1:][self.predicts]

    def sentence_means(self, token_values: torch.Tensor) -> np.ndarray:
        """Mean over each sentence's predicted tokens, float64 [batch], of values [m]."""
        predicts = self.predicts.cpu()
        totals = torch.zeros(predicts.shape, dtype=torch.float64)
        totals[predicts] = token_values.cpu().double()
        return (totals.sum(dim=1) / predicts.sum(dim=1)).numpy()


def predicting(padded: PaddedBatch) -> torch.Tensor:
    """Positions whose next one is a token of the sentence, bool [batch, position - 1]."""
    return padded.is_token[:, 1:]


def decode(decoder: nn.Module, padded: PaddedBatch) -> torch.Tensor:
    """The decoder's output at the positions that predict, after the final norm, [m, d_model]."""
    states = decoder(
        input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False
    ).last_hidden_state
    return states[:, :-1][predicting(padded)]


@torch.inference_mode()
def record_batches(
    model: nn.Module, layers: Sequence[int], tokenized: TokenizedSentences, batches: Sequence[np.ndarray]
) -> list[RecordedBatch]:
    """Run the model once on each batch of sentence indices, and keep what blocks of `layers` return."""
    decoder, blocks = decoder_and_blocks(model)
    device = next(decoder.parameters()).device

    def record(batch: np.ndarray) -> RecordedBatch:
        padded, outputs = PaddedBatch.of(tokenized, batch, device), {}

        def keeping(layer: int):
            return lambda _module, _args, output: outputs.update({layer: output})

        handles = [blocks[layer].register_forward_hook(keeping(layer)) for layer in layers]
        try:
            final = decode(decoder, padded)
        finally:
            for handle in handles:
                handle.remove()
        return RecordedBatch(batch, padded, outputs, final)

    return [record(batch) for batch in batches]


@dataclass(frozen=True)
class UpperBlocks:
    """A model above `layer`, on batches in which that layer was recorded."""

    head: VocabularyHead
    layer: int
    batches: list[RecordedBatch]

    @contextmanager
    def _resumed_from(self, output: torch.Tensor | tuple) -> Iterator[None]:
        """Inside, blocks up to the layer compute nothing and return `output`."""
        _, blocks = decoder_and_blocks(self.head.model)
        lower = blocks[: self.layer + 1]
        for block in lower:  # on the module itself: its attributes, which the decoder reads, stay
            block.forward = lambda *_args, **_kwargs: output
        try:
            yield
        finally:
            for block in lower:
                del block.forward

    @torch.inference_mode()
    def final_states(self, batch: RecordedBatch, change: torch.Tensor | float = 0.0) -> torch.Tensor:
        """The decoder's output at the positions that predict, [m, d_model].

        change: added to the residual stream at every token but BOS, [d_model] or [batch, position, d_model].
        """
        decoder, _ = decoder_and_blocks(self.head.model)
        output = batch.outputs[self.layer]
        resid_post = states_of(output)  # [batch, position, d_model]
        change = torch.as_tensor(change, dtype=resid_post.dtype, device=resid_post.device)
        at_tokens = batch.padded.is_token[..., None] * change
        with self._resumed_from(with_states(output, resid_post + at_tokens)):
            return decode(decoder, batch.padded)

    def mean_log_probs(self, changes: Iterable[tuple[RecordedBatch, torch.Tensor | float]]) -> np.ndarray:
        """ℓ_i of the sentences of some batches with their changes, [k] float64 in nats per token.

        NaN for sentences of other batches.
        """
        changed = [(batch, self.final_states(batch, change)) for batch, change in changes]
        return mean_log_probs(self.head, changed, self.n_sentences)

    def mean_log_probs_and_kl(self, change: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """ℓ_i of all sentences with `change`, [k], and KL to the model without it, [k], nats per token."""
        log_probs, divergences = np.empty((2, self.n_sentences))
        for batch in self.batches:
            states = self.final_states(batch, change)
            of_tokens, kl = self.head.log_probs_and_kl(states, batch.targets, batch.final)
            log_probs[batch.sentences] = batch.sentence_means(of_tokens)
            divergences[batch.sentences] = batch.sentence_means(kl)
        return log_probs, divergences

    @property
    def n_sentences(self) -> int:
        return sum(len(batch.sentences) for batch in self.batches)


def mean_log_probs(
    head: VocabularyHead, states: Sequence[tuple[RecordedBatch, torch.Tensor]], n_sentences: int
) -> np.ndarray:
    """ℓ_i of the sentences of some batches from the decoder's output [m, d_model] of each, [n_sentences]."""
    log_probs = head.log_probs(
        torch.cat([own for _, own in states]), torch.cat([batch.targets for batch, _ in states])
    )
    means = np.full(n_sentences, np.nan)
    for (batch, _), of_tokens in zip(states, log_probs.split([len(own) for _, own in states])):
        means[batch.sentences] = batch.sentence_means(of_tokens)
    return means
