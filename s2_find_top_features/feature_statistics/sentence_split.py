"""Which sentences take part in discovery, and which are held out for confirmation."""

import numpy as np

from .feature_metrics import N_LABELS

DISCOVERY, CONFIRMATION = "discovery", "confirmation"


def split_groups(labels: np.ndarray, groups: np.ndarray, confirm_share: float, seed: int) -> np.ndarray:
    """Assign whole groups to discovery or confirmation, keeping each label's share, [n] str.

    Groups are visited in random order, large ones first, and each goes where it leaves the counts of both
    parts nearest their targets, relative to the targets: of the sentences of each label, and of the groups
    of each size, so that scenes and sentences that stand alone have the same shares in both parts. Raises
    ValueError naming the label that a part is left without.
    """
    if confirm_share == 0:
        return np.full(len(labels), DISCOVERY)
    _, group_index = np.unique(groups, return_inverse=True)
    of_label = np.zeros((group_index.max() + 1, N_LABELS))  # [n_groups, 4]
    np.add.at(of_label, (group_index, labels), 1)
    sizes = of_label.sum(axis=1)  # [n_groups]
    counts = np.column_stack([of_label, sizes[:, None] == np.unique(sizes)])  # [n_groups, 4 + sizes]
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-sizes[order], kind="stable")]
    shares = np.array([1 - confirm_share, confirm_share])
    target = shares[:, None] * np.maximum(counts.sum(axis=0), 1)  # [2, 4 + sizes]
    filled = np.zeros_like(target)  # share of the target reached
    to_confirmation = np.zeros(len(counts), dtype=bool)
    for group in order:
        after = filled + counts[group] / target  # if the group went to that part
        cost = ((after - 1) ** 2 - (filled - 1) ** 2).sum(axis=1)
        part = int(cost[1] < cost[0])
        filled[part] = after[part]
        to_confirmation[group] = part
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
