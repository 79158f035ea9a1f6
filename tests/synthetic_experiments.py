"""Writes datasets as stage 4 does and experiments of stage 5 that use them, with known content, for tests."""

import json

import numpy as np

QUICK = {"bootstrap": 100, "shuffles": 2, "folds": 3}


def write_dataset(path, *, n=96, d=12, task="classification", signal=1.5, seed=0, part="", **metadata):
    """An NPZ as stage 4 writes it: inputs whose first column follows the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    X = rng.normal(size=(n, d)).astype(np.float32)
    X[:, 0] += signal * labels
    y = (
        labels.astype(np.int64)
        if task == "classification"
        else np.maximum(labels - 0.5, 0).astype(np.float32)
    )
    group = np.arange(n, dtype=np.int64) // 2
    full = {
        "format_version": 1,
        "strategy": "hidden-to-concept",
        "task": task,
        "trait": "planted",
        "target": "concept_strength_label",
        "inputs_selected_on": None,
        "source": {"path": "x", "input_sha256": f"{seed:064x}", "model": "tiny"},
    }
    np.savez(
        path,
        X=X,
        y=y,
        sentence_index=np.arange(n, dtype=np.int64),
        group=group,
        layers=np.array([0], np.int64),
        d_model=np.int64(d),
        sentences=np.array([f"sentence number {i} of a {'long ' * (i % 3)}story" for i in range(n)]),
        part=np.where(group // 2 % 4 == 0, "confirmation", "discovery") if part else np.full(n, ""),
        metadata=np.array(json.dumps(full | metadata)),
    )
    return path


def rewrite(path, **arrays):
    with np.load(path, allow_pickle=False) as file:
        kept = {key: file[key] for key in file.files}
    np.savez(path, **{key: value for key, value in (kept | arrays).items() if value is not None})


def write_experiment(folder, dataset, /, **config):
    (folder / "working").mkdir(parents=True)
    full = {"dataset": str(dataset), "task": "classification", "model": "logistic"} | QUICK | config
    (folder / "working" / "config.json").write_text(json.dumps(full), encoding="utf-8")
    return folder
