"""On which sentences steering is measured: held out, whole scenes first, as many of each label."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

N_LABELS = 4


@dataclass(frozen=True)
class MeasuredSentences:
    """The chosen sentences of a feature folder."""

    index: np.ndarray  # [k] int64, rising: rows of sentences.csv
    labels: np.ndarray  # [k] int64
    groups: np.ndarray  # [k] int64
    held_out: bool  # none of them took part in choosing the features


def confirmation_rows(split_file: Path | None, n_sentences: int) -> np.ndarray | None:
    """Which sentences s2 held out, bool [n]; None where no split says.

    Raises:
        ValueError: the split is of another set of sentences.
    """
    if split_file is None or not split_file.is_file():
        return None
    split = pd.read_csv(split_file)
    if not {"sentence_index", "part"} <= set(split.columns) or len(split) != n_sentences:
        raise ValueError(
            f"{split_file} does not split the {n_sentences} sentences of the feature folder: give the "
            "results that s2 made from it"
        )
    held_out = split.sort_values("sentence_index")["part"].to_numpy() == "confirmation"
    return held_out if held_out.any() else None


def choose_sentences(
    labels: np.ndarray, groups: np.ndarray, held_out: np.ndarray | None, most: int, seed: int
) -> MeasuredSentences:
    """Choose up to `most` sentences of each label, from groups with many labels first, in random order.

    A scene that is told at several strengths compares them with the same people and props, so whole scenes
    come first.

    Raises:
        ValueError: there is no sentence of label 0, or none of label 3, which are compared.
    """
    allowed = np.ones(len(labels), dtype=bool) if held_out is None else held_out
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(groups[allowed]))
    n_labels = {group: len(np.unique(labels[allowed & (groups == group)])) for group in order}
    chosen: list[int] = []
    taken = np.zeros(N_LABELS, dtype=int)
    for group in sorted(order, key=lambda group: -n_labels[group]):  # stable: random within
        for row in np.flatnonzero(allowed & (groups == group)):
            if taken[labels[row]] < most:
                taken[labels[row]] += 1
                chosen.append(row)
    if not (taken[0] and taken[-1]):
        where = "" if held_out is None else "held-out "
        raise ValueError(
            f"steering compares labels 3 and 0: there are {taken.tolist()} {where}sentences by label"
        )
    index = np.sort(np.array(chosen, dtype=np.int64))
    return MeasuredSentences(index, labels[index], groups[index], held_out is not None)
