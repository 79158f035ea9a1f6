"""Stage 5: the original study's grid on a small dataset, and what it says about the model."""

import json

import numpy as np
import pandas as pd
import pytest
import study_grid
from emergence_curves.published_grid import cross_validated_accuracy, draw_sentences
from experiments.experiment_dataset import load_dataset


def write_stacked(path, n_layers, model, *, n=200, d_model=6):
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int64) % 4
    X = rng.normal(size=(n, n_layers * d_model)).astype(np.float32)
    X[:, -d_model] += 3 * labels  # the last layer knows the label, the first does not
    source = {"input_sha256": "", "model": model}
    metadata = {
        "format_version": 1,
        "task": "classification",
        "trait": "x",
        "pool": "final",
        "target": "",
        "source": source,
    }
    np.savez(
        path,
        X=X,
        y=labels,
        sentence_index=np.arange(n),
        group=np.arange(n) // 2,
        layers=np.arange(n_layers),
        d_model=np.int64(d_model),
        sentences=np.array([f"sentence {i}" for i in range(n)]),
        part=np.full(n, ""),
        metadata=np.array(json.dumps(metadata)),
    )
    return path


@pytest.mark.parametrize(
    ("model", "n_layers", "layers", "mark"),
    [
        pytest.param(
            "google/gemma-2-2b", 26, [0, 5, 10, 15, 19], "(the study's model)", marks=pytest.mark.slow
        ),
        ("other", 6, [0, 1, 2, 3, 4], "ANOTHER MODEL"),
    ],
)
def test_depths_and_published_figures(model, n_layers, layers, mark, tmp_path, capsys):
    path = write_stacked(tmp_path / "a.npz", n_layers, model)
    assert study_grid.main([str(path), "--output", str(tmp_path / "study"), "--draws", "1"]) == 0
    assert mark in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "study.csv")
    assert len(table) == 2 * 2 * 5
    small = table[(table["model"] == "rbf_svm") & (table["sentences"] == 100)]
    assert small["layer"].tolist() == layers
    assert small["published"].tolist() == [0.40, 0.5625, 0.6875, 0.70, 0.6875]
    assert table["published"].notna().sum() == 7
    assert "0.858" in (tmp_path / "study.md").read_text(encoding="utf-8")


def test_accuracy_is_chance_without_and_high_with_a_signal(tmp_path):
    dataset = load_dataset(write_stacked(tmp_path / "a.npz", 2, "other"))
    rows = draw_sentences(dataset, 100, np.random.default_rng(0))
    assert np.bincount(dataset.y[rows]).tolist() == [25] * 4
    assert abs(cross_validated_accuracy(dataset, np.arange(200), 0, "logistic", 0) - 0.25) < 0.1
    assert cross_validated_accuracy(dataset, np.arange(200), 1, "logistic", 0) > 0.7


def test_unsuitable_datasets_are_refused(tmp_path, capsys):
    assert study_grid.main([str(write_stacked(tmp_path / "a.npz", 2, "gemma-2-2b"))]) == 2
    assert "has no layer 5, 10, 15, 19; write it with --layers all" in capsys.readouterr().err
    assert study_grid.main([str(write_stacked(tmp_path / "b.npz", 2, "other", n=120))]) == 2
    assert "at least 200 sentences" in capsys.readouterr().err
    for option in ("--draws", "0"), ("--seed", "-1"):
        with pytest.raises(SystemExit) as stopped:
            study_grid.main(["a.npz", *option])
        assert stopped.value.code == 2
        assert f"argument {option[0]}: '{option[1]}' is not a whole number" in capsys.readouterr().err
