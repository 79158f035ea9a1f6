"""The blocks above a layer, run again and again from residual streams that were recorded once."""

from collections.abc import Iterator, Sequence
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
        totals = torch.zeros(self.predicts.shape, dtype=torch.float64, device=token_values.device)
        totals[self.predicts] = token_values.double()
        return (totals.sum(dim=1) / self.predicts.sum(dim=1)).cpu().numpy()


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
        at_tokens = (batch.padded.is_token[..., None] * change).to(resid_post)
        with self._resumed_from(with_states(output, resid_post + at_tokens)):
            return decode(decoder, batch.padded)

    def log_probs(self, batch: RecordedBatch, change: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Log-probability (nats) of every predicted token, [m], with `change` as in `final_states`."""
        return self.head.log_probs(self.final_states(batch, change), batch.targets)

    def log_probs_and_kl(
        self, batch: RecordedBatch, change: torch.Tensor | float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [m], and KL to the model without the change per position [m], nats."""
        return self.head.log_probs_and_kl(self.final_states(batch, change), batch.targets, batch.final)
