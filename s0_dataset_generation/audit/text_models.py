"""How well models that see nothing but the text's surface predict the label."""

from collections.abc import Sequence

import numpy as np
from sentences.labelled_tables import LABELS
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, cohen_kappa_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

FOLDS = 5
SEED = 0


def word_counts(sentences: Sequence[str]) -> np.ndarray:
    """Words per sentence, int64 [n], split at white space."""
    return np.array([len(sentence.split()) for sentence in sentences])


def grouped_folds(labels: np.ndarray, groups: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Stratified folds that keep scenes whole; None where a label has fewer than FOLDS groups."""
    group_ids = np.unique(np.array(groups), return_inverse=True)[1]  # [n]
    present = np.unique(labels)
    if len(present) < 2 or min(len(set(group_ids[labels == label])) for label in present) < FOLDS:
        return None
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    return list(folds.split(labels, labels, group_ids))


def text_baselines(
    sentences: Sequence[str],
    labels: np.ndarray,
    groups: Sequence[str],
    registers: Sequence[str] = (),
    difficulties: Sequence[str] = (),
) -> dict | None:
    """Accuracy and quadratic kappa of models that see only words, only stop words, or only the length.

    Grouped, stratified 5-fold cross-validation: sentences of one scene are never on both sides. With
    `registers` also of a model that sees only them; with `difficulties` also of the predictions from all
    words on the rows of each difficulty apart. None where a label has fewer than five groups.
    """
    folds = grouped_folds(labels, groups)
    if folds is None:
        return None
    texts = np.array(sentences, dtype=object)
    logistic = LogisticRegression(max_iter=2000)
    stop_words = sorted(ENGLISH_STOP_WORDS)
    lengths = np.column_stack([word_counts(sentences), [len(text) for text in sentences]])  # [n, 2]
    models = {
        "majority": (DummyClassifier(), lengths),
        "length": (make_pipeline(StandardScaler(), logistic), lengths),
        "stop_words": (make_pipeline(TfidfVectorizer(vocabulary=stop_words), logistic), texts),
        "tfidf": (make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), logistic), texts),
    }
    if len(registers):
        one_hot = OneHotEncoder(handle_unknown="ignore")
        models["register"] = (make_pipeline(one_hot, logistic), np.array(registers, dtype=object)[:, None])
    predicted = {
        name: cross_val_predict(model, inputs, labels, cv=folds) for name, (model, inputs) in models.items()
    }
    scores = {name: agreement_scores(labels, values) for name, values in predicted.items()}
    for difficulty in sorted(set(difficulties)):
        rows = np.array(difficulties) == difficulty
        scores[f"tfidf_{difficulty}"] = agreement_scores(labels[rows], predicted["tfidf"][rows])
    return scores


def agreement_scores(labels: np.ndarray, predicted: np.ndarray) -> dict:
    kappa = np.nan
    if len({*labels, *predicted}) > 1:
        kappa = cohen_kappa_score(labels, predicted, labels=LABELS, weights="quadratic")
    return {
        "accuracy": round(float(accuracy_score(labels, predicted)), 4),
        "quadratic_kappa": None if np.isnan(kappa) else round(float(kappa), 4),
    }
