"""`data/`: the arrays behind the figures, for people who draw their own."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from drawing_inputs.drawn_run import DrawnRun
from trajectories.curve_bands import Curves
from trajectories.early_detection import EarlyDetection
from trajectories.overviews import SHARES, Overviews
from trajectories.peak_raster import Raster
from trajectories.positions import first_firing_positions, peak_positions, peak_values
from twins_s3.atomic_files import write_bytes, write_text


def save_data(run: DrawnRun, overviews: Overviews, folder: Path) -> None:
    """Write all arrays to `folder`."""
    names = np.array([feature.short_name for feature in run.features])  # [n_features] layer:l0:id
    save_trajectories(run, names, folder / "trajectories.npz")
    for feature, raster in zip(run.features, overviews.rasters):
        save_raster(raster, labels_array(run.labelled, raster.labels), folder / f"raster_{feature.slug}.npz")
    unsaid = [] if run.labelled else ["label"]
    write_csv(mean_table(names, overviews.means).drop(columns=unsaid), folder / "mean_trajectories.csv")
    write_csv(firing_table(names, overviews.firing).drop(columns=unsaid), folder / "first_firing.csv")
    if overviews.early is not None:
        write_csv(detection_table(names, overviews.early), folder / "early_detection.csv")


def labels_array(labelled: bool, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The array `labels` of an NPZ, which is left out where there are none."""
    return {"labels": labels} if labelled else {}


def save_trajectories(run: DrawnRun, names: np.ndarray, path: Path) -> None:
    offsets = run.s1.sentence_offsets
    write_npz(
        path,
        activations=run.activations,
        feature=names,
        tokens=run.s1.tokens,
        sentence_offsets=offsets,
        sentence_index=np.arange(len(run.labels)),
        **labels_array(run.labelled, run.labels),
        peak_values=peak_values(run.activations, offsets),
        peak_positions=peak_positions(run.activations, offsets),
        first_firing_positions=first_firing_positions(run.activations, offsets),
    )


def save_raster(raster: Raster, labels: dict[str, np.ndarray], path: Path) -> None:
    write_npz(
        path,
        values=raster.values,
        sentence_index=raster.sentence,
        **labels,
        tokens_from_peak=raster.tokens_from_peak,
    )


def mean_table(names: np.ndarray, means: dict[int, Curves]) -> pd.DataFrame:
    return pd.concat(
        [
            curve_table(names, curves, "feature", "position", "mean_activation").assign(label=label)
            for label, curves in means.items()
        ]
    )


def firing_table(names: np.ndarray, firing: dict[int, np.ndarray]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame({"feature": name, "label": label, "share_read": SHARES, "share_fired": row})
            for label, fired in firing.items()
            for name, row in zip(names, fired)
        ]
    )


def detection_table(names: np.ndarray, early: EarlyDetection) -> pd.DataFrame:
    tables = [curve_table(names, early.features, "curve", "share_read", "auroc")]
    if early.words is not None:
        tables.append(curve_table(np.array(["words (TF-IDF)"]), early.words, "curve", "share_read", "auroc"))
    return pd.concat(tables)


def curve_table(names: np.ndarray, curves: Curves, name: str, x: str, y: str) -> pd.DataFrame:
    """`curves` as a long table: one row per curve and point."""
    columns = {name: np.repeat(names, len(curves.x)), x: np.tile(curves.x, len(names))}
    bands = {y: curves.estimate.ravel(), "low": curves.low.ravel(), "high": curves.high.ravel()}
    return pd.DataFrame(columns | bands)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Compressed: most activations are 0."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
