"""`summary_statistics.csv` and `.txt`: the numbers behind the overviews, one row or paragraph per feature."""

from pathlib import Path

import numpy as np
import pandas as pd
from drawing_inputs.drawn_run import DrawnRun
from drawing_inputs.feature import Feature
from drawing_inputs.sentence_labels import UNLABELLED, label_suffix
from trajectories.early_detection import EarlyDetection
from trajectories.overviews import Overviews
from twins_s3.atomic_files import write_text

from .saved_data import write_csv


def write_summary(run: DrawnRun, overviews: Overviews, output: Path) -> None:
    """Write both files."""
    table = summary_table(run.features, overviews.statistics, overviews.early)
    write_csv(table, output / "summary_statistics.csv")
    write_text(output / "summary_statistics.txt", summary_text(run, table))


def summary_table(
    features: list[Feature], statistics: pd.DataFrame, early: EarlyDetection | None
) -> pd.DataFrame:
    """`statistics` with the features' names before and their early detection after."""
    names = pd.DataFrame(
        [
            {
                "rank": feature.rank,
                "layer": feature.layer,
                "average_l0": feature.average_l0,
                "feature_id": feature.feature_id,
                "neuronpedia_url": feature.neuronpedia_url,
                "interpretability_score": feature.score,
            }
            for feature in features
        ]
    )
    table = pd.concat([names.astype({"rank": "Int64"}), statistics], axis=1)
    if early is not None:
        table["auroc_sentences"] = early.sentences
        table["auroc_full_sentence"] = early.features.estimate[:, -1]
        table["auroc_full_sentence_low"] = early.features.low[:, -1]
        table["auroc_full_sentence_high"] = early.features.high[:, -1]
        table["above_chance_from_share"] = early.onset
    return table


def summary_text(run: DrawnRun, table: pd.DataFrame) -> str:
    """The table as prose, one paragraph per feature."""
    lines = [
        f"{len(run.features)} features over {len(run.labels)} sentences of {run.s1.run['model']}",
        "Positions are shares of a sentence (0 its beginning, 1 its end), over the sentences that fire.",
        "",
    ]
    for number, (feature, row) in enumerate(zip(run.features, table.to_dict("records")), start=1):
        score = "" if feature.score is None else f", score {feature.score:.3f}"
        lines.append(f"{number}. {feature.name}{score}")
        lines += [label_line(label, n, row) for label, n in run.counts.items()]
        lines.append(peak_line(row))
        if "above_chance_from_share" in row:
            lines.append(detection_line(row))
    return "\n".join(lines) + "\n"


def label_line(label: int, n: int, row: dict) -> str:
    name, of = label_suffix(label), "" if label == UNLABELLED else f"label {label}: "
    return (
        f"   {of}fires in {row[f'share_firing{name}']:.0%} of {n}, "
        f"mean peak {row[f'mean_peak_value{name}']:.4g}, "
        f"largest {row[f'max_peak_value{name}']:.4g}"
    )


def peak_line(row: dict) -> str:
    if not row["n_firing"]:
        return "   never fires"
    interval = ""
    if np.isfinite(row["peak_position_low"]):
        interval = f" [{row['peak_position_low']:.2f}, {row['peak_position_high']:.2f}]"
    return f"   peaks at {row['mean_peak_position']:.2f}{interval}: {row['activator']}"


def detection_line(row: dict) -> str:
    onset = row["above_chance_from_share"]
    told = f"from {onset:.0%} of the sentence on" if np.isfinite(onset) else "not above chance"
    return (
        f"   label 3 against 0 on {row['auroc_sentences']} sentences: AUROC "
        f"{row['auroc_full_sentence']:.3f} [{row['auroc_full_sentence_low']:.3f}, "
        f"{row['auroc_full_sentence_high']:.3f}] at the end; {told}"
    )
