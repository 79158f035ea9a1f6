"""A steering run from its plan to its files."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
from continuation_judge.judge_endpoint import Judge
from continuation_judge.judged_continuations import with_ratings
from extraction.device_memory import named_memory_failure
from finite_steering.measured_sentences import N_LABELS
from finite_steering.steering_files import (
    CONTINUATIONS,
    RATINGS,
    RECORD,
    SCRATCH,
    SLOPES,
    STEERING_FOLDER,
    write_tables,
)
from finite_steering.steering_plan import SteeringPlan
from finite_steering.steering_units import Steering, steer_all
from twins_s1.atomic_files import write_json
from twins_s1.provenance import library_versions


def run_steering(plan: SteeringPlan) -> str:
    """Measure what is missing and write the output folder; return the closing line."""
    started = time.monotonic()
    output = plan.output
    with STEERING_FOLDER.opened_for_writing(output, plan.inputs, plan.overwrite):
        if not (output / RECORD).is_file():
            units = measured_units(plan)
            write_tables(output, units)
            write_json(output / RECORD, describe_run(plan, units, time.monotonic() - started))
        if plan.judge is not None:
            add_ratings(output, plan.judge, plan.options.seed)
        shutil.rmtree(output / SCRATCH, ignore_errors=True)
    return closing_line(output) + f" in {time.monotonic() - started:.0f} s"


def add_ratings(output: Path, judge: Judge, seed: int) -> None:
    """Have the continuations rated, and say by whom."""
    continuations = json.loads((output / CONTINUATIONS).read_text(encoding="utf-8"))
    rated = with_ratings(continuations, judge, output / RATINGS, seed)
    write_json(output / CONTINUATIONS, rated)
    unrated = sum(entry["rating"] is None and bool(entry["text"].strip()) for entry in rated)
    said = {"model": judge.model, "url": judge.url, "concept": judge.concept, "unrated": unrated}
    record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    write_json(output / RECORD, record | {"judge": said})


def closing_line(output: Path) -> str:
    slopes = pd.read_csv(output / SLOPES)
    record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    own = slopes[slopes["kind"] == "feature"]
    n_unrated = record.get("judge", {}).get("unrated", 0)
    unrated = f"; {n_unrated} continuations that the judge did not rate" if n_unrated else ""
    return (
        f"{output}: {len(own)} features and {len(slopes) - len(own)} null directions on "
        f"{len(record['sentence_index'])} sentences; D within {record['vocabulary_error']:.0e} of that with "
        f"all words; {(own['p_null'] <= 0.05).sum()} features with p_null <= 0.05{unrated}"
    )


def describe_run(plan: SteeringPlan, units: list[dict], seconds: float) -> dict:
    """The content of run.json."""
    sentences = plan.text.sentences
    features = [
        {"layer": unit["layer"], "average_l0": unit["average_l0"], **unit["feature"]}
        for unit in units
        if "feature" in unit
    ]
    vocabulary = plan.sources.model.read_config()[0].get_text_config().vocab_size
    return plan.inputs | {
        "features": features,
        "vocabulary": vocabulary,
        "vocabulary_error": max(unit["vocabulary_error"] for unit in units),
        "sentences_per_label": np.bincount(sentences.labels, minlength=N_LABELS),
        "groups": len(np.unique(sentences.groups)),
        "neutral_sentences": 0 if plan.text.neutral is None else len(plan.text.neutral.n_tokens),
        "arguments": plan.arguments,
        "libraries": library_versions("torch", "transformers", "numpy", "scipy", "pandas"),
        "seconds": round(seconds, 1),
    }


def measured_units(plan: SteeringPlan) -> list[dict]:
    """The content of all units, measured where the output folder lacks them."""
    config, tokenizer = plan.sources.model.read_config()
    compute = plan.sources.compute
    with named_memory_failure(compute.device):
        model = plan.sources.model.load_weights(config, dtype=compute.dtype, device=compute.device)
        entries = {(entry.layer, entry.average_l0): entry for entry in plan.sources.configurations.saes}
        d_model = plan.folder.run["d_model"]
        steering = Steering(model, tokenizer, plan.sources.saes, entries, d_model, plan.text, plan.options)
        return steer_all(steering, plan.finalists, plan.output / SCRATCH)
