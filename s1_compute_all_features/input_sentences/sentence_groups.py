"""Which sentences must not be split between training and test: those of one scene, and near-duplicates."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer

MIN_JACCARD = 0.7
GRAM = 5  # characters


def sentence_groups(sentences: pd.DataFrame) -> np.ndarray:
    """Return `[n]` int64: a number shared by sentences that must not be split between training and test.

    Sentences belong together when they share the input's `group` (scenario id), when they are the same but
    for letter case, punctuation and spacing, or when the Jaccard similarity of their character 5-grams is
    at least `MIN_JACCARD`; chains of such pairs are one group.
    """
    texts = list(sentences["sentence"])
    links = [near_duplicates(texts), links_within(list(map(same_words_key, texts)))]
    if "group" in sentences:
        links.append(links_within(sentences["group"].astype(str).str.strip().replace("", None)))
    rows, columns = (np.concatenate(side) for side in zip(*links))
    shape = (len(texts), len(texts))
    graph = scipy.sparse.coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=shape)
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def same_words_key(sentence: str) -> str:
    """Return what is left without letter case, punctuation and spacing.

    Equal wherever stage 0 (which drops such duplicates) or stage 5 (which refuses them in two groups) takes
    two sentences for the same.
    """
    return re.sub(r"\W+", "", sentence.casefold())


def links_within(names: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return `(rows, columns)` that link each row to the first one of its name; None is no name."""
    codes = pd.factorize(pd.Series(names, dtype=object))[0]  # [n], -1 where there is no name
    named = np.flatnonzero(codes >= 0)
    _, first, inverse = np.unique(codes[named], return_index=True, return_inverse=True)
    return named, named[first][inverse]


def near_duplicates(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return `(rows, columns)` of the pairs of sentences whose 5-grams are alike, each with itself too."""
    vectorizer = CountVectorizer(
        analyzer="char", ngram_range=(GRAM, GRAM), binary=True, lowercase=True, dtype=np.float32
    )
    grams = vectorizer.fit_transform([text.ljust(GRAM, "\0") for text in texts])  # [n, n_grams] binary CSR
    sizes = np.asarray(grams.sum(axis=1)).ravel()  # [n]
    links = []
    for start in range(0, len(texts), 1000):  # so that 10,000 sentences need no [n, n] matrix
        shared = (grams[start : start + 1000] @ grams.T).tocoo()
        union = sizes[start + shared.row] + sizes[shared.col] - shared.data
        near = shared.data >= MIN_JACCARD * union
        links.append((start + shared.row[near], shared.col[near]))
    rows, columns = (np.concatenate(side) for side in zip(*links))
    return rows, columns
