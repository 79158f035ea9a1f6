"""Which sentences take part in discovery, and which are held out for confirmation."""

import numpy as np

from .feature_metrics import N_LABELS

DISCOVERY, CONFIRMATION = "discovery", "confirmation"


def split_groups(labels: np.ndarray, groups: np.ndarray, confirm_share: float, seed: int) -> np.ndarray:
    """Assign whole groups to discovery or confirmation, both with like groups of like labels, [n] str.

    A systematic sample with random start (Cochran 1977, *Sampling Techniques*, chapter 8) of the groups
    sorted by size and by how many sentences of each label they have, in random order where these are the
    same: scenes and sentences that stand alone have the same shares in both parts, and so have the labels.
    Raises ValueError naming the label that a part is left without.
    """
    if confirm_share == 0:
        return np.full(len(labels), DISCOVERY)
    _, group_index = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_index.max() + 1, N_LABELS), dtype=np.int64)  # [n_groups, 4]
    np.add.at(counts, (group_index, labels), 1)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(counts)), *counts.T, counts.sum(axis=1)))  # the last key first
    taken_before = np.floor(confirm_share * np.arange(len(counts) + 1) + rng.random())
    to_confirmation = np.zeros(len(counts), dtype=bool)
    to_confirmation[order] = np.diff(taken_before) > 0
    parts = np.where(to_confirmation[group_index], CONFIRMATION, DISCOVERY)
    for part in (DISCOVERY, CONFIRMATION):
        missing = np.setdiff1d(labels, labels[parts == part])
        if missing.size:
            raise ValueError(
                f"label {missing[0]} is missing in the {part} part of the split ({(parts == part).sum()} of "
                f"{len(labels)} sentences); give more sentences or groups of that label, change "
                "--confirm-share, or set it to 0 for no held-out part"
            )
    return parts
