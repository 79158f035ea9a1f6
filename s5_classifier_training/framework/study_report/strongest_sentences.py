"""The sentences in which a feature fires most: from stage 2's examples, or computed where it wrote none."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from study_report.feature_columns import feature_column, pooled_column, sae_entry
from study_report.feature_findings import PLACE, FeatureFindings
from twins_s5.feature_folder import FeatureFolder

N_SENTENCES = 3  # per feature


@dataclass(frozen=True)
class ShownSentence:
    """A sentence as pieces of text, each with its activation, 0 where the feature is silent."""

    label: int
    activation: float  # of the sentence, as stage 2 pools it
    pieces: list[tuple[str, float]]

    @property
    def peak(self) -> float:
        return max(activation for _, activation in self.pieces)


def strongest_sentences(
    feature: dict, findings: FeatureFindings, features: FeatureFolder | None
) -> list[ShownSentence]:
    """The strongest first, of whichever label; none where neither file nor folder knows them."""
    for example in findings.examples:
        if all(example[key] == feature[key] for key in PLACE):
            return _from_examples(example["examples"])
    return _from_folder(feature, findings.run["pool"], features) if features is not None else []


def _from_examples(by_label: dict[str, list[dict]]) -> list[ShownSentence]:
    sentences = [
        ShownSentence(int(label), found["activation"], pieces(found["tokens"], found["activations"]))
        for label, of_label in by_label.items()
        for found in of_label
    ]
    return sorted(sentences, key=lambda sentence: -sentence.activation)[:N_SENTENCES]


def _from_folder(feature: dict, pool: str, features: FeatureFolder) -> list[ShownSentence]:
    """Stage 2 writes examples of ranked features only; a nearest miss is looked up among the activations."""
    column = feature_column(features, sae_entry(features, feature), feature)
    if column is None:
        return []
    pooled = pooled_column(column, features, pool)
    activations = column.toarray().ravel()  # [T] float32
    spans = list(pairwise(features.sentence_offsets))
    strongest = [i for i in np.argsort(-pooled, kind="stable")[:N_SENTENCES] if pooled[i] > 0]
    return [
        ShownSentence(
            int(features.labels[i]),
            float(pooled[i]),
            pieces(features.tokens[slice(*spans[i])].tolist(), activations[slice(*spans[i])].tolist()),
        )
        for i in strongest
    ]


def pieces(tokens: list[str], activations: list[float]) -> list[tuple[str, float]]:
    """Neighbouring silent tokens joined; the space before a token that fires is not part of it."""
    joined: list[tuple[str, float]] = []
    for token, activation in zip(tokens, activations):
        space = token[: len(token) - len(token.lstrip())] if activation > 0 else token
        if joined and joined[-1][1] <= 0:
            joined[-1] = (joined[-1][0] + space, 0.0)
        elif space:
            joined.append((space, 0.0))
        if activation > 0:
            joined.append((token[len(space) :], activation))
    return joined
