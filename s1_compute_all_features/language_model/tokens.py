"""Tokens of all sentences, and how they are packed into padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POSITIONS_PER_BATCH = 64  # what reading the weights, or launching the kernels, once more costs about


@dataclass(frozen=True)
class TokenizedSentences:
    """The tokens of n sentences without special tokens, in sentence order; T tokens in all."""

    token_ids: np.ndarray  # [T] int32
    tokens: np.ndarray  # [T] str, the text of each token
    sentence_offsets: np.ndarray  # [n + 1] int64: sentence i is rows offsets[i]:offsets[i + 1]
    bos_id: int | None  # prepended to every sentence in the forward pass, never kept

    def subset(self, index: np.ndarray) -> "TokenizedSentences":
        """The sentences with the numbers `index` [k], in that order."""
        starts, ends = self.sentence_offsets[index], self.sentence_offsets[index + 1]
        rows = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends)])
        offsets = np.concatenate([[0], np.cumsum(ends - starts)])
        return TokenizedSentences(self.token_ids[rows], self.tokens[rows], offsets, self.bos_id)

    @property
    def n_tokens(self) -> np.ndarray:
        return np.diff(self.sentence_offsets)  # [n]

    @property
    def n_positions(self) -> np.ndarray:
        """Positions a sentence takes in the forward pass, BOS included."""
        return self.n_tokens + int(self.bos_id is not None)  # [n]


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


def pack_batches(
    n_tokens: np.ndarray, batch_tokens: int, positions_per_batch: int = POSITIONS_PER_BATCH
) -> list[np.ndarray]:
    """Group sentence indices, shortest first, into padded batches of at most `batch_tokens` positions.

    Sentences of neighbouring lengths are grouped such that padding, and `positions_per_batch` for each batch,
    cost least. A sentence longer than the budget forms a batch of its own. n_tokens: [n] int, BOS included.
    """
    order = np.argsort(n_tokens, kind="stable")
    widths, starts = np.unique(n_tokens[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    cheapest = [0]  # positions for all sentences shorter than a width
    groups_from = []  # per width, the shortest width that shares its batches
    for last, width in enumerate(widths):
        positions = (ends[last] - starts[: last + 1]) * width
        costs = cheapest + positions + positions_per_batch * np.ceil(positions / batch_tokens)
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
