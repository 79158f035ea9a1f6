"""What a study writes: emergence.json, emergence.csv, and a line per trait."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from emergence_curves.emergence_landmarks import LEVEL, Curve, onset_lag, peak_of
from emergence_curves.emergence_study import ProbeCurve, TraitStudy
from emergence_curves.readout_curves import SentenceCurves
from emergence_curves.transfer_curves import Transfer
from experiments.experiment_dataset import Dataset
from experiments.experiment_folder import FORMAT_VERSION, read_record
from twins_s5.atomic_files import json_ready
from twins_s5.group_statistics import percentile_interval

TWO_LABELS = (
    "the sentences have the labels {} and {} only: kappa is unweighted, and nothing here is about the labels "
    "between"
)
ANALYZE = "run s2_find_top_features/analyze_features.py"


def study_content(
    studies: dict[str, TraitStudy], transfers: dict[str, Transfer], lead_probe: str, metric: str
) -> dict:
    """The content of emergence.json, as it is read back; `transfers` by trait, where there are any."""
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
            "traits": {
                trait: _trait_content(study) | _transfer_content(study.dataset, transfers.get(trait))
                for trait, study in studies.items()
            },
            "onset_differences": differences,
        }
    )


def _trait_content(study: TraitStudy) -> dict:
    dataset = study.dataset
    apart = {
        column: {value: _curves_content(dataset.layers, curves) for value, curves in values.items()}
        for column, values in study.apart.items()
    }
    return {
        "dataset": _dataset_content(dataset),
        "n_sentences": len(dataset.y),
        "n_groups": len(np.unique(dataset.groups)),
        "classes": dataset.classes,
        "caveats": [TWO_LABELS.format(*dataset.classes)] if len(dataset.classes) == 2 else [],
        "layers": dataset.layers,
        "floors": _nested({key: _floor_content(floor) for key, floor in study.floors.items()}),
        "probes": _nested({key: _probe_content(found) for key, found in study.probes.items()}),
        **({"apart": apart} if apart else {}),
    }


def _dataset_content(dataset: Dataset) -> dict[str, object]:
    return {"path": str(dataset.path), "sha256": dataset.sha256, "metadata": dataset.metadata}


def _nested(by_name_and_metric: dict[tuple[str, str], dict]) -> dict[str, dict[str, dict]]:
    nested: dict[str, dict] = {}
    for (name, metric), content in by_name_and_metric.items():
        nested.setdefault(name, {})[metric] = content
    return nested


def _transfer_content(own: Dataset, transfer: Transfer | None) -> dict[str, object]:
    """What the probes of the trait read in other sentences; nothing where none were given."""
    if transfer is None:
        return {}
    other = transfer.other
    content = {
        "name": other.name,
        "dataset": _dataset_content(other.dataset),
        "classes": other.dataset.classes,
        "n_left_out": other.n_left_out,
        **_curves_content(own.layers, transfer.curves),
    }
    return {"transfer": content}


def _curves_content(layers: np.ndarray, curves: SentenceCurves) -> dict[str, object]:
    """Curves of some sentences apart: with bands and peaks, without onsets."""

    def content(curve: Curve) -> dict[str, object]:
        low, high = curve.band()
        return {"value": curve.value, "band_low": low, "band_high": high, **peak_of(layers, curve)}

    return {
        "n_sentences": curves.n_sentences,
        "n_groups": curves.n_groups,
        "metrics": curves.metrics,
        "floors": _nested({key: _floor_content(floor) for key, floor in curves.floors.items()}),
        "probes": _nested({key: content(curve) for key, curve in curves.probes.items()}),
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
    """emergence.csv: one row per trait, sentences, probe or floor, metric and layer.

    `sentences` is `all`, the name of other sentences, or column and value of those apart.
    """
    tables = []
    for trait, entry in content["traits"].items():
        blocks = [("all", entry)]
        if "transfer" in entry:
            blocks.append((entry["transfer"]["name"], entry["transfer"]))
        for column, values in entry.get("apart", {}).items():
            blocks += [(f"{column}: {value}", block) for value, block in values.items()]
        for sentences, block in blocks:
            tables += _block_tables({"trait": trait, "sentences": sentences}, entry["layers"], block)
    columns = ["trait", "sentences", "source", "metric", "layer", "value", "low", "high", "clears_floors"]
    return pd.concat(tables)[columns].astype({"layer": "Int64", "clears_floors": "boolean"})


def _block_tables(names: dict[str, str], layers: list[int], block: dict) -> list[pd.DataFrame]:
    """The curves, then the floors, of some sentences; only curves of all sentences are held to the floors."""
    curves = [
        pd.DataFrame(
            names
            | {"source": probe, "metric": metric, "layer": layers}
            | {"value": figures["value"], "low": figures["band_low"], "high": figures["band_high"]}
            | {"clears_floors": figures.get("clears")}
        )
        for probe, metrics in block["probes"].items()
        for metric, figures in metrics.items()
    ]
    floors = [
        names | {"source": floor, "metric": metric, "layer": None, **figures, "clears_floors": None}
        for floor, metrics in block["floors"].items()
        for metric, figures in metrics.items()
    ]
    return [*curves, pd.DataFrame(floors)]


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


def describe(trait: str, entry: dict, probe: str, metric: str) -> list[str]:
    """Lines for the terminal: the trait, other sentences, and each kind of sentence apart."""
    figures = entry["probes"][probe][metric]
    strongest = max(entry["floors"], key=lambda name: entry["floors"][name][metric]["value"])
    lines = [
        f"{trait}: onset {_place(figures['onset'], figures['onset_interval'])}, "
        f"peak {_place(figures['peak'], figures['peak_interval'])} with {metric} {figures['peak_value']:.3f} "
        f"(strongest floor {strongest} {entry['floors'][strongest][metric]['value']:.3f})"
    ]
    if "transfer" in entry:
        other = entry["transfer"]
        lines.append(
            f"{trait} on {other['n_sentences']} sentences of {other['name']}: "
            f"{_peak(other, probe, 'auroc')}; on its own: {_peak(entry, probe, 'auroc')}"
        )
    for column, values in entry.get("apart", {}).items():
        lines += [
            f"{trait}, {column} {value}, {block['n_sentences']} sentences: {_peak(block, probe, metric)}"
            for value, block in values.items()
        ]
    return lines


def caveats(content: dict) -> list[str]:
    """What has to be known to read the figures, a line each."""
    lines = [f"{trait}: {text}" for trait, entry in content["traits"].items() for text in entry["caveats"]]
    for trait, entry in content["traits"].items():
        other = entry.get("transfer", {"n_left_out": 0})
        if other["n_left_out"]:
            lines.append(
                f"{other['n_left_out']} sentences of {other['name']} are left out: {trait} has them too, or "
                "others of their group, or has not their label"
            )
        if other.get("metrics") == ["auroc"]:
            lines.append(f"{other['name']} has not all labels of {trait}: its curve is the AUROC alone")
    if len({len(entry["classes"]) for entry in content["traits"].values()}) > 1:
        lines.append("the traits have different numbers of labels: compare them by AUROC alone")
    return lines


def _peak(block: dict, probe: str, metric: str) -> str:
    figures = block["probes"][probe][metric]
    if figures["peak"] is None:
        return f"no {metric}"
    where = _place(figures["peak"], figures["peak_interval"])
    floor = block["floors"]["tfidf"][metric]["value"]
    return f"peak {where} with {metric} {figures['peak_value']:.3f} (TF-IDF {floor:.3f})"


def _place(value: float | None, interval: list[float | None]) -> str:
    low, high = (f"{end:g}" if end is not None else "none" for end in interval)
    return "none" if value is None else f"{value:.3g} [{low}, {high}]"
