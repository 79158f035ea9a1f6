"""What a study writes: emergence.json, emergence.csv, and a line per trait."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from emergence_curves.emergence_landmarks import LEVEL, Curve, onset_lag
from emergence_curves.emergence_study import ProbeCurve, TraitStudy
from experiments.experiment_dataset import Dataset
from experiments.experiment_folder import FORMAT_VERSION, read_record
from twins_s5.atomic_files import json_ready
from twins_s5.group_statistics import percentile_interval

ANALYZE = "run s2_find_top_features/analyze_features.py"


def study_content(studies: dict[str, TraitStudy], lead_probe: str, metric: str) -> dict:
    """The content of emergence.json, as it is read back."""
    differences = [
        {
            "first": first,
            "second": second,
            **onset_lag(
                studies[first].probes[lead_probe, metric].landmarks,
                studies[second].probes[lead_probe, metric].landmarks,
            ),
        }
        for first, second in combinations(studies, 2)
    ]
    return json_ready(
        {
            "format_version": FORMAT_VERSION,
            "metric": metric,
            "lead_probe": lead_probe,
            "traits": {trait: _trait_content(study) for trait, study in studies.items()},
            "onset_differences": differences,
        }
    )


def _trait_content(study: TraitStudy) -> dict:
    dataset = study.dataset
    floors: dict[str, dict] = {}
    for (name, metric), floor in study.floors.items():
        floors.setdefault(name, {})[metric] = _floor_content(floor)
    probes: dict[str, dict] = {}
    for (probe, metric), found in study.probes.items():
        probes.setdefault(probe, {})[metric] = _probe_content(found)
    return {
        "dataset": {"path": str(dataset.path), "sha256": dataset.sha256, "metadata": dataset.metadata},
        "n_sentences": len(dataset.y),
        "n_groups": len(np.unique(dataset.groups)),
        "layers": dataset.layers,
        "floors": floors,
        "probes": probes,
    }


def _floor_content(floor: Curve) -> dict[str, float]:
    low, high = percentile_interval(floor.resampled[:, 0], LEVEL)
    return {"value": floor.value[0], "low": low, "high": high}


def _probe_content(found: ProbeCurve) -> dict[str, object]:
    band_low, band_high = found.curve.band()
    marks = {name: value for name, value in vars(found.landmarks).items() if name != "resampled_onset"}
    return {
        "value": found.curve.value,
        "band_low": band_low,
        "band_high": band_high,
        "shuffled_mean": found.shuffled.mean(axis=0),
        "shuffled_low": found.shuffled.min(axis=0),
        "shuffled_high": found.shuffled.max(axis=0),
        "shuffled_upper": found.shuffled_upper,
        **marks,
    }


def curve_table(content: dict) -> pd.DataFrame:
    """emergence.csv: one row per trait, probe or floor, metric and layer."""
    rows = []
    for trait, entry in content["traits"].items():
        for probe, metrics in entry["probes"].items():
            for metric, figures in metrics.items():
                rows += [
                    {
                        "trait": trait,
                        "source": probe,
                        "metric": metric,
                        "layer": layer,
                        "value": value,
                        "low": low,
                        "high": high,
                        "clears_floors": bool(clears),
                    }
                    for layer, value, low, high, clears in zip(
                        entry["layers"],
                        figures["value"],
                        figures["band_low"],
                        figures["band_high"],
                        figures["clears"],
                    )
                ]
        for floor, metrics in entry["floors"].items():
            rows += [
                {"trait": trait, "source": floor, "metric": metric, **figures}
                for metric, figures in metrics.items()
            ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def read_rungs(folders: list[Path], datasets: list[Dataset]) -> dict[str, pd.DataFrame]:
    """`best_per_sae.csv` of each stage 2 result, by the trait whose dataset it belongs to."""
    by_source = {dataset.source["input_sha256"]: dataset for dataset in datasets}
    rungs = {}
    for folder in folders:
        ran_on = read_record(folder / "run.json", ANALYZE).get("features_run", {})
        dataset = by_source.get(ran_on.get("input_sha256"))
        if dataset is None or dataset.source["model"] != ran_on.get("model"):
            raise ValueError(
                f"{folder} was computed from sentences or a model that none of the datasets come from"
            )
        path = folder / "best_per_sae.csv"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {ANALYZE}")
        rungs[dataset.trait] = pd.read_csv(path)
    return rungs


def describe(trait: str, entry: dict, probe: str, metric: str) -> str:
    """One line per trait for the terminal."""
    figures = entry["probes"][probe][metric]

    def place(value: float | None, interval: list[float | None]) -> str:
        low, high = (f"{end:g}" if end is not None else "none" for end in interval)
        return "none" if value is None else f"{value:.3g} [{low}, {high}]"

    strongest = max(entry["floors"], key=lambda name: entry["floors"][name][metric]["value"])
    return (
        f"{trait}: onset {place(figures['onset'], figures['onset_interval'])}, "
        f"peak {place(figures['peak'], figures['peak_interval'])} with {metric} {figures['peak_value']:.3f} "
        f"(strongest floor {strongest} {entry['floors'][strongest][metric]['value']:.3f})"
    )
