"""Which sentences explain a feature, which come near without it, and which test the explanation."""

import re
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from twins_s2.feature_folder import FeatureFolder, find_sae, read_sae_activations
from twins_s2.sentence_pooling import pool_sparse

FeaturePlace = tuple[int, int, int]  # layer, average_l0, feature_id
MARKED_FROM = 0.3  # of a sentence's largest activation


@dataclass(frozen=True)
class SentenceCounts:
    """Most sentences of each kind, for one feature."""

    strongest: int
    near_misses: int
    tested: int  # firing, and as many silent


@dataclass(frozen=True)
class Evidence:
    """What is shown of one feature. The tested sentences had no part in choosing or explaining it."""

    place: FeaturePlace
    strongest: list[tuple[int, str]]  # activation from 1 to 10, text with the <<firing tokens>>
    near_misses: list[str]
    tested: np.ndarray  # [n_tested] sentence indices, in the order in which they are asked about
    fires: np.ndarray  # [n_tested] bool


def gather_evidence(
    features: FeatureFolder,
    is_discovery: np.ndarray,
    places: list[FeaturePlace],
    pool: str,
    counts: SentenceCounts,
    seed: int,
) -> list[Evidence]:
    """The evidence of each feature, in order; `is_discovery` is [n] bool, each SAE file is read once."""
    words = word_vectors(features.sentences["sentence"].tolist())
    columns: dict[FeaturePlace, scipy.sparse.csc_matrix] = {}
    for layer, average_l0 in dict.fromkeys(place[:2] for place in places):
        activations = read_sae_activations(features, find_sae(features, layer, average_l0)).tocsc()  # [T, d]
        for place in places:
            if place[:2] == (layer, average_l0):
                columns[place] = activations[:, [place[2]]]
    return [
        evidence_of(features, is_discovery, place, columns[place], pool, counts, seed, words)
        for place in places
    ]


def word_vectors(sentences: list[str]) -> scipy.sparse.csr_matrix:
    """Unit TF-IDF vectors of parts of words: the same scene told otherwise is near, in any language."""
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform(sentences)


def evidence_of(
    features: FeatureFolder,
    is_discovery: np.ndarray,
    place: FeaturePlace,
    token_acts: scipy.sparse.csc_matrix,
    pool: str,
    counts: SentenceCounts,
    seed: int,
    words: scipy.sparse.csr_matrix,
) -> Evidence:
    """The evidence of one feature, whose token activations are [T, 1]."""
    pooled = pool_sparse(token_acts, features.sentence_offsets, pool).toarray().ravel()  # [n]
    order = np.argsort(-pooled, kind="stable")
    firing, silent = order[pooled[order] > 0], order[pooled[order] <= 0]
    strongest = firing[is_discovery[firing]][: counts.strongest]
    dense = token_acts.toarray().ravel()  # [T]
    tested, fires = tested_sentences(
        firing[~is_discovery[firing]], silent[~is_discovery[silent]], counts.tested, [seed, *place]
    )
    largest = pooled[strongest].max(initial=0)
    return Evidence(
        place,
        strongest=[
            (max(1, round(10 * pooled[i] / largest)), marked_sentence(features, dense, i)) for i in strongest
        ],
        near_misses=[
            features.sentences["sentence"].iloc[i]
            for i in nearest(silent[is_discovery[silent]], strongest, words)[: counts.near_misses]
        ],
        tested=tested,
        fires=fires,
    )


def nearest(candidates: np.ndarray, shown: np.ndarray, words: scipy.sparse.csr_matrix) -> np.ndarray:
    """The candidates, those first whose words come nearest to a sentence that is shown."""
    if not len(candidates) or not len(shown):
        return candidates[:0]
    closeness = (words[candidates] @ words[shown].T).max(axis=1).toarray().ravel()
    return candidates[np.argsort(-closeness, kind="stable")]


def tested_sentences(
    firing: np.ndarray, silent: np.ndarray, most: int, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `most` of the firing sentences (strongest first), evenly from strong to weak, and of the others.

    Indices and whether they fire, both [n_tested], shuffled.
    """
    rng = np.random.default_rng(seed)
    places = np.unique(np.linspace(0, len(firing) - 1, min(most, len(firing))).round().astype(int))
    drawn = rng.choice(silent, size=min(most, len(silent)), replace=False)
    tested = np.concatenate([firing[places], drawn]).astype(np.int64)
    order = rng.permutation(len(tested))
    return tested[order], (np.arange(len(tested)) < len(places))[order]


def marked_sentence(features: FeatureFolder, activations: np.ndarray, sentence: int) -> str:
    """A sentence of the token activations [T], runs of tokens near its largest in << >>."""
    tokens = slice(*features.sentence_offsets[sentence : sentence + 2])
    values = activations[tokens]
    marked = (values > 0) & (values >= MARKED_FROM * values.max())
    return marked_text(features.tokens[tokens].tolist(), marked.tolist())


def marked_text(tokens: list[str], marked: list[bool]) -> str:
    """The text of the tokens with each run of marked ones in << >>; spaces before a run stay outside."""
    pieces = []
    for i, (token, is_marked) in enumerate(zip(tokens, marked)):
        if is_marked and (i == 0 or not marked[i - 1]):
            token = re.sub(r"^(\s*)", r"\1<<", token)
        if is_marked and (i + 1 == len(tokens) or not marked[i + 1]):
            token += ">>"
        pieces.append(token)
    return "".join(pieces).strip()
