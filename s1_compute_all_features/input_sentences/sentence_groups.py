"""Which sentences must not be split between training and test: those of one scene, and near-duplicates."""

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer


def sentence_groups(sentences: pd.DataFrame, min_jaccard: float = 0.7) -> np.ndarray:
    """Return `[n]` int64: a number shared by sentences that must not be split between training and test.

    Sentences belong together when they share the input's `group` (scenario id), or when the Jaccard
    similarity of their character 5-grams is at least `min_jaccard`; chains of such pairs are one group.
    """
    n = len(sentences)
    vectorizer = CountVectorizer(
        analyzer="char", ngram_range=(5, 5), binary=True, lowercase=True, dtype=np.float32
    )
    padded = sentences["sentence"].str.ljust(5)  # a one-word sentence still has one 5-gram
    grams = vectorizer.fit_transform(padded)  # [n, n_grams] binary CSR
    sizes = np.asarray(grams.sum(axis=1)).ravel()  # [n]
    links = []
    for start in range(0, n, 1000):  # rows at a time, so that 10,000 sentences need no [n, n] matrix
        shared = (grams[start : start + 1000] @ grams.T).tocoo()
        union = sizes[start + shared.row] + sizes[shared.col] - shared.data
        near = shared.data >= min_jaccard * union
        links.append((start + shared.row[near], shared.col[near]))
    rows, columns = (np.concatenate(side) for side in zip(*links))
    if "group" in sentences:
        scenario = pd.factorize(sentences["group"])[0]
        # A star from each scenario's first sentence connects the scenario.
        first = pd.Series(np.arange(n)).groupby(scenario).transform("first").to_numpy()
        given = sentences["group"].astype(str).str.strip().ne("").to_numpy()
        rows, columns = np.concatenate([rows, np.arange(n)[given]]), np.concatenate([columns, first[given]])
    graph = scipy.sparse.coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
