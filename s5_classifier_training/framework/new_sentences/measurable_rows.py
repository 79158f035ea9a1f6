"""What the targets of new sentences allow to be measured of a frozen probe, and on which of them."""

from dataclasses import dataclass

import numpy as np
from experiments.experiment_dataset import LABEL, Dataset
from new_sentences.frozen_probe import FrozenProbe
from twins_s5.ranking_folder import IDENTIFYING

LABEL_ENDS = (0, 3)  # the concept absent, and strong


@dataclass(frozen=True)
class Scope:
    """The rows that figures are about, and which figures there are."""

    rows: np.ndarray  # [m] positions among the new sentences, rising; none where nothing is measured
    task_metrics: bool = False  # those of training
    ends: tuple[int, int] | None = None  # labels whose AUROC against each other is measured
    said: str = ""  # what is measured, where it is not everything on every row, and why


NO_ROWS = np.zeros(0, np.int64)


def measurable(probe: FrozenProbe, new: Dataset, fresh: np.ndarray) -> Scope:
    """What can be measured on the `fresh` ([n] bool) of the new sentences."""
    if new.y is None:
        return Scope(NO_ROWS, said="the sentences have no labels: nothing is measured")
    if new.metadata["target"] == LABEL:
        return _by_labels(probe, new, fresh)
    if probe.task == "regression" and _same_target(new.metadata, probe.metadata):
        return Scope(np.flatnonzero(fresh), task_metrics=True)
    return Scope(NO_ROWS, said="the targets are neither labels nor what the model predicts: none is measured")


def _by_labels(probe: FrozenProbe, new: Dataset, fresh: np.ndarray) -> Scope:
    """All metrics where the sentences have all labels that the model knows, otherwise the two ends alone."""
    if probe.task == "regression":
        return _ends_alone(
            new, fresh, LABEL_ENDS, "predicted activation", "the model predicts an activation, no label"
        )
    ends = (int(probe.classes[0]), int(probe.classes[-1]))
    known = fresh & np.isin(new.y, probe.classes)
    missing = np.setdiff1d(probe.classes, new.y[known])
    if len(missing):
        why = f"no sentence to measure has label {' or '.join(map(str, missing))}"
        return _ends_alone(new, fresh, ends, "expected label", why)
    foreign = np.setdiff1d(new.y[fresh], probe.classes)
    said = f"the model knows no label {' or '.join(map(str, foreign))}: these sentences are not measured"
    return Scope(np.flatnonzero(known), task_metrics=True, ends=ends, said=said if len(foreign) else "")


def _ends_alone(new: Dataset, fresh: np.ndarray, ends: tuple[int, int], score: str, why: str) -> Scope:
    """The AUROC of the highest against the lowest label, or nothing where one of them is missing."""
    low, high = ends
    rows = np.flatnonzero(fresh & np.isin(new.y, ends))
    if len(np.unique(new.y[rows])) < 2:
        return Scope(NO_ROWS, said=f"{why}, nor are labels {low} and {high} both there: nothing is measured")
    said = f"{why}: measured is the AUROC of label {high} against {low} by {score} alone"
    return Scope(rows, ends=ends, said=said)


def _same_target(ours: dict, theirs: dict) -> bool:
    """Whether both predict one feature's activation: pooled alike, of one SAE where both know its weights."""
    features = [[metadata["target"][key] for key in IDENTIFYING] for metadata in (ours, theirs)]
    hashes = [metadata.get("target_encoder_sha256") for metadata in (ours, theirs)]
    same_weights = None in hashes or hashes[0] == hashes[1]
    return features[0] == features[1] and ours["target_pool"] == theirs["target_pool"] and same_weights
