"""Pooling: the token rows of a sentence become one row, of sparse activations or of a dense array.

`sentence_offsets` is [n + 1]; sentence i is rows `offsets[i]:offsets[i + 1]`, at least one. `max` is the
largest value of each column, `mean` averages over all tokens, silent ones included, in float64, and `final`
is the last token.
"""

import numpy as np
import scipy.sparse

POOLINGS = ("max", "mean", "final")
SENTENCES_PER_CHUNK = 256  # bounds the float64 copy that the mean of a dense array needs


def pool_sparse(
    token_acts: scipy.sparse.csc_matrix, sentence_offsets: np.ndarray, pool: str
) -> scipy.sparse.csc_matrix:
    """Reduce token activations [T, d] to sentence activations [n, d] float32, both CSC."""
    require_pooling(pool)
    if pool == "final":
        return token_acts[sentence_offsets[1:] - 1]  # [n, d]
    n_sentences = len(sentence_offsets) - 1
    n_tokens = np.diff(sentence_offsets)  # [n] int64
    token_acts.sort_indices()  # tokens of a sentence become neighbours within a column
    sentence_of_token = np.repeat(np.arange(n_sentences, dtype=np.int32), n_tokens)  # [T]
    sentence = sentence_of_token[token_acts.indices]  # [nnz] int32
    is_start = np.ones(token_acts.nnz, dtype=bool)  # first entry of each (column, sentence) run
    is_start[1:] = sentence[1:] != sentence[:-1]
    is_start[token_acts.indptr[:-1][np.diff(token_acts.indptr) > 0]] = True
    starts = np.flatnonzero(is_start)  # [nnz of the pooled matrix]
    pooled_sentence = sentence[starts]
    if pool == "max":
        pooled = np.maximum.reduceat(token_acts.data, starts)
        below = np.flatnonzero(pooled < 0)  # here a silent token, an implicit zero, is larger
        n_stored = np.append(starts, token_acts.nnz)[below + 1] - starts[below]
        pooled[below[n_stored < n_tokens[pooled_sentence[below]]]] = 0
    else:
        sums = np.add.reduceat(token_acts.data, starts, dtype=np.float64)
        pooled = (sums / n_tokens[pooled_sentence]).astype(np.float32)
    indptr = np.searchsorted(starts, token_acts.indptr)  # [d + 1]
    return scipy.sparse.csc_matrix(
        (pooled, pooled_sentence, indptr), shape=(n_sentences, token_acts.shape[1])
    )


def pool_dense(token_values: np.ndarray, sentence_offsets: np.ndarray, pool: str) -> np.ndarray:
    """Reduce token rows [T, d] of any float type to sentence rows [n, d] float32."""
    require_pooling(pool)
    starts, ends = sentence_offsets[:-1], sentence_offsets[1:]  # [n] each
    if pool == "final":
        return token_values[ends - 1].astype(np.float32)
    if pool == "max":
        return np.maximum.reduceat(token_values, starts, axis=0).astype(np.float32)
    pooled = np.empty((len(starts), token_values.shape[1]), np.float32)
    for first in range(0, len(starts), SENTENCES_PER_CHUNK):
        chunk = slice(first, first + SENTENCES_PER_CHUNK)
        low, high = starts[chunk][0], ends[chunk][-1]
        sums = np.add.reduceat(token_values[low:high].astype(np.float64), starts[chunk] - low, axis=0)
        pooled[chunk] = sums / (ends[chunk] - starts[chunk])[:, None]
    return pooled


def require_pooling(pool: str) -> None:
    """Raise ValueError unless `pool` is one of POOLINGS."""
    if pool not in POOLINGS:
        raise ValueError(f"pool is {pool!r}; expected one of {', '.join(POOLINGS)}")
