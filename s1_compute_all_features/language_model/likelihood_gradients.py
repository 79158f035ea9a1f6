"""Derivatives of each sentence's log-likelihood with respect to the residual stream, all layers in one pass.

ℓ_i is the mean log-probability per token (nats) of sentence i after BOS. To first order in δ, adding δ to the
residual stream after a block at token t changes ℓ_i by δ · g_t, with g_t = ∂ℓ_i/∂resid_post(layer, t), which
`autoencoders/sae_effects.py` turns into the effect of every feature.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from language_model.padded_batch import PaddedBatch, halved_where_needed
from language_model.residual_stream import decoder_and_blocks, record_residual_stream
from language_model.tokens import TokenizedSentences
from language_model.vocabulary_head import head_chunks, logits_of, target_log_probs
from torch import nn

MOST_POSITIONS = 768  # of a batch: the blocks keep 1 MB a position for the backward pass in Gemma 3 270M


@dataclass(frozen=True)
class BatchGradients:
    """What one batch of sentences gives, for k tokens, on the CPU."""

    sentences: np.ndarray  # [batch] int64, which they are
    rows: np.ndarray  # [k] int64, where the tokens stand in the `[T]` token arrays
    by_layer: dict[int, torch.Tensor]  # ∂ℓ_i/∂resid_post [k, d_model], float32 or wider
    log_probs: torch.Tensor  # [k] of each token given those before; NaN for a first token without BOS


def gradient_batches(
    model: nn.Module, tokenized: TokenizedSentences, layers: Sequence[int], batches: Sequence[np.ndarray]
) -> Iterator[BatchGradients]:
    """Yield the gradients of the sentences of each batch.

    `batches` hold sentence indices, as pack_batches makes them. One that does not fit the device's memory is
    halved and repeated.
    """
    with differentiable_embeddings(model):
        yield from halved_where_needed(
            batches, lambda batch: batch_gradients(model, tokenized, layers, batch)
        )


@contextmanager
def differentiable_embeddings(model: nn.Module) -> Iterator[None]:
    """Inside, a forward pass can be differentiated down to the embeddings, and no weight gets a gradient."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trainable:
        weight.requires_grad_(False)
    embed = model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _module, _args, output: output.requires_grad_(True))
    try:
        yield
    finally:
        handle.remove()
        for weight in trainable:
            weight.requires_grad_(True)


@torch.enable_grad()
def batch_gradients(
    model: nn.Module, tokenized: TokenizedSentences, layers: Sequence[int], batch: np.ndarray
) -> BatchGradients:
    """One forward and one backward pass for all `layers`, to be called in `differentiable_embeddings`."""
    decoder, blocks = decoder_and_blocks(model)
    padded = PaddedBatch.of(tokenized, batch, next(decoder.parameters()).device)
    with record_residual_stream(blocks, layers, keep=lambda states: states) as recorded:
        final = decoder(
            input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False
        ).last_hidden_state  # [batch, position, d_model], after the final norm
    predicts = padded.is_token[:, 1:]  # [batch, position - 1]: the token one to the right counts
    share = predicts / predicts.sum(dim=1, keepdim=True).clamp(min=1)  # of a position in its sentence's mean
    log_probs, gradient = head_gradients(
        model,
        decoder,
        final.detach()[:, :-1][predicts],
        targets=padded.input_ids[:, 1:][predicts],
        weights=share.to(final.dtype)[predicts],
    )
    of_final = torch.zeros_like(final)
    of_final[:, :-1][predicts] = gradient
    gradients = torch.autograd.grad(final, [recorded[layer] for layer in layers], of_final)
    token_log_probs = torch.full_like(final[..., 0], torch.nan)  # [batch, position]
    token_log_probs[:, 1:][predicts] = log_probs.to(final.dtype)
    return BatchGradients(
        sentences=batch,
        rows=padded.rows,
        by_layer={k: widened(states[padded.is_token]) for k, states in zip(layers, gradients)},
        log_probs=widened(token_log_probs.detach()[padded.is_token]),
    )


def head_gradients(
    model: nn.Module, decoder: nn.Module, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [m] of `targets`, and the gradient [m, d_model] of their weighted sum.

    states: [m, d_model], the decoder's output at the positions that predict; targets: [m] token ids;
    weights: [m].
    """
    log_probs, gradient = torch.empty_like(weights), torch.empty_like(states)
    for chunk in head_chunks(model.get_output_embeddings(), states):
        leaf = states[chunk].requires_grad_(True)
        own = target_log_probs(logits_of(model, decoder, leaf), targets[chunk])
        gradient[chunk] = torch.autograd.grad((own * weights[chunk]).sum(), leaf)[0]
        log_probs[chunk] = own.detach()
    return log_probs, gradient


def widened(values: torch.Tensor) -> torch.Tensor:
    return (values if values.dtype == torch.float64 else values.float()).cpu()
