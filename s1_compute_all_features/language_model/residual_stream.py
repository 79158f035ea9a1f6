"""Tokens, embeddings and the residual stream of all sentences, every layer in one forward pass per batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

POSITIONS_PER_BATCH = 64  # what reading the weights, or launching the kernels, once more costs about
EMBEDDINGS = "embeddings"  # the key under which record_residual_stream keeps what enters block 0


class AllRecorded(Exception):
    """The last block that is wanted has been recorded: a way out of the forward pass, not an error."""


@dataclass(frozen=True)
class TokenizedSentences:
    """The tokens of n sentences without special tokens, in sentence order; T tokens in all."""

    token_ids: np.ndarray  # [T] int32
    tokens: np.ndarray  # [T] str, the text of each token
    sentence_offsets: np.ndarray  # [n + 1] int64: sentence i is rows offsets[i]:offsets[i + 1]
    bos_id: int | None  # prepended to every sentence in the forward pass, never kept

    @property
    def n_tokens(self) -> np.ndarray:
        return np.diff(self.sentence_offsets)  # [n]

    @property
    def n_positions(self) -> np.ndarray:
        """Positions a sentence takes in the forward pass, BOS included."""
        return self.n_tokens + int(self.bos_id is not None)  # [n]


def read_config(model: str, *, revision=None, local_files_only=False):
    """Return `(config, tokenizer)` of a causal language model, without its weights.

    Raises:
        FileNotFoundError: they cannot be had; the message says whether the model is gated, unknown, offline
            or without such a revision, and what to do.
    """
    from hub_files import is_local_folder, named_failures, require_hub_file
    from transformers import AutoConfig, AutoTokenizer

    if not is_local_folder(model):
        require_hub_file(model, "config.json", revision, local_files_only)
    source = {"revision": revision, "local_files_only": local_files_only}
    with named_failures(model, None, revision, option="--model", local_files_only=local_files_only):
        return AutoConfig.from_pretrained(model, **source), AutoTokenizer.from_pretrained(model, **source)


def load_weights(
    model: str, config, *, dtype: torch.dtype, device: torch.device, revision=None, local_files_only=False
) -> nn.Module:
    """Return the causal language model in evaluation mode on `device`.

    Attention is left at the architecture's own default except for Gemma 2, whose soft-capped logits
    only the eager kernel computes.

    Raises:
        FileNotFoundError: the weights cannot be had.
    """
    from hub_files import is_local_folder, named_failures, require_weights
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # its bar of weights would stand between ours
    attention = {"attn_implementation": "eager"} if config.model_type == "gemma2" else {}
    source = {"revision": revision, "local_files_only": local_files_only}
    if not is_local_folder(model):
        require_weights(model, revision, local_files_only)
    with named_failures(model, None, revision, option="--model", local_files_only=local_files_only):
        network = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **attention, **source)
    return network.eval().to(device)


def load_model(
    model: str, *, dtype: torch.dtype, device: torch.device, revision=None, local_files_only=False
):
    """Return `(model, tokenizer)`: `load_weights` and `read_config` in one."""
    source = {"revision": revision, "local_files_only": local_files_only}
    config, tokenizer = read_config(model, **source)
    return load_weights(model, config, dtype=dtype, device=device, **source), tokenizer


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
            # transformers 4 blocks return a tuple, transformers 5 blocks a tensor.
            recorded[layer] = keep(output[0] if isinstance(output, tuple) else output)
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


def tokenize(sentences: Sequence[str], tokenizer, max_positions: int) -> TokenizedSentences:
    """Tokenise each sentence without special tokens and give every token its stretch of the sentence.

    A token's text starts where the one before it ended, so blanks stay and the texts of a sentence join
    to the sentence. A token that adds no character (one more byte of the same emoji) shows its raw form.

    Raises:
        ValueError: a sentence has no token, or with BOS does not fit into `max_positions`.
    """
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    encoded = tokenizer(list(sentences), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    ids: list[int] = []
    texts: list[str] = []
    offsets = [0]
    for index, sentence in enumerate(sentences):
        sentence_ids = encoded["input_ids"][index]
        raw = tokenizer.convert_ids_to_tokens(sentence_ids)
        ends = [end for _, end in encoded["offset_mapping"][index]] if tokenizer.is_fast else None
        reached = 0
        for position, token_id in enumerate(sentence_ids):
            if ends is None:
                text = raw[position].replace("▁", " ")
            elif ends[position] > reached:
                text = sentence[reached : ends[position]]
                reached = ends[position]
            else:
                text = raw[position]
            if (
                token_id in special
            ):  # a sentence that spells out "<bos>": not a token of the SAE's training data
                continue
            ids.append(token_id)
            texts.append(text)
        length = len(ids) - offsets[-1]
        shown = sentence if len(sentence) <= 60 else sentence[:57] + "..."
        if length == 0:
            raise ValueError(f"sentence {index} ({shown!r}) has no token")
        if length + 1 > max_positions:
            raise ValueError(
                f"sentence {index} ({shown!r}) has {length} tokens, the model's context holds "
                f"{max_positions - 1} beside BOS: shorten or split it"
            )
        offsets.append(len(ids))
    return TokenizedSentences(
        token_ids=np.array(ids, dtype=np.int32),  # [T]
        tokens=np.array(texts, dtype=np.str_),  # [T]
        sentence_offsets=np.array(offsets, dtype=np.int64),  # [n + 1]
        bos_id=tokenizer.bos_token_id,
    )


def pack_batches(n_tokens: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sentence indices, shortest first, into padded batches of at most `batch_tokens` positions.

    Sentences of neighbouring lengths are grouped such that padding, and `POSITIONS_PER_BATCH` for each batch,
    cost least. A sentence longer than the budget forms a batch of its own. n_tokens: [n] int, BOS included.
    """
    order = np.argsort(n_tokens, kind="stable")
    widths, starts = np.unique(n_tokens[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    cheapest = [0]  # positions for all sentences shorter than a width
    groups_from = []  # per width, the shortest width that shares its batches
    for last, width in enumerate(widths):
        positions = (ends[last] - starts[: last + 1]) * width
        costs = cheapest + positions + POSITIONS_PER_BATCH * np.ceil(positions / batch_tokens)
        groups_from.append(int(costs.argmin()))
        cheapest.append(costs.min())
    batches: list[np.ndarray] = []
    last = len(widths) - 1
    while last >= 0:
        first = groups_from[last]
        at_once = max(1, batch_tokens // int(widths[last]))
        group = order[starts[first] : ends[last]]
        # From the longest down, so that the short rest of a group is of its shortest sentences.
        batches += [group[max(0, stop - at_once) : stop] for stop in range(len(group), 0, -at_once)]
        last = first - 1
    return batches[::-1]


@torch.inference_mode()
def residual_stream_batches(
    model: nn.Module, tokenized: TokenizedSentences, layers: Sequence[int], batches: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, dict]]:
    """Yield `(rows, states)` per batch; each of states is CPU `[len(rows), d_model]` float32.

    `rows` are the positions in the `[T]` token arrays; `batches` hold sentence indices, as pack_batches
    makes them. Batches are right-padded and masked, BOS is prepended and left out again. A batch that does
    not fit the device's memory is halved and repeated.
    """
    decoder, blocks = decoder_and_blocks(model)
    device = next(decoder.parameters()).device
    has_bos = int(tokenized.bos_id is not None)
    lengths = tokenized.n_positions  # [n]
    pending = list(batches)[::-1]
    while pending:
        batch = pending.pop()
        width = int(lengths[batch].max())
        input_ids = torch.zeros(len(batch), width, dtype=torch.long)  # [batch, position]
        is_token = torch.zeros(len(batch), width, dtype=torch.bool)  # [batch, position]
        for row, index in enumerate(batch):
            start, stop = tokenized.sentence_offsets[index : index + 2]
            if has_bos:
                input_ids[row, 0] = tokenized.bos_id
            input_ids[row, has_bos : lengths[index]] = torch.from_numpy(
                tokenized.token_ids[start:stop].astype(np.int64)
            )
            is_token[row, has_bos : lengths[index]] = True
        attention_mask = is_token.long()
        attention_mask[:, :has_bos] = 1
        kept = is_token.to(device)

        def keep(states: torch.Tensor, kept: torch.Tensor = kept) -> torch.Tensor:
            return states[kept].float().cpu()

        try:
            with record_residual_stream(blocks, layers, keep, stop_after_last=True) as states:
                decoder(
                    input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False
                )
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            pending += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        starts = tokenized.sentence_offsets[batch]
        rows = np.concatenate([np.arange(a, a + k) for a, k in zip(starts, tokenized.n_tokens[batch])])
        yield rows, states
