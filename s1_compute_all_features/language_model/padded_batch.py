"""Sentences of unequal length side by side: right-padded, masked, BOS in front where the model has one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from language_model.tokens import TokenizedSentences

T = TypeVar("T")


@dataclass(frozen=True)
class PaddedBatch:
    """The input of one forward pass."""

    input_ids: torch.Tensor  # [batch, position] int64
    is_token: torch.Tensor  # [batch, position] bool: neither BOS nor padding
    attention_mask: torch.Tensor  # [batch, position] int64, 1 at tokens and BOS
    rows: np.ndarray  # [k] int64, where the k tokens stand in the `[T]` token arrays

    @classmethod
    def of(cls, tokenized: TokenizedSentences, batch: np.ndarray, device: torch.device) -> "PaddedBatch":
        """Pad the sentences with the indices `batch`."""
        has_bos = int(tokenized.bos_id is not None)
        lengths = tokenized.n_positions[batch]  # [batch]
        input_ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        is_token = torch.zeros(input_ids.shape, dtype=torch.bool)
        for row, (index, length) in enumerate(zip(batch, lengths)):
            start, stop = tokenized.sentence_offsets[index : index + 2]
            own = torch.from_numpy(tokenized.token_ids[start:stop].astype(np.int64))
            if has_bos:
                input_ids[row, 0] = tokenized.bos_id
            input_ids[row, has_bos:length] = own
            is_token[row, has_bos:length] = True
        attention_mask = is_token.long()
        attention_mask[:, :has_bos] = 1
        starts = tokenized.sentence_offsets[batch]
        rows = np.concatenate([np.arange(a, a + k) for a, k in zip(starts, tokenized.n_tokens[batch])])
        return cls(input_ids.to(device), is_token.to(device), attention_mask.to(device), rows)


def halved_where_needed(batches: Sequence[np.ndarray], compute: Callable[[np.ndarray], T]) -> Iterator[T]:
    """Yield `compute(batch)` for each batch of sentence indices; one that runs out of memory is halved.

    Raises:
        torch.OutOfMemoryError: one sentence alone does not fit.
    """
    pending = list(batches)[::-1]
    while pending:
        batch = pending.pop()
        try:
            yield compute(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            pending += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
