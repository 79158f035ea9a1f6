"""Which sentences are drawn, and in what order."""

import numpy as np

from .sentence_labels import LABELS, UNLABELLED


def choose_sentences(
    labels: np.ndarray, strength: np.ndarray, wanted: list[int], max_sentences: int | None, sort: str
) -> np.ndarray:
    """Rows of the sentences to show, in order: of the labels `wanted`, at most `max_sentences` in all.

    Sentences without labels are wanted where every label is.
    `sort` is `index` (file order) or `peak` (falling `strength` [n]). A limit takes the first of every label
    in turn, so that no label is left out.
    """
    if (labels == UNLABELLED).all():
        if wanted != list(LABELS):
            raise ValueError(f"the sentences have no labels; leave out --labels {','.join(map(str, wanted))}")
        wanted = [UNLABELLED]
    rows = np.flatnonzero(np.isin(labels, wanted))
    if not rows.size:
        have = ", ".join(map(str, np.unique(labels)))
        raise ValueError(
            f"no sentence has the label {' or '.join(map(str, wanted))}; there are the labels {have}"
        )
    if sort == "peak":
        rows = rows[np.argsort(-strength[rows], kind="stable")]
    if max_sentences is None or max_sentences >= len(rows):
        return rows
    turn = np.empty(len(rows), np.int64)  # [n_rows] place of each sentence among those of its label
    for label in wanted:
        of_label = labels[rows] == label
        turn[of_label] = np.arange(of_label.sum())
    kept = np.lexsort((labels[rows], turn))[:max_sentences]
    return rows[np.sort(kept)]
