"""When two sentences count as the same, and when as nearly the same."""

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

NEAR_DUPLICATE_JACCARD = 0.7


def normalise(sentence: str) -> str:
    """The form in which two sentences count as the same: case, punctuation and spacing do not matter."""
    return " ".join(re.sub(r"[^\w\s]", "", sentence.casefold()).split())


def near_duplicates(
    sentences: Sequence[str], threshold: float = NEAR_DUPLICATE_JACCARD, block: int = 1000
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, jaccard) with i < j whose sets of character 5-grams overlap by at least `threshold`.

    Sentences equal after normalising count as 1.0, also when they are shorter than one 5-gram. Intersections
    are counted by a sparse product, `block` rows at a time: memory grows with n, not with n squared.
    """
    texts = [normalise(sentence) for sentence in sentences]
    pairs = {}
    first: dict[str, int] = {}
    for j, text in enumerate(texts):
        if text in first:
            pairs[first[text], j] = 1.0
        else:
            first[text] = j
    if any(len(text) >= 5 for text in texts):
        vectorizer = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True, dtype=np.int32)
        grams = vectorizer.fit_transform(texts)  # [n, n_grams] 0/1
        sizes = np.asarray(grams.sum(axis=1)).ravel()  # [n] number of different 5-grams
        for start in range(0, len(texts), block):
            shared = (grams[start : start + block] @ grams.T).tocoo()  # [block, n] common 5-grams
            i, j = shared.row + start, shared.col
            jaccard = shared.data / (sizes[i] + sizes[j] - shared.data)
            keep = (i < j) & (jaccard >= threshold)
            pairs |= {(int(a), int(b)): float(c) for a, b, c in zip(i[keep], j[keep], jaccard[keep])}
    return [(i, j, jaccard) for (i, j), jaccard in sorted(pairs.items())]


def duplicate_rows(sentences: Sequence[str]) -> set[int]:
    """Indices to drop so that no near-duplicate pair remains, the earlier sentence of a pair being kept."""
    dropped: set[int] = set()
    for i, j, _ in near_duplicates(sentences):  # sorted by i: the fate of i is known before its pairs come
        if i not in dropped:
            dropped.add(j)
    return dropped
