"""What the words read so far tell without a language model: the bar that features have to clear."""

import numpy as np

from .positions import prefix_lengths


def text_prefixes(tokens: np.ndarray, offsets: np.ndarray, shares: np.ndarray) -> list[list[str]]:
    """The text of the first share of each sentence: n_shares lists of n texts."""
    return [
        ["".join(tokens[start : start + length]) for start, length in zip(offsets, lengths)]
        for lengths in prefix_lengths(offsets, shares)
    ]


def text_prefix_scores(
    prefixes: list[list[str]],
    labels: np.ndarray,
    group: np.ndarray,
    train: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    """Log-odds of label 3 against 0 from the words read so far, [n_shares, n] float64: the bar to clear.

    TF-IDF and logistic regression, fitted on the full text of the label 0 and 3 sentences in `train` [n]
    bool; `prefixes` holds n texts per share, the full ones last. With `train` None every
    sentence is scored by a model fitted on the other folds of a 5-fold split by group. NaN for sentences
    that no model scores, and everywhere when a fit would see one class only.
    """
    # Imported here: every process that draws sentences imports the command's modules, and this takes it 3 s.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline

    scored = np.full((len(prefixes), len(labels)), np.nan)  # [n_shares, n]
    extreme = np.flatnonzero((labels == 0) | (labels == 3))
    if train is not None:
        splits = [(extreme[train[extreme]], extreme[~train[extreme]])]
    else:
        n_folds = min(5, len(np.unique(group[extreme])), *np.bincount(labels[extreme] == 3, minlength=2))
        if n_folds < 2:
            return scored
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        parts = folds.split(extreme, labels[extreme], group[extreme])
        splits = [(extreme[fit], extreme[rest]) for fit, rest in parts]
    for fit, rest in splits:
        if len(np.unique(labels[fit])) < 2 or len(rest) == 0:
            return np.full_like(scored, np.nan)
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
            LogisticRegression(C=10.0, max_iter=1000, random_state=seed),
        )
        model.fit([prefixes[-1][i] for i in fit], labels[fit] == 3)
        for i, texts in enumerate(prefixes):
            scored[i, rest] = model.decision_function([texts[j] for j in rest])
    return scored
