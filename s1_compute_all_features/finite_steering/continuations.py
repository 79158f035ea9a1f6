"""What the steered model writes after neutral openings, and how likely the unsteered model finds it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from finite_steering.directions import Direction
from language_model.residual_stream import decoder_and_blocks
from language_model.vocabulary_head import target_log_probs
from torch import nn
from transformers import PreTrainedTokenizerBase

OPENINGS = (
    "Yesterday my neighbour",
    "When the bus stopped, the man beside me",
    "I have worked here for two years and",
    "My sister phoned this morning because",
)


@dataclass(frozen=True)
class Writing:
    """How continuations are written."""

    prompts: tuple[str, ...]
    n_tokens: int
    seed: int


@contextmanager
def steered(model: nn.Module, layer: int, change: torch.Tensor) -> Iterator[None]:
    """Inside, `change` [d_model] is added after `layer` at every position but the first, which is BOS."""
    _, blocks = decoder_and_blocks(model)

    def add(_module, _args, output):
        states = output[0] if isinstance(output, tuple) else output
        at = torch.ones(states.shape[1], 1, device=states.device, dtype=states.dtype)
        if states.shape[1] > 1:  # the prompt; later tokens come one at a time
            at[0] = 0
        states = states + at * change.to(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = blocks[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def write_continuations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    direction: Direction,
    alphas: Sequence[float],
    writing: Writing,
) -> list[dict]:
    """Greedy and sampled continuations of every prompt at every dose, 0 among them."""
    found = []
    for prompt in writing.prompts:
        start = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        bos = torch.full_like(start[:, :1], tokenizer.bos_token_id)
        start = torch.cat([bos, start], dim=1).to(next(model.parameters()).device)
        for alpha in sorted({0.0, *alphas}):
            for decoding in ("greedy", "sampled"):
                torch.manual_seed(writing.seed)
                with steered(model, layer, alpha * direction.vector):
                    ids = model.generate(
                        start,
                        attention_mask=torch.ones_like(start),
                        do_sample=decoding == "sampled",
                        max_new_tokens=writing.n_tokens,
                        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                        **({"top_k": 0, "top_p": 1.0} if decoding == "sampled" else {"temperature": None}),
                    )
                found.append(
                    {
                        "prompt": prompt,
                        "decoding": decoding,
                        "seed": writing.seed if decoding == "sampled" else None,
                        "alpha": alpha,
                        "text": tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True),
                        "perplexity": perplexity(model, ids, start.shape[1]),
                    }
                )
    return found


def perplexity(model: nn.Module, ids: torch.Tensor, prompt_length: int) -> float | None:
    """The unsteered model's perplexity of `ids` [1, positions] behind the prompt; None where nothing is."""
    if ids.shape[1] == prompt_length:
        return None
    logits = model(ids).logits[0, prompt_length - 1 : -1].float()
    return float(torch.exp(-target_log_probs(logits, ids[0, prompt_length:]).mean()))
