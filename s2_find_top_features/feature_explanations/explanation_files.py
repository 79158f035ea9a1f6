"""explanations.json beside a ranking, and whether it belongs to it."""

from pathlib import Path

from ranking_results.side_files import read_side_file
from twins_s2.atomic_files import write_json
from twins_s2.feature_folder import read_run, required_file
from twins_s2.provenance import sha256_of

from .shown_sentences import FeaturePlace

EXPLANATIONS = "explanations.json"
FORMAT_VERSION = 1
KEYS = ("inputs", "model", "explanations")
EXPLAIN = "run explain_features.py again"
ANALYZE = "run analyze_features.py again"


def explained_inputs(results: Path) -> dict:
    """What explanations depend on: the sentences, the model, where features fire, what was held out."""
    run = read_run(results, ANALYZE)
    source = {key: run["features_run"][key] for key in ("input_sha256", "model")}
    split = sha256_of(required_file(results, "split.csv", ANALYZE))
    return source | {"pool": run["pool"], "split_sha256": split}


def write_explanations(results: Path, entries: list[dict], asked_model: str, provenance: dict) -> None:
    """Write explanations.json; `entries` in rank order."""
    content = {"format_version": FORMAT_VERSION, "inputs": explained_inputs(results), "model": asked_model}
    write_json(results / EXPLANATIONS, content | provenance | {"explanations": entries})


def read_explanations(results: Path) -> dict | None:
    """`model`, whether the file is `stale` (of other sentences or another split), and entries `by_feature`.

    None where there is no file; ValueError for one that is none of ours.
    """
    complaint = f"is not of format {FORMAT_VERSION}; delete it, or {EXPLAIN}"
    content = read_side_file(results / EXPLANATIONS, FORMAT_VERSION, KEYS, complaint)
    if content is None:
        return None
    stale = content["inputs"] != explained_inputs(results)
    return {
        "model": content["model"],
        "stale": stale,
        "by_feature": {} if stale else {place_of(entry): entry for entry in content["explanations"]},
    }


def place_of(entry: dict) -> FeaturePlace:
    return entry["layer"], entry["average_l0"], entry["feature_id"]
