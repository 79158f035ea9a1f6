"""The probes of a study, fitted on all its sentences, layer by layer on sentences from elsewhere."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from emergence_curves.emergence_study import StudyDesign, layer_by_layer, read_text
from emergence_curves.layer_probes import probe_split
from emergence_curves.readout_curves import (
    METRICS,
    Readout,
    ResampledLabels,
    SentenceCurves,
    sentence_curves,
)
from experiments.experiment_dataset import LABEL, Dataset, load_sentences, rows_in_known_groups
from experiments.input_identity import require_same_inputs

ENDS_ALONE = ("auroc",)  # what labels 0 and 3 alone allow


@dataclass(frozen=True)
class OtherSentences:
    """Labelled sentences from elsewhere that took no part in a study, with its inputs."""

    dataset: Dataset  # the rows that are left
    n_left_out: int  # rows that the study also has, or with labels that it has not

    @property
    def name(self) -> str:
        return self.dataset.path.stem


@dataclass(frozen=True)
class Transfer:
    """What the probes of a study read in other sentences."""

    other: OtherSentences
    curves: SentenceCurves


def load_others(paths: list[Path], own: list[Dataset]) -> list[tuple[Dataset, OtherSentences]]:
    """Each dataset with its other sentences; none where no paths are given."""
    if paths and len(paths) != len(own):
        raise ValueError(f"{len(paths)} files of other sentences for {len(own)} datasets; give one for each")
    return [(dataset, load_other(path, dataset)) for path, dataset in zip(paths, own)]


def load_other(path: Path, own: Dataset) -> OtherSentences:
    """Read other sentences for the study of `own`; ValueError where they have other inputs or no use."""
    other = load_sentences(path)
    require_same_inputs(other, own.metadata, own.X.shape[1], f"{own.path} has")
    if other.y is None or other.metadata.get("target") != LABEL:
        raise ValueError(f"{path} has no labels, so there is no curve; label its sentences first")
    known = rows_in_known_groups(other, own.sentences, own.groups, own.source)
    rows = np.flatnonzero(~known & np.isin(other.y, own.classes))
    low, high = own.classes[[0, -1]]
    for label in (low, high):
        n_groups = len(np.unique(other.groups[rows][other.y[rows] == label]))
        if n_groups < 2:
            raise ValueError(
                f"{path} has {n_groups} groups with label {label} that {own.path} has not; a curve of label "
                f"{high} against {low} needs 2 of each: label more sentences"
            )
    return OtherSentences(rows_of(other, rows), len(other.y) - len(rows))


def rows_of(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The dataset with these rows alone."""
    names = ("X", "y", "sentence_index", "groups", "sentences", "part")
    kinds = {kind: values[rows] for kind, values in dataset.kinds.items()}
    return replace(dataset, kinds=kinds, **{name: getattr(dataset, name)[rows] for name in names})


def study_transfer(own: Dataset, other: OtherSentences, design: StudyDesign) -> Transfer:
    """Fit every probe to every layer of `own`, once and on all rows, and read the other sentences."""
    codes = np.unique(own.y, return_inverse=True)[1]  # [n]
    theirs = other.dataset
    labels = ResampledLabels.drawn(
        np.searchsorted(own.classes, theirs.y),
        len(own.classes),
        theirs.groups,
        design.bootstrap,
        np.random.default_rng([design.seed, 4, int(theirs.sha256[:8], 16)]),
    )
    metrics = METRICS if len(theirs.classes) == len(own.classes) else ENDS_ALONE
    probes = read_other_layers(own, theirs, codes, design)
    floors = read_other_floors(own, theirs, codes, design.seed)
    return Transfer(other, sentence_curves(labels, theirs.groups, probes, floors, metrics))


def read_other_layers(
    own: Dataset, theirs: Dataset, codes: np.ndarray, design: StudyDesign
) -> dict[str, list[Readout]]:
    """By probe what it reads in the other sentences at each layer."""
    train, test = np.split(np.arange(len(own.y) + len(theirs.y)), [len(own.y)])

    def read(position: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        X = np.vstack([own.layer_inputs(position), theirs.layer_inputs(position)])
        return probe_split(X, codes[:, None], train, test, design.probes, design.strengths)

    by_layer = layer_by_layer(read, len(own.layers), f"{own.trait} on others", design.jobs)
    return {probe: [Readout(*layer[probe]) for layer in by_layer] for probe in design.probes}


def read_other_floors(own: Dataset, theirs: Dataset, codes: np.ndarray, seed: int) -> dict[str, Readout]:
    """The commonest class, sentence length, and words, learned on the own sentences."""
    sentences = np.concatenate([own.sentences, theirs.sentences])
    train, test = np.split(np.arange(len(sentences)), [len(codes)])
    common = np.full((len(test), 1), np.bincount(codes).argmax())
    majority = Readout(common, np.zeros(common.shape))
    return {"majority": majority, **read_text(sentences, codes, own.groups, train, test, seed)}
