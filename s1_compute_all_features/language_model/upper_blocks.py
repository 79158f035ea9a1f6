"""The blocks above a layer, run again and again from residual streams that were recorded once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from language_model.padded_batch import PaddedBatch
from language_model.residual_stream import decoder_and_blocks
from language_model.tokens import TokenizedSentences
from language_model.vocabulary_head import head_chunks, logits_of, target_log_probs
from torch import nn


@dataclass(frozen=True)
class RecordedBatch:
    """One padded batch of sentences and what a layer makes of it."""

    sentences: np.ndarray  # [batch] int64
    padded: PaddedBatch
    resid_post: torch.Tensor  # [batch, position, d_model] after the layer

    @property
    def predicts(self) -> torch.Tensor:
        """Positions whose next one is a token of the sentence, bool [batch, position - 1]."""
        return self.padded.is_token[:, 1:]

    @property
    def targets(self) -> torch.Tensor:
        """The token ids that are predicted, [m] in the order of `predicts`."""
        return self.padded.input_ids[:, 1:][self.predicts]

    def sentence_means(self, token_values: torch.Tensor) -> np.ndarray:
        """Mean over each sentence's predicted tokens, float64 [batch], of values [m]."""
        totals = torch.zeros(self.predicts.shape, dtype=torch.float64, device=token_values.device)
        totals[self.predicts] = token_values.double()
        return (totals.sum(dim=1) / self.predicts.sum(dim=1)).cpu().numpy()


class UpperBlocks:
    """A model above `layer`, with recorded batches to run it on."""

    @torch.inference_mode()
    def __init__(
        self, model: nn.Module, layer: int, tokenized: TokenizedSentences, batches: Sequence[np.ndarray]
    ):
        self.model, self.layer = model, layer
        self.decoder, self.blocks = decoder_and_blocks(model)
        self.gives_tuples = False  # what blocks return: transformers 4 tuples, transformers 5 tensors
        device = next(self.decoder.parameters()).device
        self.batches = [self._record(tokenized, batch, device) for batch in batches]

    def _record(
        self, tokenized: TokenizedSentences, batch: np.ndarray, device: torch.device
    ) -> RecordedBatch:
        padded = PaddedBatch.of(tokenized, batch, device)
        recorded = []

        def keep(_module, _args, output):
            self.gives_tuples = isinstance(output, tuple)
            recorded.append(output[0] if self.gives_tuples else output)

        handle = self.blocks[self.layer].register_forward_hook(keep)
        try:
            self._decode(padded)
        finally:
            handle.remove()
        return RecordedBatch(batch, padded, recorded[0])

    def _decode(self, padded: PaddedBatch) -> torch.Tensor:
        """The decoder's output [batch, position, d_model], after the final norm."""
        return self.decoder(
            input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False
        ).last_hidden_state

    @contextmanager
    def _resumed_from(self, states: torch.Tensor) -> Iterator[None]:
        """Inside, blocks up to the layer compute nothing and hand `states` to the next one."""

        def hand_over(*_args, **_kwargs):
            return (states,) if self.gives_tuples else states

        lower = self.blocks[: self.layer + 1]
        for block in lower:
            block.forward = hand_over  # on the module itself: its attributes, which the decoder reads, stay
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
        at_tokens = batch.padded.is_token[..., None] * change
        with self._resumed_from(batch.resid_post + at_tokens.to(batch.resid_post)):
            return self._decode(batch.padded)[:, :-1][batch.predicts]

    @torch.inference_mode()
    def log_probs(self, batch: RecordedBatch, change: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Log-probability (nats) of every predicted token, [m], with `change` as in `final_states`."""
        states, targets = self.final_states(batch, change), batch.targets
        return torch.cat(
            [
                target_log_probs(logits_of(self.model, self.decoder, states[chunk]), targets[chunk])
                for chunk in head_chunks(self.model, states)
            ]
        )

    @torch.inference_mode()
    def log_probs_and_kl(
        self, batch: RecordedBatch, change: torch.Tensor, unchanged: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [m], and KL(unchanged ‖ changed) per position [m], nats.

        unchanged: the decoder's output [m, d_model] without a change.
        """
        states, targets = self.final_states(batch, change), batch.targets
        log_probs, divergences = [], []
        for chunk in head_chunks(self.model, states):
            before = logits_of(self.model, self.decoder, unchanged[chunk]).log_softmax(dim=-1)
            after = logits_of(self.model, self.decoder, states[chunk]).log_softmax(dim=-1)
            divergences.append((before.exp() * (before - after)).sum(dim=-1))
            log_probs.append(after.gather(1, targets[chunk, None])[:, 0])
        return torch.cat(log_probs), torch.cat(divergences)
