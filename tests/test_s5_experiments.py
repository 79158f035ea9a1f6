"""Stage 5 experiments through their command lines: results, leakage, versions, comparison, and refusals."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import checkpoint
import compare
import numpy as np
import pandas as pd
import pytest
import skops.io
import start_from_version
import train
from experiments import experiment_run
from experiments.experiment_config import changed_config, parse_config
from experiments.experiment_dataset import load_dataset
from experiments.experiment_folder import read_json
from experiments.experiment_split import split_rows
from measures.grouped_rows import grouped_folds
from models.fitting import fit_model
from models.model_choice import Recipe
from models.model_files import load_model
from sklearn.preprocessing import FunctionTransformer
from synthetic_experiments import rewrite, write_dataset, write_experiment
from twins_s5 import progress
from twins_s5.provenance import sha256_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained logistic experiment; do not modify, copy it."""
    folder = tmp_path_factory.mktemp("s5")
    write_dataset(folder / "planted.npz")
    experiment = write_experiment(folder / "d3_planted", "planted.npz", parameters={"C": 0.1})
    assert train.main([str(experiment)]) == 0
    return experiment


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained.parent, tmp_path / "s5")
    return tmp_path / "s5" / trained.name


def content_of(folder) -> dict[str, bytes]:
    """The files of a folder without the lock, which stays where it was made."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def results_of(experiment) -> dict:
    return json.loads((experiment / "working" / "results.json").read_text(encoding="utf-8"))


def error_of(capsys) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    return lines[0]


def test_results_hold_what_the_method_promises(trained):
    working = trained / "working"
    results = json.loads((working / "results.json").read_text(encoding="utf-8"))
    predictions = pd.read_csv(working / "predictions.csv")
    test = predictions[predictions["part"] == "test"]
    assert (test["y_true"] == test["y_pred"]).mean() == pytest.approx(results["test_accuracy"])
    assert results["test_accuracy_low"] <= results["test_accuracy"] <= results["test_accuracy_high"]
    assert set(results["baselines"]) == {"majority", "length", "tfidf", "diff_means", "shuffled"}
    assert results["baselines"]["majority"]["test_kappa"] == 0
    assert results["test_kappa"] > results["baselines"]["tfidf"]["test_kappa_high"]
    assert results["split"]["test_sentence_index"] == sorted(test["sentence_index"])
    assert 0.15 < len(test) / len(predictions) < 0.25
    held_out = predictions[predictions["part"] == "train"]
    assert set(held_out["fold"]) == {0, 1, 2}
    assert not set(held_out["group"]) & set(test["group"])
    assert (held_out.groupby("group")["fold"].nunique() == 1).all()
    by_fold = held_out.assign(hit=held_out["y_true"] == held_out["y_pred"]).groupby("fold")["hit"].mean()
    assert by_fold.mean() == pytest.approx(results["cv_mean"]["accuracy"])
    assert by_fold.std() == pytest.approx(results["cv_std"]["accuracy"])
    for name in ("confusion.png", "calibration.png", "roc.png", "baselines.png"):
        assert (working / name).read_bytes().startswith(b"\x89PNG")
    run = json.loads((working / "run.json").read_text(encoding="utf-8"))
    assert run["files"]["results.json"] == sha256_of(working / "results.json")
    model = load_model(working / "model.skops", run["files"]["model.skops"])
    X = load_dataset(trained.parent / "planted.npz").X[test["sentence_index"].to_numpy()]
    np.testing.assert_array_equal(model.predict(X), test["y_pred"])


def test_same_seed_gives_the_same_results(copied, capsys):
    before = {name: (copied / "working" / name).read_bytes() for name in ("results.json", "predictions.csv")}
    assert train.main([str(copied)]) == 0
    assert {name: (copied / "working" / name).read_bytes() for name in before} == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("test of logistic on ")
    assert "majority: accuracy 0.250, quadratic kappa 0.000; TF-IDF: accuracy" in last
    assert train.main([str(copied), "--set", "seed=1"]) == 0
    assert (copied / "working" / "results.json").read_bytes() != before["results.json"]


def test_regression_experiment(tmp_path, capsys):
    write_dataset(tmp_path / "r.npz", task="regression")
    experiment = write_experiment(tmp_path / "d1_r", "r.npz", task="regression", model="ridge")
    assert train.main([str(experiment), "--set", "parameters.alpha=1"]) == 0
    results = results_of(experiment)
    assert results["test_r2"] > 0.5
    assert results["config"]["parameters"] == {"alpha": 1}
    assert results["baselines"]["majority"]["test_spearman"] is None  # a constant has no correlation
    assert "R² " in capsys.readouterr().out.splitlines()[-1]


def test_command_line_changes_are_recorded_and_config_is_kept(copied, tmp_path):
    other = write_dataset(tmp_path / "other.npz", seed=5)
    written = (copied / "working" / "config.json").read_bytes()
    arguments = ["--dataset", str(other), "--model", "diff_means", "--set", "first_inputs=3"]
    assert train.main([str(copied), *arguments]) == 0
    results = results_of(copied)
    assert (results["config"]["model"], results["config"]["parameters"]) == ("diff_means", {})
    assert results["n_inputs"] == 3
    assert (copied.parent / results["config"]["dataset"]).resolve() == other
    assert (copied / "working" / "config.json").read_bytes() == written


def test_selection_inside_the_pipeline_leaves_noise_at_chance():
    """The 10 best of 2,000 noise inputs: chance when chosen inside each fit, far above when chosen before."""
    inside, before = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        X, y, groups = rng.normal(size=(120, 2000)), rng.permutation(np.arange(120) % 4), np.arange(120) // 2
        best = np.argsort(-np.abs(np.corrcoef(X.T, y)[-1, :-1]))[:10]
        for train_rows, test_rows in grouped_folds(y, groups, 4, seed)[:2]:
            plain = Recipe("logistic", "classification", {"C": 0.1}, folds=3, seed=seed)
            rows = (y[train_rows], groups[train_rows])
            fitted = fit_model(replace(plain, select_k=10), X[train_rows], *rows)
            inside.append((fitted.predict(X[test_rows]) == y[test_rows]).mean())
            fitted = fit_model(plain, X[train_rows][:, best], *rows)
            before.append((fitted.predict(X[test_rows][:, best]) == y[test_rows]).mean())
    assert abs(np.mean(inside) - 0.25) < 0.06
    assert np.mean(before) > 0.35


def test_grid_is_searched_without_the_test_part(copied):
    settings = ["--set", "grid.C=[0.00001, 1.0]", "--set", "parameters={}"]
    assert train.main([str(copied), *settings]) == 0
    results = results_of(copied)
    assert results["chosen_parameters"] == {"C": 1.0}


def test_selected_inputs_are_tested_on_confirmation_sentences(tmp_path):
    path = write_dataset(tmp_path / "f.npz", part="both", inputs_selected_on="discovery")
    dataset = load_dataset(path)
    config = parse_config({"dataset": "x", "task": "classification", "model": "logistic"}, "test")
    split = split_rows(dataset, config)
    assert set(dataset.part[split.test]) == {"confirmation"}
    assert set(dataset.part[split.train]) == {"discovery"}
    plain = split_rows(load_dataset(write_dataset(tmp_path / "g.npz", part="both")), config)
    assert len(set(dataset.part[plain.test])) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"modle": "logistic"}, "unknown key 'modle' (did you mean 'model'?); valid: dataset, task"),
        ({"model": "svm"}, "unknown classification model 'svm'"),
        ({"model": "ridge"}, "valid: logistic, ordinal"),
        ({"task": "regression", "model": "logistic"}, "unknown regression model 'logistic'"),
        ({"task": "clustering"}, "unknown task 'clustering'"),
        ({"parameters": {"c": 1}}, "unknown logistic parameter 'c'"),
        ({"grid": {"C": 0.1}}, "grid.C is 0.1, expected a list"),
        ({"folds": 1}, "folds is 1, expected at least 2"),
        ({"folds": "five"}, "folds is 'five', expected int"),
        ({"seed": True}, "seed is True"),
        ({"test_share": 1.5}, "test_share is 1.5"),
        ({"test_share": 0.001}, "test_share is 0.001, expected between 0.05 and 0.95"),
        ({"first_inputs": 99}, "first_inputs is 99, the dataset has 12"),
        ({"select_k": 99}, "select_k is 99"),
        ({"dataset": "nowhere.npz"}, "does not exist; run s4_classifier_data_prep"),
    ],
)
def test_wrong_configurations_are_refused_by_name(changes, named, tmp_path, capsys):
    write_dataset(tmp_path / "a.npz")
    experiment = write_experiment(tmp_path / "d9_x", "a.npz", **changes)
    assert train.main([str(experiment)]) == 2
    assert named in error_of(capsys)
    assert set(content_of(experiment / "working")) == {"config.json"}


def test_missing_keys_and_settings():
    with pytest.raises(ValueError, match="key 'model' is missing"):
        parse_config({"dataset": "x", "task": "classification"}, "here")
    config = {"parameters": {"C": 1}}
    assert changed_config(config, settings=["parameters.C=0.5", "model=mlp", "seed=3"]) == {
        "parameters": {"C": 0.5},
        "model": "mlp",
        "seed": 3,
    }
    assert config == {"parameters": {"C": 1}}
    with pytest.raises(ValueError, match="not key=value"):
        changed_config(config, settings=["seed"])
    with pytest.raises(ValueError, match="only parameters"):
        changed_config(config, settings=["seed.x=1"])


def spoiled(path, how):
    rows = np.arange(96)
    with np.load(path, allow_pickle=False) as file:
        X, group, metadata = file["X"], file["group"], json.loads(str(file["metadata"]))
    if how == "nan":
        X[17, 3] = np.nan
        rewrite(path, X=X)
    elif how == "constant":
        rewrite(path, y=np.ones(96, np.int64))
    elif how == "rare class":
        rewrite(path, y=np.where(rows < 3, 3, rows % 3).astype(np.int64))
    elif how == "format":
        rewrite(path, metadata=np.array(json.dumps({"format_version": 9})))
    elif how == "one group":
        rewrite(path, group=np.zeros(96, np.int64))
    elif how == "straddling":
        part = np.where(rows % 2 == 0, "confirmation", "discovery")
        rewrite(
            path, part=part, metadata=np.array(json.dumps(metadata | {"inputs_selected_on": "discovery"}))
        )
    elif how == "array missing":
        rewrite(path, part=None)
    elif how == "rows differ":
        rewrite(path, group=group[:-1])
    else:
        path.write_bytes(b"not a zip")


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("nan", "X is not finite in 1 rows, the first at sentence_index 17"),
        ("constant", "every target is 1"),
        ("rare class", "class 3 has 3 rows"),
        ("format", "has format_version 9, expected 1; run s4_classifier_data_prep"),
        ("one group", "has 1 groups"),
        ("straddling", "group 0 is in both parts of the split, by the sentences 1 and 0;"),
        ("array missing", "has no array part"),
        ("rows differ", "differ in their number of rows"),
        ("no zip", "is not an NPZ file"),
    ],
)
def test_datasets_that_cannot_be_trusted_are_refused(how, named, tmp_path, capsys):
    path = write_dataset(tmp_path / "a.npz")
    experiment = write_experiment(tmp_path / "d9_x", "a.npz")
    spoiled(path, how)
    assert train.main([str(experiment)]) == 2
    assert named in error_of(capsys)


def test_a_task_is_never_guessed(tmp_path, capsys):
    write_dataset(tmp_path / "a.npz", task="regression")
    assert train.main([str(write_experiment(tmp_path / "d9_x", "a.npz"))]) == 2
    assert "is a regression dataset, config.json says task 'classification'" in error_of(capsys)


def test_failed_training_keeps_earlier_results(copied, capsys):
    before = content_of(copied / "working")
    assert train.main([str(copied), "--set", "parameters.C=-1"]) == 2
    assert "error: " in capsys.readouterr().err
    assert content_of(copied / "working") == before


def test_unknown_experiment_lists_those_there_are(capsys):
    assert train.main(["d77_nothing"]) == 2
    assert "d3_hidden_to_concept" in error_of(capsys)


def test_versions_are_frozen_once_and_compared(copied, capsys):
    assert checkpoint.main([str(copied), "--name", "baseline", "--message", "C = 0.1"]) == 0
    version = copied / "v0_baseline"
    assert read_json(version / "version.json", "")["message"] == "C = 0.1"
    assert not (version / "results.json").stat().st_mode & 0o222
    assert checkpoint.main([str(copied), "--name", "twice"]) == 2
    assert "holds the results of v0_baseline" in error_of(capsys)

    assert start_from_version.main([str(copied), "--from", "v0", "--model", "diff_means"]) == 0
    assert set(content_of(copied / "working")) == {"config.json"}
    assert train.main([str(copied)]) == 0
    assert start_from_version.main([str(copied), "--from", "v0"]) == 2
    assert "results that no version keeps" in error_of(capsys)
    assert checkpoint.main([str(copied), "--name", "means"]) == 0

    assert compare.main([str(copied)]) == 0
    table = pd.read_csv(copied / "comparison.csv")
    assert table["version"].tolist() == ["v0_baseline", "v1_means"]
    assert np.isnan(table["diff_accuracy"][0])
    assert table["diff_accuracy"][1] == pytest.approx(table["test_accuracy"][1] - table["test_accuracy"][0])
    assert table["diff_accuracy_low"][1] <= table["diff_accuracy"][1] <= table["diff_accuracy_high"][1]
    assert "| v1_means | diff_means |" in (copied / "comparison.md").read_text(encoding="utf-8")
    assert (copied / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert compare.main([str(copied), "--reference", "v1"]) == 0
    assert "Δ against v1_means" in capsys.readouterr().out
    assert compare.main([str(copied), "--reference", "v9"]) == 2
    assert "none of v0_baseline, v1_means" in error_of(capsys)


def test_different_test_sets_are_compared_only_when_told_to(copied, capsys):
    assert checkpoint.main([str(copied), "--name", "seed-0"]) == 0
    assert train.main([str(copied), "--set", "seed=1"]) == 0
    assert compare.main([str(copied)]) == 2
    assert "tested on different sentences" in error_of(capsys)
    assert not (copied / "comparison.csv").exists()
    assert compare.main([str(copied), "--allow-different-tests"]) == 0
    table = pd.read_csv(copied / "comparison.csv")
    tests = [
        json.loads((copied / folder / "results.json").read_text())["split"]["test_sentence_index"]
        for folder in ("v0_seed-0", "working")
    ]
    assert table["n_common"][1] == len(set(tests[0]) & set(tests[1]))


def test_changed_files_are_refused(copied, capsys):
    predictions = copied / "working" / "predictions.csv"
    predictions.write_text(
        predictions.read_text(encoding="utf-8").replace("test", "train", 1), encoding="utf-8"
    )
    for main, arguments in ((checkpoint.main, ["--name", "x"]), (compare.main, [])):
        assert main([str(copied), *arguments]) == 2
        assert "predictions.csv was changed" in error_of(capsys)
    assert not list(copied.glob("v*"))


def test_checkpoint_without_results_and_bad_names(tmp_path, capsys):
    experiment = write_experiment(tmp_path / "d9_x", "a.npz")
    assert checkpoint.main([str(experiment), "--name", "x"]) == 2
    assert "run framework/train.py first" in error_of(capsys)
    with pytest.raises(SystemExit):
        checkpoint.main([str(experiment), "--name", "../x"])


def test_foreign_model_files_are_refused(copied, tmp_path):
    run = read_json(copied / "working" / "run.json", "")
    model = copied / "working" / "model.skops"
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(ValueError, match="not the file that was recorded"):
        load_model(model, run["files"]["model.skops"])
    foreign = tmp_path / "foreign.skops"
    skops.io.dump(FunctionTransformer(func=shutil.rmtree), foreign)
    with pytest.raises(ValueError, match=r"not trusted.*rmtree"):
        load_model(foreign, sha256_of(foreign))
    pickled = tmp_path / "pickled.skops"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(Exception, match="zip"):
        load_model(pickled, sha256_of(pickled))


def test_model_files_of_the_first_version_are_still_read(copied, tmp_path):
    """They name our own estimators `models.X`."""
    assert train.main([str(copied), "--model", "diff_means"]) == 0
    model, earlier = copied / "working" / "model.skops", tmp_path / "earlier.skops"
    with zipfile.ZipFile(model) as source, zipfile.ZipFile(earlier, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'"models.estimators"', b'"models"'))
    assert earlier.read_bytes() != model.read_bytes()
    X = load_dataset(copied.parent / "planted.npz").X
    ours, theirs = (load_model(path, sha256_of(path)) for path in (model, earlier))
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("setting", ["first_inputs=1", "select_k=2"])
def test_difference_of_means_sees_the_inputs_of_the_probe(setting, copied):
    assert train.main([str(copied), "--model", "diff_means", "--set", setting]) == 0
    results = results_of(copied)
    for name, value in results["baselines"]["diff_means"].items():
        assert value == pytest.approx(results[name]), name


def test_words_of_one_letter_count(copied):
    path = copied.parent / "planted.npz"
    rng = np.random.default_rng(0)
    letters = np.array(["a", "i", "o", "u"])[np.arange(96) % 4]
    rewrite(path, sentences=np.array([f"{rng.integers(1000)} {x} {rng.integers(1000)}" for x in letters]))
    assert train.main([str(copied)]) == 0
    assert results_of(copied)["baselines"]["tfidf"]["test_accuracy"] > 0.9


def test_shuffled_labels_move_with_their_groups(copied, monkeypatch):
    path = copied.parent / "planted.npz"
    X = load_dataset(path).X
    X[:, 0] += np.arange(96) // 2 % 4  # as the label, one for each group of two
    rewrite(path, y=np.arange(96, dtype=np.int64) // 2 % 4, X=X)
    fitted = []
    fit = experiment_run.fit_model
    monkeypatch.setattr(experiment_run, "fit_model", lambda *rows: fitted.append(rows[2:]) or fit(*rows))
    assert train.main([str(copied)]) == 0
    true_labels, *shuffled = [(y, groups) for y, groups in fitted if len(y) == len(fitted[-1][0])][-3:]
    for y, groups in shuffled:
        assert (y != true_labels[0]).any()
        assert all(len(set(y[groups == group])) == 1 for group in np.unique(groups))


@pytest.mark.parametrize(
    ("part", "caveat"),
    [
        ("both", "stage 2 chose the inputs on the training sentences, outside the folds: cv_* is optimistic"),
        ("", "stage 2 held out no confirmation sentences, so the inputs were chosen on every row"),
    ],
)
def test_inputs_chosen_on_the_rows_they_are_tried_on_are_told(part, caveat, tmp_path, capsys):
    write_dataset(tmp_path / "f.npz", part=part, inputs_selected_on="discovery")
    experiment = write_experiment(tmp_path / "d4_f", "f.npz", parameters={"C": 0.1})
    assert train.main([str(experiment)]) == 0
    assert f"warning: {caveat}" in capsys.readouterr().err
    (found,) = results_of(experiment)["caveats"]
    assert found.startswith(caveat)
    assert compare.main([str(experiment)]) == 0
    assert f"working: {found}." in (experiment / "comparison.md").read_text(encoding="utf-8")


def test_near_copies_share_a_group_and_so_a_side(tmp_path):
    path = write_dataset(tmp_path / "a.npz")
    with np.load(path, allow_pickle=False) as file:
        sentences = file["sentences"].astype("<U60")
    sentences[40] = sentences[3].upper() + "!"
    sentences[90] = sentences[41].replace("number", "num-ber")
    rewrite(path, sentences=sentences)
    groups = load_dataset(path).groups
    assert groups[[2, 3, 40, 41, 90, 91]].tolist() == [1] * 6  # joined by one sentence each
    others = np.setdiff1d(np.arange(96), [2, 3, 40, 41, 90, 91])
    assert groups[others].tolist() == (others // 2).tolist()


def test_a_name_is_frozen_again_when_the_results_differ(copied, capsys):
    """Data that changed leave no version silently out of date, and the same results make no second one."""
    data = copied.parent / "planted.npz"
    assert train.main([str(copied), "--freeze", "pipeline"]) == 0
    first = content_of(copied / "v0_pipeline")
    assert train.main([str(copied), "--freeze", "pipeline"]) == 0
    assert "v0_pipeline holds these results already" in capsys.readouterr().out
    write_dataset(data, seed=3)
    assert train.main([str(copied), "--freeze", "pipeline"]) == 0
    assert "froze v1_pipeline" in capsys.readouterr().out
    assert content_of(copied / "v0_pipeline") == first
    write_dataset(data)
    assert train.main([str(copied)]) == 0
    assert checkpoint.main([str(copied), "--name", "pipeline"]) == 0  # the newest one holds other results
    assert checkpoint.main([str(copied), "--name", "pipeline"]) == 0
    assert sorted(path.name for path in copied.glob("v*")) == [f"v{n}_pipeline" for n in range(3)]
    assert (copied / "v2_pipeline" / "results.json").read_bytes() == first["results.json"]


def test_one_command_at_a_time_uses_the_working_folder(copied, capsys):
    assert checkpoint.main([str(copied), "--name", "first"]) == 0
    before = content_of(copied / "working")
    lock = str(copied / "working" / ".lock")
    script = (
        f"import fcntl; lock = open({lock!r}, 'a'); fcntl.flock(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        for main, arguments in (
            (train.main, ["--set", "seed=1"]),
            (checkpoint.main, ["--name", "second"]),
            (start_from_version.main, ["--from", "v0"]),
        ):
            assert main([str(copied), *arguments]) == 2
            assert "d3_planted/working is being written by another process" in error_of(capsys)
        other.communicate("\n")
    assert content_of(copied / "working") == before
    assert train.main([str(copied), "--set", "seed=1"]) == 0


def test_results_of_another_task_replace_all_and_notes_stay(copied):
    working = copied / "working"
    (working / "notes.txt").write_text("keep me")
    assert checkpoint.main([str(copied), "--name", "classes"]) == 0
    write_dataset(copied.parent / "r.npz", task="regression")
    arguments = ["--dataset", str(copied.parent / "r.npz"), "--model", "ridge", "--set", "task=regression"]
    assert train.main([str(copied), *arguments]) == 0
    assert set(json.loads((working / "run.json").read_text())["files"]) == {
        "results.json",
        "predictions.csv",
        "model.skops",
        "scatter.png",
        "baselines.png",
    }
    assert not (working / "roc.png").exists()
    assert start_from_version.main([str(copied), "--from", "v0", "--discard"]) == 0
    assert set(content_of(working)) == {"config.json", "notes.txt"}


def test_a_reference_among_several_experiments(copied, capsys):
    other = copied.parent / "d9_other"
    assert checkpoint.main([str(copied), "--name", "a"]) == 0
    shutil.copytree(copied, other)
    assert train.main([str(other), "--model", "diff_means", "--freeze", "b"]) == 0
    both = [str(copied), str(other), "--output", str(copied.parent / "both")]
    for name in ("v1", "v1_b", "d9_other/v1", "d9_other/v1_b"):
        assert compare.main([*both, "--reference", name]) == 0
        assert "Δ against d9_other/v1_b" in capsys.readouterr().out
    assert compare.main([*both, "--reference", "v0"]) == 2
    assert "'v0' may be any of d3_planted/v0_a, d9_other/v0_a" in error_of(capsys)
    assert compare.main([*both, "--reference", "d9"]) == 2
    assert "'d9' is none of d3_planted/v0_a, d9_other/v0_a, d9_other/v1_b" in error_of(capsys)


def test_the_range_of_shuffles_is_no_interval(copied):
    assert compare.main([str(copied)]) == 0
    text = (copied / "comparison.md").read_text(encoding="utf-8")
    assert "| baseline: shuffled (range) |" in text
    assert "Shuffled: mean and range of 2 fits." in text


def test_a_fit_that_does_not_converge_is_told(copied, capsys):
    assert train.main([str(copied), "--model", "ordinal", "--set", "parameters.max_iter=2"]) == 0
    assert "warning: ordinal did not converge: " in capsys.readouterr().err


def test_threads_are_a_positive_number(copied, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main([str(copied), "--threads", "0"])
    assert stopped.value.code == 2
    assert "'0' is not a whole number, 1 or more" in capsys.readouterr().err


def test_records_of_another_format_are_refused(copied, capsys):
    run = copied / "working" / "run.json"
    run.write_text(run.read_text(encoding="utf-8").replace('"format_version": 1', '"format_version": 2'))
    for main, arguments in ((checkpoint.main, ["--name", "x"]), (compare.main, [])):
        assert main([str(copied), *arguments]) == 2
        assert "run.json has format_version 2, expected 1" in error_of(capsys)


def test_long_work_speaks_into_a_log(copied, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.02)
    assert train.main([str(copied)]) == 0
    assert re.search(r"^logistic: \d of 7 fits after ", capsys.readouterr().err, flags=re.MULTILINE)


def test_each_kind_of_sentence_is_also_measured_apart(copied, capsys):
    """Where the words of the plain sentences tell the label, TF-IDF knows the plain ones and not the hard."""
    path = copied.parent / "planted.npz"
    rows = np.arange(96)
    plain = rows // 8 % 2 == 0
    words = np.where(plain, np.array(["ash", "oak", "elm", "yew"])[rows % 4], "tree")
    sentences = [f"{word} number {i}" for i, word in enumerate(words)]
    register = np.where(rows < 4, "", np.where(rows < 48, "note", "story"))
    rewrite(
        path,
        sentences=np.array(sentences),
        difficulty=np.where(plain, "plain", "hard"),
        register=register,
    )
    capsys.readouterr()
    assert train.main([str(copied), "--freeze", "kinds"]) == 0
    results = results_of(copied)
    test = pd.read_csv(copied / "working" / "predictions.csv", keep_default_na=False).query("part == 'test'")
    assert set(results["apart"]) == {"difficulty", "register"}
    assert set(results["apart"]["register"]) == {"note", "story"}
    for column, values in results["apart"].items():
        for value, entry in values.items():
            own = test[test[column] == value]
            assert entry["n"] == len(own)
            assert entry["n_groups"] == own["group"].nunique()
            figures = entry["model"]
            assert figures["test_accuracy"] == pytest.approx((own["y_true"] == own["y_pred"]).mean())
            assert figures["test_accuracy_low"] <= figures["test_accuracy"] <= figures["test_accuracy_high"]
    apart = results["apart"]["difficulty"]
    assert apart["plain"]["tfidf"]["test_accuracy"] > 0.9
    assert apart["hard"]["tfidf"]["test_accuracy"] < 0.6
    *_, line, last = (line for line in capsys.readouterr().out.splitlines() if line.startswith("register"))
    assert re.match(r"register note, \d+ sentences: accuracy .*; TF-IDF: accuracy ", line)
    assert last.startswith("register story, ")
    assert (copied / "working" / "apart.png").read_bytes().startswith(b"\x89PNG")
    assert compare.main([str(copied)]) == 0
    assert "| v0_kinds: hard, " in (copied / "comparison.md").read_text(encoding="utf-8")


def test_two_labels_leave_empty_what_needs_grades(copied, capsys):
    path = copied.parent / "planted.npz"
    y = np.where(np.arange(96) % 4 < 2, 0, 3)
    X = load_dataset(path).X
    X[:, 0] += 3 * y
    rewrite(path, y=y, X=X)
    for model in ("logistic", "ordinal", "linear_svm"):
        arguments = ["--model", model, "--set", "parameters.C=0.1", "--freeze", model]
        assert train.main([str(copied), *arguments]) == 0
        assert "warning: the sentences have the labels 0 and 3 only: " in capsys.readouterr().err
        results = results_of(copied)
        assert results["classes"] == [0, 3]
        assert results["test_accuracy"] > 0.8
        assert results["test_kappa"] > 0.6
        for figures in (results, results["baselines"]["tfidf"], results["baselines"]["shuffled"]):
            assert figures["test_mae"] is figures["test_spearman"] is None
        assert results["cv_mean"]["mae"] is None
    assert compare.main([str(copied)]) == 0
    assert "the sentences have the labels 0 and 3 only" in (copied / "comparison.md").read_text()
