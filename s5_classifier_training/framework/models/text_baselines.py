"""What the text alone predicts, without any model of it: the bar that every probe has to clear."""

import numpy as np
from measures.grouped_rows import Folds
from measures.predictions import Prediction, predict
from scipy.linalg import solve
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.kernel_logistic import KernelLogistic, log_softmax

WORDS = r"(?u)\b\w+\b"  # words of one letter too: "I" and "a" tell labels apart
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # C of the logistic regression, alpha of the ridge regression


def length_prediction(
    task: str, sentences: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> Prediction:
    """Predictions for the rows `test` from the numbers of words and of characters."""
    lengths = np.array([[len(str(text).split()), len(str(text))] for text in sentences], np.float64)  # [n, 2]
    linear = LogisticRegression() if task == "classification" else LinearRegression()
    return predict(make_pipeline(StandardScaler(), linear).fit(lengths[train], y[train]), lengths[test], task)


def tfidf_prediction(
    task: str, sentences: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, folds: Folds
) -> Prediction:
    """Predictions for the rows `test` by a penalised linear model on words and word pairs."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    return _weighted_words(words, task, sentences, y, train, test, folds)


def stop_words_prediction(
    task: str, sentences: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, folds: Folds
) -> Prediction:
    """The same from scikit-learn's English stop words alone: style rather than topic."""
    words = TfidfVectorizer(vocabulary=sorted(ENGLISH_STOP_WORDS), token_pattern=WORDS)
    return _weighted_words(words, task, sentences, y, train, test, folds)


def _weighted_words(
    words: TfidfVectorizer,
    task: str,
    sentences: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    folds: Folds,
) -> Prediction:
    """Predictions for the rows `test` by a penalised linear model on weighted words.

    Vocabulary and document frequencies come from the rows `train`. The penalty is chosen among them in
    `folds`, positions within `train`, so the text gets every chance.
    """
    words.fit(sentences[train])
    rows = words.transform(sentences)  # CSR [n, vocabulary]
    products = (rows @ rows[train].T).toarray()  # [n, n_train]
    fit_predict = _logistic if task == "classification" else _ridge

    def from_rows(inside: np.ndarray, outside: np.ndarray, penalty: float) -> Prediction:
        columns = np.searchsorted(train, inside)
        gram, cross = products[np.ix_(inside, columns)], products[np.ix_(outside, columns)]
        return fit_predict(gram, cross, y[inside], penalty)

    def error(penalty: float) -> float:
        misses = 0.0
        for inside, outside in folds:
            label = from_rows(train[inside], train[outside], penalty).label
            wrong = label - y[train[outside]]
            misses += np.count_nonzero(wrong) if task == "classification" else wrong @ wrong
        return misses

    return from_rows(train, test, min(PENALTIES, key=error))


def _logistic(gram: np.ndarray, cross: np.ndarray, y: np.ndarray, C: float) -> Prediction:
    """Logistic regression from inner products [m, m] of its rows and [n_test, m] with them."""
    classes, codes = np.unique(y, return_inverse=True)
    model = KernelLogistic.from_gram(gram, C)
    logits = model.logits(cross, model.fit(np.eye(len(classes))[codes][:, None, :]))[:, 0]  # [n_test, K]
    return Prediction(classes[logits.argmax(axis=1)], np.exp(log_softmax(logits)))


def _ridge(gram: np.ndarray, cross: np.ndarray, y: np.ndarray, alpha: float) -> Prediction:
    """Ridge regression with an intercept, from the same inner products."""
    row_mean = gram.mean(axis=0)  # [m] inner products with the mean row
    centred = gram - row_mean - row_mean[:, None] + row_mean.mean()
    cross_centred = cross - row_mean - cross.mean(axis=1, keepdims=True) + row_mean.mean()
    mean = y.mean(dtype=np.float64)
    dual = solve(centred + alpha * np.eye(len(gram)), y - mean, assume_a="pos")
    return Prediction(cross_centred @ dual + mean)
