"""Which sentences take part in discovery, and which are held out for confirmation."""

import numpy as np

from .feature_metrics import N_LABELS

DISCOVERY, CONFIRMATION = "discovery", "confirmation"


def split_groups(labels: np.ndarray, groups: np.ndarray, confirm_share: float, seed: int) -> np.ndarray:
    """Assign whole groups to discovery or confirmation, keeping each label's share, [n] str.

    Groups are visited in random order, large ones first, and each goes where it leaves the label counts
    of both parts nearest their targets, relative to the targets. Raises ValueError naming the label that a
    part is left without.
    """
    if confirm_share == 0:
        return np.full(len(labels), DISCOVERY)
    _, group_index = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_index.max() + 1, N_LABELS))  # [n_groups, 4]
    np.add.at(counts, (group_index, labels), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    shares = np.array([1 - confirm_share, confirm_share])
    target = shares[:, None] * np.maximum(counts.sum(axis=0), 1)  # [2, 4]
    filled = np.zeros_like(target)  # [2, 4] share of the target reached
    to_confirmation = np.zeros(len(counts), dtype=bool)
    for group in order:
        after = filled + counts[group] / target  # [2, 4] if the group went to that part
        cost = ((after - 1) ** 2 - (filled - 1) ** 2).sum(axis=1)
        part = int(cost[1] < cost[0])
        filled[part] = after[part]
        to_confirmation[group] = part
    parts = np.where(to_confirmation[group_index], CONFIRMATION, DISCOVERY)
    for part in (DISCOVERY, CONFIRMATION):
        missing = np.flatnonzero(np.bincount(labels[parts == part], minlength=N_LABELS) == 0)
        if missing.size:
            raise ValueError(
                f"label {missing[0]} is missing in the {part} part of the split ({(parts == part).sum()} of "
                f"{len(labels)} sentences); give more sentences or groups of that label, change "
                "--confirm-share, or set it to 0 for no held-out part"
            )
    return parts
