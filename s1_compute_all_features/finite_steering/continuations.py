"""What the steered model writes after neutral openings, and how likely the unsteered model finds it.

Every feature, opening, dose and decoding is a row of one batch, and all rows stand at the same position: one
whose opening is longer reads on while others write already, so that nothing is padded and the key-value cache
is shared.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
import torch
from finite_steering.directions import Direction
from language_model.padded_batch import PaddedBatch
from language_model.residual_stream import decoder_and_blocks, states_of, with_states
from language_model.tokens import TokenizedSentences
from language_model.vocabulary_head import VocabularyHead, head_chunks, logits_of
from torch import nn
from transformers import DynamicCache, PreTrainedTokenizerBase

OPENINGS = (
    "Yesterday my neighbour",
    "When the bus stopped, the man beside me",
    "I have worked here for two years and",
    "My sister phoned this morning because",
)
DECODINGS = ("greedy", "sampled")


@dataclass(frozen=True)
class Writing:
    """How continuations are written."""

    prompts: tuple[str, ...]
    tokenized: TokenizedSentences  # of the prompts
    n_tokens: int
    seed: int


@dataclass(frozen=True)
class Place:
    """After which layer what is added."""

    layer: int
    direction: Direction


@dataclass(frozen=True)
class Pen:
    """One row of the batch: what it continues, how, and where and how strongly it is steered."""

    prompt: int
    alpha: float
    decoding: str
    place: Place | None  # None: the unsteered model, whose only dose is 0


def write_continuations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    places: Sequence[Place | None],
    alphas: Sequence[float],
    writing: Writing,
) -> list[list[dict]]:
    """Greedy and sampled continuations of every prompt at every dose, a list for each of the places."""
    prompts = with_bos(writing.tokenized)
    pens = [
        Pen(*choice, place)
        for place in places
        for choice in product(range(len(prompts)), (0.0,) if place is None else alphas, DECODINGS)
    ]
    with steered(model, pens, tokenizer.bos_token_id is not None):
        written = write(model, prompts, pens, writing)  # [row, n_tokens]
    ends = ids_that_end(model, tokenizer)
    kept = [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in written]
    texts = [
        {
            "prompt": writing.prompts[pen.prompt],
            "decoding": pen.decoding,
            "seed": writing.seed if pen.decoding == "sampled" else None,
            "alpha": pen.alpha,
            "text": tokenizer.decode(ids, skip_special_tokens=True),
            "perplexity": perplexity,
        }
        for pen, ids, perplexity in zip(pens, kept, perplexities(model, prompts, pens, kept))
    ]
    return [[text for pen, text in zip(pens, texts) if pen.place is place] for place in places]


def ids_that_end(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens after which a text is over."""
    named = model.generation_config.eos_token_id
    return {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id} - {None}


def with_bos(prompts: TokenizedSentences) -> list[list[int]]:
    """The token ids of each prompt, BOS in front where the model has one."""
    bos = [] if prompts.bos_id is None else [prompts.bos_id]
    bounds = zip(prompts.sentence_offsets, prompts.sentence_offsets[1:])
    return [[*bos, *prompts.token_ids[start:stop].tolist()] for start, stop in bounds]


@contextmanager
def steered(model: nn.Module, pens: list[Pen], has_bos: bool) -> Iterator[None]:
    """Inside, each row gets its α times its direction after its layer, at every position but BOS."""
    _, blocks = decoder_and_blocks(model)
    with ExitStack() as hooks:
        for layer in {pen.place.layer for pen in pens if pen.place}:
            handle = blocks[layer].register_forward_hook(adding(changes_after(layer, pens), has_bos))
            hooks.callback(handle.remove)
        yield


def changes_after(layer: int, pens: list[Pen]) -> torch.Tensor:
    """What each row gets after `layer`, [row, 1, d_model]; nothing for those that are steered elsewhere."""
    d_model = next(len(pen.place.direction.vector) for pen in pens if pen.place)
    changes = torch.zeros(len(pens), 1, d_model)
    for row, pen in enumerate(pens):
        if pen.place and pen.place.layer == layer:
            changes[row, 0] = pen.alpha * pen.place.direction.vector
    return changes


def adding(changes: torch.Tensor, has_bos: bool) -> Callable:
    """A forward hook that adds `changes` [row, 1, d_model] at every position but BOS."""
    at_start = has_bos

    def hook(_module, _args, output):
        nonlocal at_start
        states = states_of(output)  # [row, position, d_model]
        where = torch.ones(states.shape[1], 1)
        where[0] = 0 if at_start else 1
        at_start = False  # later calls go on behind BOS
        return with_states(output, states + (where * changes).to(states))

    return hook


@torch.inference_mode()
def write(model: nn.Module, prompts: list[list[int]], pens: list[Pen], writing: Writing) -> list[list[int]]:
    """Return `writing.n_tokens` token ids for each row, whatever they are: a text may end before.

    Sampled rows of one prompt share their random numbers, so that doses differ by what steering does: a token
    is the one with the largest sum of log-probability and Gumbel noise, which is a draw from the model.
    """
    decoder, _ = decoder_and_blocks(model)
    device, head = next(decoder.parameters()).device, model.get_output_embeddings()
    rows = [list(prompts[pen.prompt]) for pen in pens]
    prompt_of_row = torch.tensor([pen.prompt for pen in pens])
    is_sampled = torch.tensor([pen.decoding == "sampled" for pen in pens], device=device)
    generator = torch.Generator().manual_seed(writing.seed)
    cache = DynamicCache(config=model.config)
    done, reached = 0, min(map(len, prompts))
    while reached < max(map(len, prompts)) + writing.n_tokens:
        ids = torch.tensor([row[done:reached] for row in rows], device=device)
        states = decoder(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        noise = -torch.empty(len(prompts), len(head.weight)).exponential_(generator=generator).log_()
        chosen = []
        for chunk in head_chunks(head, states):
            logits = logits_of(model, decoder, states[chunk])
            drawn = is_sampled[chunk]
            logits[drawn] += noise[prompt_of_row[chunk][drawn.cpu()]].to(logits)
            chosen += logits.argmax(dim=1).tolist()
        for row, token in zip(rows, chosen):
            if len(row) == reached:  # where not, a longer prompt is still being read
                row.append(token)
        done, reached = reached, reached + 1
    starts = [len(prompts[pen.prompt]) for pen in pens]
    return [row[start : start + writing.n_tokens] for row, start in zip(rows, starts)]


@torch.inference_mode()
def perplexities(
    model: nn.Module, prompts: list[list[int]], pens: list[Pen], written: list[list[int]]
) -> list[float | None]:
    """The unsteered model's perplexity of what each row wrote behind its prompt; None where it is nothing."""
    decoder, _ = decoder_and_blocks(model)
    texts = [prompts[pen.prompt] + ids for pen, ids in zip(pens, written)]
    flat = np.array(list(chain(*texts)), dtype=np.int32)
    offsets = np.cumsum([0, *map(len, texts)])
    whole = TokenizedSentences(flat, flat.astype(np.str_), offsets, bos_id=None)  # BOS is a token here
    padded = PaddedBatch.of(whole, np.arange(len(texts)), next(decoder.parameters()).device)
    starts = torch.tensor([len(prompts[pen.prompt]) for pen in pens], device=padded.is_token.device)
    places = torch.arange(1, padded.is_token.shape[1], device=starts.device)
    wanted = padded.is_token[:, 1:] & (places >= starts[:, None])  # [row, position - 1]
    states = decoder(
        input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False
    ).last_hidden_state[:, :-1][wanted]
    targets = padded.input_ids[:, 1:][wanted]
    log_probs = VocabularyHead(model).log_probs(states, targets).double()
    of_rows = log_probs.split([len(ids) for ids in written])
    return [math.exp(-values.mean()) if len(values) else None for values in of_rows]
