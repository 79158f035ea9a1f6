"""All arrays behind the overviews, over all sentences whatever is drawn."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from drawing_inputs.drawn_run import DrawnRun
from twins_s3.group_statistics import group_bootstrap
from twins_s3.progress import progress

from .curve_bands import Curves, firing_curves, mean_trajectories
from .early_detection import EarlyDetection, early_detection
from .peak_raster import Raster, peak_aligned_raster
from .peak_statistics import summary_statistics

SHARES = np.arange(1, 21) / 20  # of the sentence read, for early detection and first firing


@dataclass(frozen=True)
class Overviews:
    """The arrays behind the overview figures."""

    statistics: pd.DataFrame  # one row per feature
    means: dict[int, Curves]  # label -> mean activation along the sentence
    firing: dict[int, np.ndarray]  # label -> [n_features, n_shares]
    early: EarlyDetection | None  # None where label 0 or 3 does not occur
    rasters: list[Raster]  # one per feature


def compute_overviews(run: DrawnRun, n_boot: int, seed: int) -> Overviews:
    """Compute all arrays, with one bootstrap of groups for all bands."""
    offsets, labels = run.s1.sentence_offsets, run.labels
    weights = group_bootstrap(run.s1.groups, n_boot, np.random.default_rng(seed))  # [n_boot, n]
    with progress(4, "part", "statistics") as bar:
        early = compute_early_detection(run, weights, seed)
        bar.update()
        statistics = summary_statistics(run.activations, offsets, labels, weights)
        bar.update()
        means = mean_trajectories(run.activations, offsets, labels, weights)
        bar.update()
        firing = firing_curves(run.activations, offsets, labels, SHARES)
        rasters = [peak_aligned_raster(column, offsets, labels) for column in run.activations.T]
        bar.update()
    return Overviews(statistics, means, firing, early, rasters)


def compute_early_detection(run: DrawnRun, weights: np.ndarray, seed: int) -> EarlyDetection | None:
    """Early detection where there are sentences of label 0 and 3; labels without these are told so."""
    if not {0, 3} <= run.counts.keys():
        if run.labelled:
            print("no early detection: it needs sentences of label 0 and of label 3")
        return None
    return early_detection(
        run.activations,
        run.s1.sentence_offsets,
        run.s1.tokens,
        run.labels,
        run.s1.groups,
        run.confirmation,
        weights,
        SHARES,
        seed,
    )
