"""Sentences without labels: what stage 1 takes, what it says and writes, and who refuses the folder."""

import json
import shutil
from pathlib import Path

import analyze_features
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import steer_features
from extract_sae_features import main
from input_sentences.input_file import read_input_sentences
from twins_s1.feature_folder import open_feature_folder

LINES = ["She had sold it twice.", "The shop was closed, and nobody came.", "Rain.", "Rain."]


def extract(file: Path, output: Path, model: Path, saes: Path) -> int:
    arguments = ["--input", file, "--output", output, "--model", model, "--device", "cpu"]
    configurations = ["--config", saes / "configurations.json", "--sae-release", saes]
    return main([str(argument) for argument in [*arguments, *configurations]])


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "diary.txt"
    path.write_text("\ufeff" + "\n\n".join(LINES[:2]) + "\r\n  Rain. \n\n \nRain.\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text_folder(text_file, tiny_gemma2, tiny_saes) -> Path:
    folder = text_file.with_name("diary_features")
    assert extract(text_file, folder, tiny_gemma2, tiny_saes) == 0
    return folder


def one_line(capsys, code: int, *expected: str) -> None:
    """Assert exit status 2 and one line on stderr that names each of `expected`."""
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    for text in expected:
        assert text in line


def test_a_text_has_a_sentence_a_line_and_may_repeat_itself(text_file):
    sentences = read_input_sentences(text_file)
    assert sentences.texts == LINES
    assert not sentences.labelled


def test_a_csv_may_lack_labels_and_keeps_its_columns(tmp_path):
    path = tmp_path / "book.csv"
    path.write_text('page,sentence\n7,Rain.\n8,"Rain, again."\n9,Rain.\n', encoding="utf-8")
    sentences = read_input_sentences(path)
    assert sentences.table.to_dict("list") == {
        "sentence": ["Rain.", "Rain, again.", "Rain."],
        "page": ["7", "8", "9"],
    }
    assert "3 sentences without labels" in sentences.note
    assert "no column concept_strength_label, only sentence, page" in sentences.note


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", "\n \n", ["empty.txt", "no line with text"]),
        ("table.txt", "sentence,concept_strength_label\na,1\n", ["table.txt, line 1", "name it .csv"]),
        ("blank.csv", "sentence,page\na,1\n ,2\n", ["blank.csv, line 3", "empty sentence"]),
        ("gone.txt", None, ["gone.txt", "no such file", ".txt with one sentence a line"]),
    ],
)
def test_what_is_no_text_is_refused(name, content, expected, tmp_path, tiny_gemma2, tiny_saes, capsys):
    if content is not None:
        (tmp_path / name).write_text(content)
    one_line(capsys, extract(tmp_path / name, tmp_path / "out", tiny_gemma2, tiny_saes), *expected)
    assert not (tmp_path / "out").exists()


def test_the_folder_lacks_labels_and_says_so(
    text_file, text_folder, tiny_gemma2, tiny_saes, tmp_path, capsys
):
    """The same sentences with labels give the same activations; what is not there is not invented."""
    table = pd.read_csv(text_folder / "sentences.csv")
    assert table.columns.tolist() == ["sentence_index", "sentence", "n_tokens", "group"]
    assert table["sentence"].tolist() == LINES
    assert table["group"].tolist() == [0, 1, 2, 2]  # a sentence that comes back stays on one side of a split
    assert json.loads((text_folder / "run.json").read_text(encoding="utf-8"))["labelled"] is False

    labelled = tmp_path / "labelled.csv"
    pd.DataFrame({"sentence": LINES[:3], "concept_strength_label": [3, 0, 1]}).to_csv(labelled, index=False)
    assert extract(labelled, tmp_path / "labelled_features", tiny_gemma2, tiny_saes) == 0
    assert "without labels" not in capsys.readouterr().err
    run = json.loads((tmp_path / "labelled_features/run.json").read_text(encoding="utf-8"))
    assert run["labelled"] is True
    n_shared = run["n_tokens"]
    for sae in run["saes"]:
        with_labels, without = (
            scipy.sparse.load_npz(folder / sae["file"]).toarray()[:n_shared]
            for folder in (tmp_path / "labelled_features", text_folder)
        )
        np.testing.assert_array_equal(with_labels > 0, without > 0)
        np.testing.assert_allclose(with_labels, without, rtol=1e-5, atol=1e-6)

    assert extract(text_file, tmp_path / "again", tiny_gemma2, tiny_saes) == 0
    assert f"note: {text_file}: 4 sentences without labels\n" in capsys.readouterr().err


def test_what_compares_labels_refuses_the_folder(text_folder, tmp_path, capsys):
    assert open_feature_folder(text_folder, needs_labels=False).labels is None
    expected = (str(text_folder), "sentences without labels", "concept_strength_label")
    one_line(
        capsys,
        analyze_features.main(["--input", str(text_folder), "--output", str(tmp_path / "results")]),
        *expected,
    )
    ranking = tmp_path / "ranked.csv"
    ranking.write_text("layer,average_l0,feature_id\n0,5,1\n")
    arguments = [
        "--features",
        str(ranking),
        "--input",
        str(text_folder),
        "--output",
        str(tmp_path / "steering"),
    ]
    one_line(capsys, steer_features.main(arguments), *expected)
    assert {path.name for path in tmp_path.iterdir()} == {"ranked.csv"}


def test_a_lost_label_column_is_not_taken_for_a_text(feature_folder, tmp_path):
    folder = shutil.copytree(feature_folder, tmp_path / "spoiled")
    table = pd.read_csv(folder / "sentences.csv").drop(columns="concept_strength_label")
    table.to_csv(folder / "sentences.csv", index=False)
    with pytest.raises(ValueError, match="no column concept_strength_label"):
        open_feature_folder(folder, needs_labels=False)
