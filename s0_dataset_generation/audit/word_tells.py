"""Words that stand in the sentences of one label more often than in those of the others."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import norm
from sentences.labelled_tables import LABELS
from sentences.near_duplicates import normalise
from sklearn.feature_extraction.text import CountVectorizer

MIN_SENTENCES = 5  # an n-gram in fewer sentences is not tested
ALPHA = 0.01  # family-wise, Bonferroni over all tested n-grams and labels
TOKEN = r"(?u)\b\w[\w'’]*\b"  # keeps "I", "a" and "didn't"


def first_word(sentence: str) -> str:
    words = normalise(sentence).split()
    return words[0] if words else ""


def one_sided_words(presence: csr_array, labels: np.ndarray, words: Sequence[str]) -> list[dict]:
    """How much more often each word stands in the sentences of one label than in those of the others.

    presence: int [n, n_words], 0 or 1, sparse; labels: int [n]. z is the pooled two-proportion statistic,
    whose square is Pearson's chi-squared of the 2 x 2 table. One entry per word and label with z > 0, the
    largest z first; `telling` where its two-sided p, times the number of tests, is below ALPHA.
    """
    limit = telling_limit(presence.shape[1])
    found = []
    for label in LABELS:
        inside = labels == label
        n_in, n_out = inside.sum(), (~inside).sum()
        if n_in == 0 or n_out == 0:
            continue
        k_in, k_out = presence[inside].sum(axis=0), presence[~inside].sum(axis=0)  # [n_words] sentences
        pooled = (k_in + k_out) / (n_in + n_out)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n_in + 1 / n_out))
        z = np.divide(k_in / n_in - k_out / n_out, spread, out=np.zeros(len(words)), where=spread > 0)
        found += [
            {
                "text": words[w],
                "label": label,
                "z": round(float(z[w]), 2),
                "share_in_label": round(float(k_in[w] / n_in), 3),
                "share_elsewhere": round(float(k_out[w] / n_out), 3),
                "telling": bool(z[w] > limit),
            }
            for w in np.flatnonzero(z > 0)
        ]
    return sorted(found, key=lambda entry: (-entry["z"], entry["text"], entry["label"]))


def telling_limit(n_words: int) -> float:
    """The z from which one of `n_words` words counts as telling: two-sided ALPHA, Bonferroni."""
    return float(norm.isf(ALPHA / 2 / max(n_words * len(LABELS), 1)))


def telling_ngrams(sentences: Sequence[str], labels: np.ndarray) -> tuple[list[dict], int]:
    """`one_sided_words` of the words and word pairs in at least MIN_SENTENCES sentences, and their number."""
    try:
        vectorizer = CountVectorizer(
            token_pattern=TOKEN, ngram_range=(1, 2), binary=True, min_df=MIN_SENTENCES, dtype=np.int32
        )
        presence = csr_array(vectorizer.fit_transform(sentences))  # [n, n_ngrams]
    except ValueError:  # no n-gram is that frequent
        return [], 0
    return one_sided_words(presence, labels, vectorizer.get_feature_names_out()), presence.shape[1]


def telling_first_words(sentences: Sequence[str], labels: np.ndarray) -> list[dict]:
    """`one_sided_words` of the words with which at least MIN_SENTENCES sentences begin."""
    first = np.array([first_word(sentence) for sentence in sentences])  # [n]
    words = [word for word, count in Counter(first.tolist()).items() if word and count >= MIN_SENTENCES]
    presence = first[:, None] == np.array(words, dtype=first.dtype)[None, :]  # [n, n_words]
    return one_sided_words(csr_array(presence.astype(np.int32)), labels, words)
