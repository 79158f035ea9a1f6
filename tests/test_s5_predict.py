"""Stage 5 predict.py: frozen probes on other sentences, with labels, with two of them, and without."""

import json
import shutil

import numpy as np
import pandas as pd
import predict
import pytest
import train
from experiments.experiment_dataset import load_dataset
from measures.metrics import ends_auroc
from sklearn.metrics import roc_auc_score
from synthetic_experiments import rewrite, write_dataset, write_experiment

FEATURES = [{"layer": 1, "average_l0": 8, "feature_id": k, "encoder_sha256": "a" * 64} for k in range(12)]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A classification with the version v0_c and a regression with v0_r; only `predictions/` may change."""
    folder = tmp_path_factory.mktemp("s5")
    write_dataset(folder / "planted.npz", pool="mean", layers=[0], source=known_model("a"))
    target = {"target": activation_of(7), "target_pool": "max", "target_encoder_sha256": "a" * 64}
    write_dataset(folder / "activation.npz", task="regression", **target)
    classes = write_experiment(folder / "d3_classes", "planted.npz", parameters={"C": 0.1})
    activation = write_experiment(
        folder / "d2_activation", "activation.npz", task="regression", model="ridge"
    )
    assert train.main([str(classes), "--freeze", "c"]) == 0
    assert train.main([str(activation), "--freeze", "r", "--set", "parameters.alpha=1"]) == 0
    return folder


def known_model(fingerprint) -> dict:
    return {"input_sha256": "0" * 64, "model": "tiny", "model_fingerprint": fingerprint}


def activation_of(feature_id) -> dict:
    return {"layer": 3, "average_l0": 8, "feature_id": feature_id, "chosen_by": "arguments"}


def write_people(path, *, labels=(0, 1, 2, 3), **metadata):
    """Other sentences of other words than the planted ones, with the same inputs."""
    full = {"pool": "mean", "layers": [0]} | metadata
    write_dataset(path, n=80, seed=9, signal=0.8, **full)
    with np.load(path, allow_pickle=False) as file:
        y = file["y"]
    rows = np.isin(y, labels)
    keep_rows(path, rows)
    rewrite(path, sentences=np.array([f"people wrote line {i}" for i in range(rows.sum())]))
    return path


def keep_rows(path, rows):
    with np.load(path, allow_pickle=False) as file:
        kept = {key: file[key][rows] for key in file.files if file[key].shape[:1] == rows.shape}
    rewrite(path, **kept)


def applied(frozen, dataset, experiment="d3_classes", version="v0") -> tuple[pd.DataFrame, dict]:
    """The table and figures that the command writes."""
    assert predict.main([str(frozen / experiment), version, "--dataset", str(dataset)]) == 0
    (stem,) = (frozen / experiment / "predictions").glob(f"{version}*_{dataset.stem}.json")
    return pd.read_csv(stem.with_suffix(".csv")), json.loads(stem.read_text(encoding="utf-8"))


def failure(capsys, frozen, dataset, version="v0") -> str:
    assert predict.main([str(frozen / "d3_classes"), version, "--dataset", str(dataset)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("experiment", "dataset"), [("d3_classes", "planted"), ("d2_activation", "activation")]
)
def test_on_its_own_dataset_a_version_has_its_test_figures(frozen, experiment, dataset, capsys):
    """Sentences of the training part are left out, so what remains is the test part."""
    table, figures = applied(frozen, frozen / f"{dataset}.npz", experiment)
    results = json.loads((frozen / experiment / "working" / "results.json").read_text(encoding="utf-8"))
    own = pd.read_csv(frozen / experiment / "working" / "predictions.csv")
    for name in results["cv_mean"]:
        for suffix in ("", "_low", "_high"):
            key = f"{name}{suffix}"
            assert figures["new"]["model"][key] == pytest.approx(results[f"test_{key}"], nan_ok=True)
            for text in ("tfidf", "length"):
                expected = results["baselines"][text][f"test_{key}"]
                assert figures["new"][text][key] == pytest.approx(expected, nan_ok=True)
    for predictor in ("model", "length", "stop_words", "tfidf"):
        new, held_out = (
            np.array(list(figures[part][predictor].values()), float) for part in ("new", "held_out")
        )
        np.testing.assert_allclose(held_out, new, rtol=1e-5, atol=1e-6)
    assert (table["trained_on"] == (own["part"] == "train")).all()
    test = own["part"] == "test"
    np.testing.assert_allclose(table["prediction"][test], own["y_pred"][test])
    np.testing.assert_allclose(table["label"], own["y_true"], rtol=1e-6)
    output = capsys.readouterr()
    n_train = results["split"]["n_train"]
    assert f"note: {n_train} of 96 sentences, or others of their group, were trained on" in output.err
    assert output.out.count("\n") == 4


def test_two_labels_are_measured_by_their_auroc(frozen, tmp_path, capsys):
    path = write_people(tmp_path / "people.npz", labels=(0, 3))
    table, figures = applied(frozen, path)
    score = table[["p_0", "p_1", "p_2", "p_3"]].to_numpy() @ np.arange(4)
    np.testing.assert_allclose(table["expected_label"], score)
    expected = roc_auc_score(table["label"] == 3, score)
    model = figures["new"]["model"]
    assert 0.6 < expected < 1
    assert model["ends_auroc"] == pytest.approx(expected)
    assert model["ends_auroc_low"] < expected <= model["ends_auroc_high"]
    assert set(model) == {"ends_auroc", "ends_auroc_low", "ends_auroc_high"}
    assert (figures["new"]["n"], figures["new"]["n_groups"], figures["ends"]) == (40, 40, [0, 3])
    own = pd.read_csv(frozen / "d3_classes" / "v0_c" / "predictions.csv").query(
        "part == 'test' and y_true in (0, 3)"
    )
    held_out = roc_auc_score(own["y_true"] == 3, own[["p_1", "p_2", "p_3"]] @ [1, 2, 3])
    assert figures["held_out"]["model"]["ends_auroc"] == pytest.approx(held_out)
    assert figures["held_out"]["n"] == len(own)
    output = capsys.readouterr()
    said = "no sentence to measure has label 1 or 2: measured is the AUROC of label 3 against 0"
    assert f"note: {said}" in output.err
    assert figures["said"][0].startswith(said)
    assert f"on 40 new sentences: AUROC of label 3 against 0: {expected:.3f} [" in output.out


def test_all_labels_of_other_sentences_are_measured_in_full(frozen, tmp_path):
    path = write_people(tmp_path / "people.npz")
    table, figures = applied(frozen, path)
    model = figures["new"]["model"]
    assert model["accuracy"] == pytest.approx((table["prediction"] == table["label"]).mean())
    ends = table["label"].isin([0, 3])
    expected = roc_auc_score(table["label"][ends] == 3, table["expected_label"][ends])
    assert model["ends_auroc"] == pytest.approx(expected)
    assert set(figures["new"]) == {"n", "n_groups", "model", "length", "stop_words", "tfidf"}
    assert figures["said"] == []
    rewrite(path, difficulty=np.where(np.arange(80) < 40, "plain", "hard"))
    table, figures = applied(frozen, path)
    plain = table[table["difficulty"] == "plain"]
    apart = figures["apart"]["difficulty"]["plain"]
    assert apart["model"]["accuracy"] == pytest.approx((plain["prediction"] == plain["label"]).mean())


def test_sentences_without_labels_are_predicted(frozen, tmp_path, capsys):
    path = write_people(tmp_path / "text.npz", labelled=False, target=None, classes=None)
    labelled, _ = applied(frozen, path)
    rewrite(path, y=None)
    table, figures = applied(frozen, path, version="working")
    assert figures["new"] is figures["held_out"] is None
    assert figures["version"] == {"experiment": "d3_classes", "name": "working"}
    columns = ["sentence_index", "sentence", "group", "trained_on", "prediction", "expected_label"]
    assert list(table) == [*columns, "p_0", "p_1", "p_2", "p_3"]
    pd.testing.assert_frame_equal(table, labelled[table.columns])
    np.testing.assert_allclose(table.filter(regex="^p_").sum(axis=1), 1)
    assert "note: the sentences have no labels: nothing is measured" in capsys.readouterr().err
    experiment = frozen / "d3_classes"
    assert train.main([str(experiment), "--dataset", str(path)]) == 2
    assert "has no array y, so there is nothing to learn" in capsys.readouterr().err


def test_an_activation_is_measured_by_the_labels_it_separates(frozen, tmp_path, capsys):
    path = write_people(tmp_path / "people.npz", pool=None, layers=None)
    table, figures = applied(frozen, path, "d2_activation")
    ends = table["label"].isin([0, 3])
    expected = roc_auc_score(table["label"][ends] == 3, table["prediction"][ends])
    assert figures["new"]["model"]["ends_auroc"] == pytest.approx(expected)
    assert figures["held_out"] is None
    assert "the model predicts an activation, no label" in capsys.readouterr().err
    other = {"task": "regression", "target": activation_of(8), "target_pool": "max"}
    other_weights = {"target": activation_of(7), "target_encoder_sha256": "b" * 64}
    for changes in ({}, other_weights, {"target": activation_of(7), "target_pool": "mean"}):
        write_dataset(tmp_path / "other.npz", seed=9, **other | changes)
        assert applied(frozen, tmp_path / "other.npz", "d2_activation")[1]["new"] is None
        assert "the targets are neither labels nor what the model predicts" in capsys.readouterr().err


def test_sentences_of_the_training_are_not_measured(frozen, tmp_path, capsys):
    """Other case and punctuation, and the other sentence of the new group."""
    path = write_people(tmp_path / "people.npz")
    own = pd.read_csv(frozen / "d3_classes" / "v0_c" / "predictions.csv")
    known, held_out = (own["sentence"][own["part"] == part].iloc[0] for part in ("train", "test"))
    with np.load(path, allow_pickle=False) as file:
        sentences = file["sentences"].astype("<U60")
    sentences[4], sentences[11] = f"{known.upper()}!", held_out
    rewrite(path, sentences=sentences)
    table, figures = applied(frozen, path)
    assert np.flatnonzero(table["trained_on"]).tolist() == [4, 5]
    assert (figures["n_trained_on"], figures["new"]["n"]) == (2, 78)
    assert "note: 2 of 80 sentences, or others of their group, were trained on" in capsys.readouterr().err


def test_labels_that_the_model_does_not_know_are_left_out(frozen, tmp_path, capsys):
    experiment = write_experiment(tmp_path / "d9_two", "two.npz", parameters={"C": 0.1})
    two = write_dataset(tmp_path / "two.npz", n=200, pool="mean", layers=[0])
    keep_rows(two, np.isin(load_dataset(two).y, (0, 3)))
    assert train.main([str(experiment)]) == 0
    table, figures = applied(tmp_path, write_people(tmp_path / "people.npz"), "d9_two", "working")
    known = table["label"].isin([0, 3])
    assert figures["new"]["n"] == known.sum() == 40
    hits = table["prediction"][known] == table["label"][known]
    assert figures["new"]["model"]["accuracy"] == pytest.approx(hits.mean())
    assert "note: the model knows no label 1 or 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pool": "final"}, "has pooling final, d3_classes/v0_c was trained on mean"),
        ({"layers": [1]}, "has layers [1], d3_classes/v0_c was trained on [0]"),
        (
            {"strategy": "embedding-to-feature"},
            "has inputs from embedding, d3_classes/v0_c was trained on hidden",
        ),
        ({"source": {"model": "other", "input_sha256": "0"}}, "has model other, d3_classes/v0_c was"),
        ({"source": known_model("b")}, "has model_fingerprint b, d3_classes/v0_c was trained on a"),
        ({"d": 11}, "has 11 inputs, d3_classes/v0_c was trained on 12"),
        ({"d": 13}, "has 13 inputs, d3_classes/v0_c was trained on 12"),
    ],
)
def test_other_inputs_are_refused(frozen, tmp_path, capsys, changes, named):
    path = tmp_path / "people.npz"
    write_dataset(path, **{"pool": "mean", "layers": [0]} | changes)
    assert named in failure(capsys, frozen, path)
    assert not list((frozen / "d3_classes" / "predictions").glob("v0_c_people.json.part"))


def test_features_are_the_same_in_the_same_places(tmp_path, capsys):
    """More features may follow; another feature, or another SAE's, is refused."""
    named = {"strategy": "features-to-concept", "layers": []}
    write_dataset(tmp_path / "own.npz", features=FEATURES, **named)
    experiment = write_experiment(tmp_path / "d4_classes", "own.npz", parameters={"C": 0.1})
    assert train.main([str(experiment), "--set", "first_inputs=3"]) == 0

    def code(features) -> int:
        write_dataset(tmp_path / "new.npz", seed=4, features=features, **named)
        return predict.main([str(experiment), "working", "--dataset", str(tmp_path / "new.npz")])

    assert code(FEATURES) == 0
    assert code([*FEATURES[:3], *({**feature, "layer": 5} for feature in FEATURES[3:])]) == 0
    unhashed = [{key: feature[key] for key in ("layer", "average_l0", "feature_id")} for feature in FEATURES]
    assert code(unhashed) == 0
    capsys.readouterr()
    assert code([FEATURES[1], FEATURES[0], *FEATURES[2:]]) == 2
    assert "feature 1 of layer 1, L0 8 as input 1, d4_classes/working was trained on feature 0 of" in (
        capsys.readouterr().err
    )
    assert code([{**feature, "encoder_sha256": "b" * 64} for feature in FEATURES]) == 2
    assert "encoder_sha256 bbbbbbbbb…, d4_classes/working was trained on" in capsys.readouterr().err


def test_what_cannot_be_read_is_one_line(frozen, tmp_path, capsys):
    path = write_people(tmp_path / "people.npz")
    assert "has no version 'v7'; versions: v0_c" in failure(capsys, frozen, path, "v7")
    assert "does not exist" in failure(capsys, frozen, tmp_path / "none.npz")
    copied = shutil.copytree(frozen, tmp_path / "copied")
    model = copied / "d3_classes" / "working" / "model.skops"
    model.write_bytes(model.read_bytes() + b" ")
    assert "model.skops was changed after it was written" in failure(capsys, copied, path, "working")
    shutil.rmtree(copied / "d3_classes" / "predictions", ignore_errors=True)
    (copied / "d3_classes" / "predictions").write_text("mine")
    assert "predictions" in failure(capsys, copied, path)
    assert (copied / "d3_classes" / "predictions").read_text() == "mine"


def test_versions_are_left_as_they_are(frozen, tmp_path):
    version = frozen / "d3_classes" / "v0_c"
    before = {path.name: path.read_bytes() for path in version.iterdir()}
    applied(frozen, write_people(tmp_path / "people.npz"))
    assert {path.name: path.read_bytes() for path in version.iterdir()} == before


def test_the_auroc_of_the_ends_leaves_out_the_labels_between():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, 60), rng.normal(size=60).round(1)
    weights = rng.integers(0, 3, (5, 60)).astype(float)
    ours = ends_auroc(labels, scores, (0, 3), weights)
    for value, repeats in zip(ours, weights.astype(int)):
        y, x = np.repeat(labels, repeats), np.repeat(scores, repeats)
        ends = np.isin(y, (0, 3))
        assert value == pytest.approx(roc_auc_score(y[ends] == 3, x[ends]))
