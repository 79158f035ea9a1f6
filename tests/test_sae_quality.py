"""The yardstick of the shipped SAEs: its measures against oracles, and what it says if a part is missing."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.append(str(Path(__file__).resolve().parent / "benchmarks"))

import sae_probe_tasks
import sae_quality
from sae_measures import (
    Sae,
    aurocs,
    best_feature_auroc,
    described,
    mean_with_interval,
    random_directions,
    read_saes,
)
from tiny_models import write_tiny_saes

RNG = np.random.default_rng(0)


def test_aurocs_are_scikit_learns_ties_included():
    pooled = RNG.integers(0, 4, size=(60, 7)).astype(float)
    positive = RNG.random(60) < 0.4
    expected = [roc_auc_score(positive, column) for column in pooled.T]
    np.testing.assert_allclose(aurocs(pooled, positive), expected)


def test_the_best_feature_is_found_whichever_its_sign_and_noise_stays_at_chance():
    positive = np.arange(200) % 2 == 1
    noise = RNG.normal(size=(200, 300))
    groups = np.arange(200) // 2
    assert best_feature_auroc(noise, positive, groups) == pytest.approx(0.5, abs=0.06)
    for sign in (1, -1):
        planted = noise.copy()
        planted[:, 5] += 3 * sign * positive
        expected = roc_auc_score(positive, sign * planted[:, 5])
        assert best_feature_auroc(planted, positive, groups) == pytest.approx(expected, abs=0.02)


def test_a_scene_chooses_or_is_measured_never_both():
    """A feature that names its scene is worth nothing on other scenes."""
    group = np.repeat(np.arange(30), 8)
    positive = group % 2 == 0
    names_its_scene = (group[:, None] == np.arange(30)).astype(float)
    assert best_feature_auroc(names_its_scene, positive, group) == pytest.approx(0.5, abs=0.05)


def test_random_directions_fire_as_often_as_asked_though_one_dimension_is_huge():
    x = RNG.normal(size=(2000, 16)).astype(np.float32) * np.array([1000] + [1] * 15, np.float32) + 50
    f = random_directions(x, 64, 8)(x)
    assert (f > 0).sum(axis=1).mean() == pytest.approx(8, abs=0.1)
    assert np.abs(np.corrcoef(f.T) - np.eye(64)).max() < 0.95, "not all the huge one"


def test_reconstruction_of_an_sae_that_loses_a_known_share():
    """Every dimension and its negative are features; a decoder of half the size loses a quarter."""
    x = RNG.normal(size=(5000, 8)).astype(np.float32)
    both = torch.cat([torch.eye(8), -torch.eye(8), torch.zeros(3, 8)])  # the last three never fire
    nothing = torch.zeros(19)
    arrays = {
        "W_enc": both.T,
        "W_dec": both / 2,
        "b_enc": nothing,
        "b_dec": nothing[:8],
        "threshold": nothing,
    }
    l0, cells = described(Sae("half", Path(), 0, arrays), x)
    assert l0 == 8
    assert cells == "0.750 | 0.750 | 8.0 | 3 of 19"


def test_the_interval_is_that_of_the_mean():
    values = RNG.normal(0.7, 0.1, size=40)
    mean, low, high = mean_with_interval(values)
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.1)


def test_new_saes_are_compared_task_by_task_with_the_nearest_old_one():
    def row(folder: str, layer: int, l0: float, auroc: np.ndarray) -> sae_quality.Row:
        sae = Sae(f"{folder} {layer} {l0}", Path(folder), layer, {})
        return sae_quality.Row(sae.name, "", {1: auroc, 16: auroc}, auroc[:3], sae, l0)

    tasks = RNG.uniform(0.6, 0.9, size=40)
    rows = [row("old", 3, 16, tasks), row("old", 3, 64, tasks - 0.5), row("new", 3, 20, tasks + 0.01)]
    rows += [row("new", 9, 20, tasks), sae_quality.Row("null", "", {1: tasks, 16: tasks}, tasks[:3])]
    assert list(sae_quality.compared(rows, Path("old"))) == [
        "new 3 20 − old 3 16: k=1 +0.010 [+0.010, +0.010], k=16 +0.010 [+0.010, +0.010], traits +0.010"
    ]


def test_the_command_on_a_tiny_model_and_a_task_that_its_tokens_tell(
    tiny_gemma2, tmp_path, monkeypatch, capsys
):
    """Split and probe stand in for the package's, which is not among the tests' dependencies."""

    def fitted(x_train, y_train, x_test, y_test, seed):
        probe = LogisticRegression(max_iter=1000).fit(x_train, y_train)
        return SimpleNamespace(
            metrics=SimpleNamespace(test_auc=roc_auc_score(y_test, probe.predict_proba(x_test)[:, 1]))
        )

    words = RNG.choice(["dog", "cat", "sat", "down", "again"], size=(80, 6))
    texts = [" ".join(row) for row in words]
    ends = np.arange(80) % 2  # what the last word tells
    told = [f"{text} {'bread' if end else 'tablets'}" for text, end in zip(texts, ends)]
    task = sae_probe_tasks.Task("ends", told, ends, n_train=40)
    monkeypatch.setattr(sae_probe_tasks, "package_functions", lambda: (None, fitted))
    monkeypatch.setattr(sae_quality, "read_task", lambda name, *_: replace(task, name=name))
    monkeypatch.setattr(sae_quality, "demo_model_folder", lambda: tiny_gemma2)
    (tmp_path / "tasks.txt").write_text("ends\nends_again\n")
    monkeypatch.setattr(sae_quality, "TASKS", tmp_path / "tasks.txt")
    for name in ("text", "people", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "text/own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    people = pd.DataFrame({"sentence": told, "concept_strength_label": 3 * ends, "group": np.arange(80)})
    people.to_csv(tmp_path / "people/honesty.csv", index=False)
    folders = [
        write_tiny_saes(tmp_path / name, layers=((3, 4), (3, 9)), d_model=32) for name in ("old", "new")
    ]
    arguments = [f"--{name}={tmp_path / name}" for name in ("text", "people", "work")]
    arguments += ["--saes", *map(str, folders)]

    assert sae_quality.main(arguments) == 0
    out = capsys.readouterr().out
    stream = next(line for line in out.splitlines() if line.startswith("| residual stream, layer 3"))
    assert "1.000 [1.000, 1.000]" in stream.split("|")[-3], "sixteen dimensions tell the last token"
    assert out.count("| — random directions") == 4
    assert "new/layer_3/width_128/average_l0_4 − old/layer_3/width_128/average_l0_4: k=1 +0.000" in out
    kept = json.loads((tmp_path / "work/results.json").read_text())
    assert [list(row["k=16"]) for row in kept] == [["ends", "ends_again"]] * 9

    monkeypatch.setattr(sae_quality.Activations, "_computed", None)  # a second start computes none
    assert sae_quality.main(arguments) == 0
    assert capsys.readouterr().out == out


def test_saes_are_read_in_the_order_of_layers(tmp_path):
    write_tiny_saes(tmp_path, layers=((3, 4), (0, 5), (3, 9)), d_model=32)
    assert [sae.layer for sae in read_saes(tmp_path)] == [0, 3, 3]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("saes", "no layer_*/width_*/average_l0_*/params.npz"),
        ("people", "no CSV in it; s0's import_hendrycks"),
    ],
)
def test_what_is_missing_is_one_line(missing, expected, tmp_path, capsys):
    write_tiny_saes(tmp_path / "saes", layers=((0, 5),), d_model=32)
    folders = {"saes": tmp_path / "saes", "people": tmp_path / "people", "text": tmp_path, "work": tmp_path}
    folders[missing] = tmp_path / "nothing"
    assert sae_quality.main([f"--{name}={folder}" for name, folder in folders.items()]) == 2
    assert f"nothing: {expected}" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_without_the_package_the_remedy_is_said(monkeypatch):
    from sae_probe_tasks import package_folder

    package_folder.cache_clear()
    monkeypatch.setitem(sys.modules, "sae_probes", None)
    with pytest.raises(FileNotFoundError, match="--group ethics"):
        package_folder()
