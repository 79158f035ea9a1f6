"""One trait's study: the same probes on every layer, in the same folds as what the text alone tells."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from emergence_curves.emergence_landmarks import Curve, Landmarks, landmarks
from emergence_curves.layer_probes import Strengths, probe_split
from emergence_curves.readout_curves import (
    Readout,
    ResampledLabels,
    SentenceCurves,
    null_curves,
    sentence_curves,
    upper_of_null,
)
from experiments.experiment_dataset import Dataset, load_dataset
from measures.grouped_rows import Folds, grouped_folds, permute_by_group
from measures.sentence_kinds import measured_apart
from models.text_baselines import length_prediction, tfidf_prediction
from twins_s5.progress import progress

FLOORS = ("majority", "length", "tfidf")
PENALTY_FOLDS = 3  # in which the TF-IDF floor chooses its penalty
Found = TypeVar("Found")
STACK = "run s4_classifier_data_prep/generate_datasets.py --strategy hidden-to-concept --layers all"


@dataclass(frozen=True)
class StudyDesign:
    """What is done to every trait alike."""

    probes: tuple[str, ...]
    folds: int
    repeats: int
    bootstrap: int
    permutations: int
    seed: int
    strengths: Strengths
    jobs: int

    @property
    def lead(self) -> str:
        """The probe that leads the figures."""
        return self.probes[0]


@dataclass(frozen=True)
class ProbeCurve:
    """One probe's metric by layer, the same under shuffled labels, and its landmarks."""

    curve: Curve
    shuffled: np.ndarray  # [P, N]
    landmarks: Landmarks

    @property
    def shuffled_upper(self) -> float:
        return upper_of_null(self.shuffled)


@dataclass(frozen=True)
class TraitStudy:
    """Everything measured about one trait."""

    dataset: Dataset
    floors: dict[tuple[str, str], Curve]  # (floor, metric)
    probes: dict[tuple[str, str], ProbeCurve]  # (probe, metric)
    apart: dict[str, dict[str, SentenceCurves]]  # by column of the sentences and its value


def load_stacked(path: Path, folds: int) -> Dataset:
    """A classification dataset with at least two stacked layers and enough groups in each class."""
    dataset = load_dataset(path)
    if dataset.task != "classification" or len(dataset.layers) < 2:
        raise ValueError(
            f"{path} holds {dataset.metadata['strategy']} with {len(dataset.layers)} layers; {STACK}"
        )
    if dataset.X.shape[1] != len(dataset.layers) * dataset.d_model:
        raise ValueError(f"{path}: {dataset.X.shape[1]} inputs are not {len(dataset.layers)} layers; {STACK}")
    needed = 2 * max(folds, PENALTY_FOLDS)
    for label in dataset.classes:
        n_groups = len(np.unique(dataset.groups[dataset.y == label]))
        if n_groups < needed:
            raise ValueError(
                f"{path}: class {label} has {n_groups} groups; {folds} folds need at least {needed}"
            )
    return dataset


def study_trait(dataset: Dataset, design: StudyDesign) -> TraitStudy:
    """Fit every probe to every layer, and set the curves against floors and shuffled labels."""
    codes = np.unique(dataset.y, return_inverse=True)[1]  # [n]
    groups, seed = dataset.groups, design.seed
    repeats = [grouped_folds(codes, groups, design.folds, seed + r) for r in range(design.repeats)]
    rng = np.random.default_rng([seed, 1])
    shuffled = np.stack([permute_by_group(codes, groups, rng) for _ in range(design.permutations)], axis=1)
    by_layer = read_layers(dataset, codes, shuffled, repeats, design)
    floor_readouts = read_floors(dataset, codes, repeats, seed)
    # Another stream than the folds', and one per trait, so that resamples of two traits are independent.
    rng = np.random.default_rng([seed, 2, int(dataset.sha256[:8], 16)])

    labels = ResampledLabels.drawn(codes, int(codes.max()) + 1, groups, design.bootstrap, rng)

    own = {probe: [layer[probe][0] for layer in by_layer] for probe in design.probes}
    whole = sentence_curves(labels, groups, own, floor_readouts)
    probes = {}
    for (probe, metric), curve in whole.probes.items():
        null = null_curves(metric, shuffled, [layer[probe][1] for layer in by_layer])
        bars = [whole.floors[name, metric] for name in FLOORS]
        marks = landmarks(dataset.layers, curve, bars, upper_of_null(null))
        probes[probe, metric] = ProbeCurve(curve, null, marks)
    apart = curves_apart(dataset, codes, own, floor_readouts, design)
    return TraitStudy(dataset, whole.floors, probes, apart)


def curves_apart(
    dataset: Dataset,
    codes: np.ndarray,
    readouts: dict[str, list[Readout]],
    floors: dict[str, Readout],
    design: StudyDesign,
) -> dict[str, dict[str, SentenceCurves]]:
    """The lead probe and the floors on each kind of sentence by itself, from the same readouts."""

    def of_rows(rows: np.ndarray) -> SentenceCurves:
        rng = np.random.default_rng([design.seed, 3, int(dataset.sha256[:8], 16)])
        groups, n_classes = dataset.groups[rows], int(codes.max()) + 1
        labels = ResampledLabels.drawn(codes[rows], n_classes, groups, design.bootstrap, rng)
        lead = {design.lead: [readout.of_rows(rows) for readout in readouts[design.lead]]}
        own_floors = {name: readout.of_rows(rows) for name, readout in floors.items()}
        return sentence_curves(labels, groups, lead, own_floors)

    return measured_apart(dataset.kinds, of_rows)


def layer_by_layer(read: Callable[[int], Found], n_layers: int, description: str, jobs: int) -> list[Found]:
    """What `read` makes of each layer's position, in order, `jobs` at a time."""
    found = []
    with (
        ThreadPoolExecutor(jobs) as pool,  # the work is in BLAS, which leaves Python's lock
        progress(total=n_layers, unit="layer", description=description) as bar,
    ):
        for of_layer in pool.map(read, range(n_layers)):
            found.append(of_layer)
            bar.update()
    return found


def read_layers(
    dataset: Dataset, codes: np.ndarray, shuffled: np.ndarray, repeats: list[Folds], design: StudyDesign
) -> list[dict[str, tuple[Readout, Readout]]]:
    """`read_layer` for every layer."""

    def read(position: int) -> dict[str, tuple[Readout, Readout]]:
        X = dataset.layer_inputs(position)
        return read_layer(X, codes, shuffled, repeats, design.probes, design.strengths)

    return layer_by_layer(read, len(dataset.layers), dataset.trait, design.jobs)


def read_layer(
    X: np.ndarray,
    codes: np.ndarray,
    shuffled: np.ndarray,
    repeats: list[Folds],
    probes: tuple[str, ...],
    strengths: Strengths,
) -> dict[str, tuple[Readout, Readout]]:
    """Each probe's out-of-fold readout of one layer, X [n, d]: of `codes` [n] in every repeat, and of the
    `shuffled` codes [n, P], one column each, in the folds of the first repeat.
    """
    n, n_shuffled = shuffled.shape
    readouts = {
        probe: (Readout.unfilled(n, len(repeats)), Readout.unfilled(n, n_shuffled)) for probe in probes
    }
    for repeat, folds in enumerate(repeats):
        labels = np.column_stack([codes, shuffled]) if repeat == 0 else codes[:, None]  # [n, 1 + P] or [n, 1]
        for train, test in folds:
            for probe, (found, scores) in probe_split(X, labels, train, test, probes, strengths).items():
                own, null = readouts[probe]
                own.codes[test, repeat], own.scores[test, repeat] = found[:, 0], scores[:, 0]
                if repeat == 0:
                    null.codes[test], null.scores[test] = found[:, 1:], scores[:, 1:]
    return readouts


def read_floors(dataset: Dataset, codes: np.ndarray, repeats: list[Folds], seed: int) -> dict[str, Readout]:
    """Out-of-fold readouts of the commonest class, of sentence length, and of words."""
    n = len(codes)
    common = np.full((n, len(repeats)), np.bincount(codes).argmax())
    readouts = {name: Readout.unfilled(n, len(repeats)) for name in ("length", "tfidf")}
    n_fits = sum(map(len, repeats))
    with progress(total=n_fits, unit="fold", description=f"{dataset.trait}, text alone") as bar:
        for repeat, folds in enumerate(repeats):
            for train, test in folds:
                for name, found in read_text(
                    dataset.sentences, codes, dataset.groups[train], train, test, seed
                ).items():
                    readouts[name].codes[test, repeat] = found.codes[:, 0]
                    readouts[name].scores[test, repeat] = found.scores[:, 0]
                bar.update()
    return {"majority": Readout(common, np.zeros(common.shape)), **readouts}


def read_text(
    sentences: np.ndarray,
    codes: np.ndarray,
    train_groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> dict[str, Readout]:
    """What the length and the words of the `train` sentences tell of the `test` ones, [n_test, 1] each."""
    folds = grouped_folds(codes[train], train_groups, PENALTY_FOLDS, seed)
    data = ("classification", sentences, codes, train, test)
    predicted = {"length": length_prediction(*data), "tfidf": tfidf_prediction(*data, folds)}
    return {name: Readout.of_prediction(prediction) for name, prediction in predicted.items()}
