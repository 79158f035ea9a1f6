"""The sentences that show what a feature responds to: the strongest of each label, with token activations."""

import numpy as np
import scipy.sparse
from feature_ranking.ranking import Ranking
from twins_s2.feature_folder import FeatureFolder

CONTEXT_TOKENS = 6  # on either side of the peak token


def feature_examples(ranking: Ranking, features: FeatureFolder, per_label: int) -> list[dict]:
    """The content of feature_examples.json, in rank order."""
    examples = top_examples(
        ranking.token_acts,
        ranking.pooled,
        features.sentences["sentence"].tolist(),
        features.labels,
        features.tokens,
        features.sentence_offsets,
        per_label,
    )
    columns = ["rank", "layer", "average_l0", "feature_id", "neuronpedia_url", "threshold"]
    ranked = ranking.ranked[columns].to_dict("records")
    return [feature | {"examples": by_label} for feature, by_label in zip(ranked, examples)]


def top_examples(
    token_acts: scipy.sparse.csc_matrix,
    pooled: np.ndarray,
    sentences: list[str],
    labels: np.ndarray,
    tokens: np.ndarray,
    sentence_offsets: np.ndarray,
    per_label: int,
) -> list[dict[str, list[dict]]]:
    """For each of k features, label -> its strongest sentences, highest pooled activation first.

    `token_acts` is [T, k], `pooled` [n, k], `labels` [n], `tokens` [T] str, `sentence_offsets` [n + 1].
    Only sentences in which the feature fires are listed, so a list may be short or empty. Ties keep
    sentence order.
    """
    features = []
    for k in range(pooled.shape[1]):
        activations = token_acts[:, k].toarray().ravel()  # [T] float32
        examples = {}
        for label in range(4):
            candidates = np.flatnonzero((labels == label) & (pooled[:, k] > 0))
            strongest = candidates[np.argsort(-pooled[candidates, k], kind="stable")[:per_label]]
            examples[str(label)] = [
                _example(
                    int(i),
                    sentences[i],
                    float(pooled[i, k]),
                    [str(t) for t in tokens[sentence_offsets[i] : sentence_offsets[i + 1]]],
                    activations[sentence_offsets[i] : sentence_offsets[i + 1]],
                )
                for i in strongest
            ]
        features.append(examples)
    return features


def _example(
    index: int, sentence: str, activation: float, tokens: list[str], activations: np.ndarray
) -> dict:
    peak = int(np.argmax(activations))
    before = "".join(tokens[max(0, peak - CONTEXT_TOKENS) : peak])
    after = "".join(tokens[peak + 1 : peak + 1 + CONTEXT_TOKENS])
    return {
        "sentence_index": index,
        "sentence": sentence,
        "activation": round(activation, 4),
        "peak_token": tokens[peak],
        # The peak may be one of several equal words, so the context marks it.
        "peak_context": f"{before}«{tokens[peak]}»{after}".strip(),
        "tokens": tokens,
        "activations": [round(float(a), 4) for a in activations],
    }
