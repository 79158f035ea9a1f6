"""The files of a dataset: the NPZ that s5 reads, and what was done to make it, beside it."""

import json
import time
from pathlib import Path

import numpy as np
from twins_s4.atomic_files import replaced_together, write_arrays, write_json
from twins_s4.feature_folder import FeatureFolder, find_sae
from twins_s4.provenance import library_versions, sha256_of
from twins_s4.ranking_folder import RankingFolder

from .dataset_options import DatasetOptions
from .strategies import Inputs
from .targets import Target

FORMAT_VERSION = 1
SOURCE = ("input_sha256", "model", "model_revision", "model_fingerprint")
LIBRARIES = ("numpy", "scipy", "pandas")
KINDS = ("difficulty", "register")  # columns of sentences.csv by which stage 5 gives its results apart too


def require_file_or_nothing(output: Path) -> None:
    """Raise ValueError, before time is spent on a dataset, where its name is a folder's."""
    if output.is_dir():
        raise ValueError(
            f"--output {output} is a folder, expected an NPZ file or nothing; choose another name"
        )


def dataset_metadata(
    options: DatasetOptions,
    inputs: Inputs,
    target: Target,
    features: FeatureFolder,
    results: RankingFolder | None,
    arguments: dict,
) -> dict[str, object]:
    """What stage 5 and a reader need to know of the arrays; `arguments` are those of the command."""
    return {
        "format_version": FORMAT_VERSION,
        "strategy": options.strategy,
        "task": target.task,
        "labelled": target.y is not None,
        "trait": features.trait,
        "pool": inputs.pool,
        "target": target.source,
        "target_encoder_sha256": target_weights(target, features),
        "target_pool": target.pool,
        "classes": target.classes,
        "layers": list(inputs.layers),
        "features": inputs.features and [with_weights(feature, features) for feature in inputs.features],
        # Rows whose labels chose the inputs: after `discovery` stage 5 tests on the others only, after `all`
        # no test is free of the choice.
        "inputs_selected_on": inputs.selected_on,
        "source": {
            "path": str(features.folder),
            **{key: features.run.get(key) for key in SOURCE},
        },
        "like": options.like.record if options.like else None,
        "s2_results": str(results.folder) if results else None,
        # What --like stands for is said as if it had been given.
        "arguments": arguments | {"strategy": options.strategy, "binary": options.binary},
        "seed": None,  # nothing here is random
        "libraries": library_versions(*LIBRARIES),
    }


def with_weights(feature: dict, features: FeatureFolder) -> dict:
    """The feature with the hash of the SAE's weights, None where stage 1 recorded none."""
    sae = find_sae(features, feature["layer"], feature["average_l0"])
    return feature | {"encoder_sha256": sae.get("encoder_sha256")}


def target_weights(target: Target, features: FeatureFolder) -> str | None:
    """The hash of the weights of the target feature's SAE; None where a label is predicted."""
    if not isinstance(target.source, dict):
        return None
    return with_weights(target.source, features)["encoder_sha256"]


def write_dataset(
    output: Path,
    inputs: Inputs,
    target: Target,
    features: FeatureFolder,
    results: RankingFolder | None,
    metadata: dict,
    started: float,
) -> None:
    """Replace the NPZ and its `.run.json` as one, so that the record never describes another NPZ.

    `started` is the `time.monotonic()` at which the command began.
    """
    rows = target.rows
    part = results.part if results else np.full(len(rows), "")
    record = output.with_suffix(".run.json")
    with replaced_together(output.parent, last=record.name) as fresh:
        write_arrays(
            fresh / output.name,
            X=inputs.X,
            **({} if target.y is None else {"y": target.y}),
            sentence_index=np.flatnonzero(rows).astype(np.int64),
            group=features.groups[rows],
            layers=np.array(inputs.layers, np.int64),
            d_model=np.int64(features.run["d_model"]),
            sentences=features.sentences["sentence"].to_numpy().astype(str)[rows],
            part=part[rows],
            **{
                kind: features.sentences[kind].to_numpy().astype(str)[rows]
                for kind in KINDS
                if kind in features.sentences
            },
            metadata=np.array(json.dumps(metadata, ensure_ascii=False)),
        )
        provenance = {
            "output": str(output),
            "output_sha256": sha256_of(fresh / output.name),
            "seconds": round(time.monotonic() - started, 2),
        }
        write_json(fresh / record.name, metadata | provenance)


def summary_line(output: Path, inputs: Inputs, target: Target, features: FeatureFolder) -> str:
    """What was written, in one line."""
    n, n_inputs = inputs.X.shape
    if target.y is None:
        of_target = "no labels, so no y"
    elif target.task == "classification":
        labels, counts = np.unique(target.y, return_counts=True)
        of_target = "labels " + ", ".join(f"{label}: {count}" for label, count in zip(labels, counts))
    else:
        of_target = f"target from {target.y.min():.3g} to {target.y.max():.3g}"
    n_groups = len(np.unique(features.groups[target.rows]))
    return f"wrote {output}: {n} rows × {n_inputs:,} inputs, {n_groups} groups, {of_target}"
