"""Features chosen on one run, drawn on other sentences, labelled and not; refused where they differ."""

import json
import re
import shutil
from pathlib import Path

import analyze_features
import numpy as np
import pandas as pd
import pytest
from drawing_inputs.drawn_run import load_run
from drawing_inputs.sentence_labels import UNLABELLED
from drawings.trajectory_page import build_page
from synthetic_features import write_feature_folder
from test_s3_inputs import PLANTED, dense, write_run, write_s2_results
from test_s3_page import Document
from visualize_activations import main

QUICK = ["--dpi", "40", "--bootstrap", "100", "--jobs", "1"]
HASH = "a" * 64


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def with_hash(folder: Path, digest: str = HASH) -> Path:
    """The folder, its SAEs named by `encoder_sha256` as s1 writes it."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    edit_json(folder / "run.json", saes=[sae | {"encoder_sha256": digest} for sae in run["saes"]])
    return folder


def without_labels(folder: Path) -> Path:
    """Make the folder one of a text, as s1 writes it."""
    table = pd.read_csv(folder / "sentences.csv").drop(columns="concept_strength_label")
    table.to_csv(folder / "sentences.csv", index=False)
    edit_json(folder / "run.json", labelled=False)
    return folder


@pytest.fixture(scope="module")
def s2_results(tmp_path_factory) -> Path:
    """Results on 80 labelled sentences; the features 1:8:5 and 1:16:7 lead."""
    folder = tmp_path_factory.mktemp("chosen")
    s1 = with_hash(write_feature_folder(folder / "chosen_features"))
    results = write_s2_results(folder / "results", s1)
    source = json.loads((results / "run.json").read_text(encoding="utf-8"))["features_run"]
    saes = json.loads((s1 / "run.json").read_text(encoding="utf-8"))["saes"]
    edit_json(results / "run.json", features_run=source | {"saes": saes})
    return results


def new_run(folder: Path, n_sentences: int = 12) -> Path:
    """Other sentences through the same SAEs."""
    return with_hash(write_feature_folder(folder / "new_features", n_sentences=n_sentences, seed=1))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """12 sentences without labels."""
    return without_labels(new_run(tmp_path_factory.mktemp("text")))


def draw(s1: Path, s2: Path, output: Path, *more: str) -> int:
    return main(["--s1-data", str(s1), "--s2-results", str(s2), "--output", str(output), *QUICK, *more])


def refusal(capsys, code: int) -> str:
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_text_is_drawn_without_classes(text, s2_results, tmp_path, capsys):
    assert draw(text, s2_results, tmp_path, "--frozen", "--save-data", "--max-sentences", "6") == 0
    assert "read 2 features over 12 sentences without labels" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"sentences", "data"}
    assert len(list(tmp_path.glob("sentences/sentence_*.png"))) == 6
    assert not (tmp_path / "summary_early_detection.png").exists()

    offsets = np.load(text / "tokens.npz")["sentence_offsets"]
    planted = dense(text, 1, 8)[:, 5]  # [T]
    peaks = np.maximum.reduceat(planted, offsets[:-1])  # [12]
    table = pd.read_csv(tmp_path / "summary_statistics.csv")
    assert not [column for column in table if "label" in column or "auroc" in column]
    assert table["share_firing"][0] == pytest.approx((peaks > 0).mean())
    assert table["mean_peak_value"][0] == pytest.approx(peaks.mean(), rel=1e-6)
    assert table["max_peak_value"][0] == pytest.approx(peaks.max(), rel=1e-6)
    said = (tmp_path / "summary_statistics.txt").read_text(encoding="utf-8")
    assert f"   fires in {(peaks > 0).mean():.0%} of 12, mean peak" in said
    assert "label" not in said

    with np.load(tmp_path / "data/trajectories.npz", allow_pickle=False) as arrays:
        assert "labels" not in arrays
        np.testing.assert_array_equal(arrays["activations"][:, 0], planted)
    for name in ("mean_trajectories", "first_firing"):
        assert "label" not in pd.read_csv(tmp_path / f"data/{name}.csv")
    with np.load(tmp_path / "data/raster_layer_1_l0_8_feature_5.npz") as raster:
        assert len(raster["values"]) == (peaks > 0).sum()
        assert "labels" not in raster


def test_the_page_of_a_text_follows_the_text_and_names_no_label(text, s2_results):
    document = Document(build_page(load_run(text, s2_results, None, 2, True), np.arange(6)))
    sentences = json.loads(document.scripts["application/json"])["sentences"]
    assert [sentence["index"] for sentence in sentences] == list(range(6))
    assert {sentence["label"] for sentence in sentences} == {None}
    chooser = document.elements.index(("select", {"id": "label"}))
    assert document.elements[chooser - 1] == ("label", {"hidden": None})
    assert ("option", {"value": "given", "selected": None}) in document.elements


def test_what_s2_says_of_its_features_is_enough(text, tmp_path):
    s1 = with_hash(write_feature_folder(tmp_path / "chosen_features"))
    quick = ["--permutations", "20", "--bootstrap", "100", "--jobs", "1"]
    results = tmp_path / "results"
    assert analyze_features.main(["--input", str(s1), "--output", str(results), *quick]) == 0
    run = load_run(text, results, None, 1, chosen_elsewhere=True)
    assert run.features[0].key in PLANTED
    layer, average_l0, feature_id = run.features[0].key
    np.testing.assert_array_equal(run.activations[:, 0], dense(text, layer, average_l0)[:, feature_id])
    with_hash(s1, "c" * 64)
    assert analyze_features.main(["--input", str(s1), "--output", str(results), *quick]) == 0
    with pytest.raises(ValueError, match="another SAE"):
        load_run(text, results, None, 1, chosen_elsewhere=True)


@pytest.mark.slow
def test_labelled_sentences_judge_features_that_were_chosen_elsewhere(s2_results, tmp_path, capsys):
    s1, plots = new_run(tmp_path, n_sentences=40), tmp_path / "plots"
    assert draw(s1, s2_results, plots, "--frozen", "--max-sentences", "4", "--save-data") == 0
    assert {path.parent.name for path in plots.glob("*/sentence_*.png")} == {f"label_{k}" for k in range(4)}
    assert (plots / "summary_early_detection.png").exists()
    table = pd.read_csv(plots / "summary_statistics.csv")
    assert set(table["auroc_sentences"]) == {"new"}
    assert table["auroc_full_sentence"][0] == 1  # planted in both runs
    assert "label 3 against 0 on new sentences" in (plots / "summary_statistics.txt").read_text(
        encoding="utf-8"
    )
    # What was drawn of a text before does not stay beside it.
    assert draw(without_labels(s1), s2_results, plots, "--frozen", "--max-sentences", "4") == 0
    assert {path.parent.name for path in plots.glob("*/sentence_*.png")} == {"sentences"}


def test_features_can_be_named_with_the_score_they_had_elsewhere(text, s2_results):
    run = load_run(text, s2_results, [(1, 16, 7), (0, 8, 3)], 10, chosen_elsewhere=True)
    assert [(feature.feature_id, feature.score) for feature in run.features] == [(7, 0.8), (3, None)]
    assert run.confirmation is None
    assert run.counts == {UNLABELLED: 12}


def forget_saes(s1: Path, s2: Path) -> None:
    run = json.loads((s2 / "run.json").read_text(encoding="utf-8"))
    del run["features_run"]["saes"]
    (s2 / "run.json").write_text(json.dumps(run), encoding="utf-8")


DIFFERENT = {
    "another SAE": (
        lambda s1, s2: with_hash(s1, "b" * 64),
        r"made with another SAE of layer 1, L0 8 .*aaaaaaaaa… and bbbbbbbbb….*run s1",
    ),
    "another model": (
        lambda s1, s2: edit_json(s1 / "run.json", model="other"),
        r"belongs to the model 'tiny-random', .*'other'.*run s1",
    ),
    "the SAE is missing": (
        lambda s1, s2: edit_json(s1 / "run.json", saes=[]),
        r"no SAE at layer 1",
    ),
    "s2 does not say": (forget_saes, r"s2 has no encoder_sha256 of the SAE of layer 1, L0 8"),
    "the same sentences": (
        lambda s1, s2: edit_json(s1 / "run.json", input_sha256="0" * 64),
        r"chosen on them: leave out --frozen",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_features_of_the_same_number_are_refused(name, text, s2_results, tmp_path, capsys):
    s1, s2 = shutil.copytree(text, tmp_path / "s1"), shutil.copytree(s2_results, tmp_path / "s2")
    spoil, expected = DIFFERENT[name]
    spoil(s1, s2)
    assert re.search(expected, refusal(capsys, draw(s1, s2, tmp_path / "plots", "--frozen")))
    assert not (tmp_path / "plots").exists()


def test_what_needs_labels_or_the_option_is_refused(text, s2_results, tmp_path, capsys):
    assert "--frozen" in refusal(capsys, draw(text, s2_results, tmp_path / "plots"))
    labels = draw(text, s2_results, tmp_path / "plots", "--frozen", "--labels", "2,3")
    assert "the sentences have no labels; leave out --labels 2,3" in refusal(capsys, labels)
    with pytest.raises(SystemExit) as stop:
        main(["--s1-data", str(text), "--features", "1:8:5", "--frozen"])
    assert stop.value.code == 2
    assert "--frozen needs --s2-results" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_one_sentence_is_a_text(tmp_path):
    """No curve has a band, and one feature is silent."""
    activations = np.zeros((3, 2))
    activations[1, 0] = 2
    s1 = without_labels(write_run(tmp_path / "s1", [["One", " short", " line"]], [0], activations))
    arguments = [
        "--s1-data",
        str(s1),
        "--features",
        "0:8:0,0:8:1",
        "--output",
        str(tmp_path / "plots"),
        *QUICK,
    ]
    assert main(arguments) == 0
    table = pd.read_csv(tmp_path / "plots/summary_statistics.csv")
    assert table["max_peak_value"].tolist() == [2, 0]
    assert table["activator"].tolist() == ["undecided", "never fires"]
