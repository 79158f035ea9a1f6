"""The residual stream of all sentences, every layer in one forward pass per batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from language_model.padded_batch import PaddedBatch, halved_where_needed
from language_model.tokens import TokenizedSentences
from torch import nn

EMBEDDINGS = "embeddings"  # the key under which record_residual_stream keeps what enters block 0


class AllRecorded(Exception):
    """The last block that is wanted has been recorded: a way out of the forward pass, not an error."""


def decoder_and_blocks(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """Return the decoder stack (no vocabulary head) and its list of blocks.

    The block list is the outermost `ModuleList` with as many entries as the configuration has layers.

    Raises:
        ValueError: there is none; the message lists the module lists that were found.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    matching = sorted((name.count("."), name) for name, module in lists if len(module) == n_layers)
    if not matching:
        found = ", ".join(f"{name}[{len(module)}]" for name, module in lists) or "none"
        raise ValueError(
            f"{type(model).__name__}: no list of {n_layers} blocks found; its module lists are: {found}. "
            "Only decoder-only language models are supported"
        )
    name = matching[0][1]
    parent = name.rpartition(".")[0]
    return model.get_submodule(parent), model.get_submodule(name)


def states_of(output: torch.Tensor | tuple) -> torch.Tensor:
    """The residual stream in what a block returns: a tuple in transformers 4, a tensor in transformers 5."""
    return output[0] if isinstance(output, tuple) else output


def with_states(output: torch.Tensor | tuple, states: torch.Tensor) -> torch.Tensor | tuple:
    """What a block returned, with another residual stream in it."""
    return (states, *output[1:]) if isinstance(output, tuple) else states


@contextmanager
def record_residual_stream(
    blocks: nn.ModuleList,
    layers: Sequence[int],
    keep: Callable[[torch.Tensor], torch.Tensor],
    stop_after_last: bool = False,
) -> Iterator[dict]:
    """Yield a dict that a forward pass fills with `keep(resid_post)` by layer, and of what enters block 0.

    resid_post is the residual stream after a block, `[batch, position, d_model]`, before any final norm.
    Hooks are removed on leaving, whatever happens inside. stop_after_last: leave the `with` block as soon as
    the last of `layers` is recorded; blocks above it are not computed.
    """
    recorded: dict = {}
    last = max(layers, default=EMBEDDINGS) if stop_after_last else None

    def record_output(layer: int) -> Callable:
        def hook(_module, _args, output):
            recorded[layer] = keep(states_of(output))
            if layer == last:
                raise AllRecorded

        return hook

    def record_input(_module, args, kwargs):
        recorded[EMBEDDINGS] = keep(args[0] if args else kwargs["hidden_states"])
        if last == EMBEDDINGS:
            raise AllRecorded

    handles = [blocks[0].register_forward_pre_hook(record_input, with_kwargs=True)]
    handles += [blocks[layer].register_forward_hook(record_output(layer)) for layer in layers]
    try:
        yield recorded
    except AllRecorded:
        pass
    finally:
        for handle in handles:
            handle.remove()


def residual_stream_batches(
    model: nn.Module, tokenized: TokenizedSentences, layers: Sequence[int], batches: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, dict]]:
    """Yield `(rows, states)` per batch; each of states is CPU `[len(rows), d_model]` float32.

    `rows` are the positions in the `[T]` token arrays; `batches` hold sentence indices, as pack_batches
    makes them. A batch that does not fit the device's memory is halved and repeated.
    """
    decoder, blocks = decoder_and_blocks(model)
    device = next(decoder.parameters()).device

    @torch.inference_mode()
    def run(batch: np.ndarray) -> tuple[np.ndarray, dict]:
        padded = PaddedBatch.of(tokenized, batch, device)

        def keep(states: torch.Tensor) -> torch.Tensor:
            return states[padded.is_token].float().cpu()

        with record_residual_stream(blocks, layers, keep, stop_after_last=True) as states:
            decoder(input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False)
        return padded.rows, states

    yield from halved_where_needed(batches, run)
