"""`--like`: the inputs of one dataset for other sentences, with labels and without."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import generate_datasets
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from synthetic_features import write_feature_folder
from test_s3_any_text import edit_json, with_hash, without_labels
from test_s4_generate_datasets import load, run, tokens_of, write_s2_results

EXAMPLES = {
    "hidden": ("--strategy", "hidden-to-concept", "--layers", "2,0", "--pool", "mean"),
    "features": ("--strategy", "features-to-concept", "--k", "3", "--s2-results"),
    "embedding": (
        "--strategy",
        "embedding-to-feature",
        "--pool",
        "max",
        "--target-pool",
        "mean",
        "--s2-results",
    ),
    "early": ("--strategy", "hidden-to-feature", "--input-layer", "0", "--s2-results"),
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    """A dataset of each strategy, made from 80 labelled sentences."""
    folder = tmp_path_factory.mktemp("examples")
    s1 = with_hash(write_feature_folder(folder / "chosen_features"))
    s2 = write_s2_results(folder / "results", s1, ranking=((1, 16, 7), (0, 8, 3), (1, 8, 5)))
    for name, request in EXAMPLES.items():
        more = (*request, s2) if request[-1] == "--s2-results" else request
        assert run(folder / f"{name}.npz", s1, *more) == 0
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """12 other sentences through the same SAEs, without labels."""
    folder = tmp_path_factory.mktemp("text") / "new_features"
    return without_labels(with_hash(write_feature_folder(folder, n_sentences=12, seed=1)))


def pooled(folder: Path, rows: np.ndarray, pool: str) -> np.ndarray:
    """Sentence rows of token rows [T, d], by a plain loop."""
    offsets = np.load(folder / "tokens.npz")["sentence_offsets"]
    reduce = {"mean": np.mean, "max": np.max, "final": lambda part, axis: part[-1]}[pool]
    return np.array([reduce(rows[a:b].astype(np.float64), axis=0) for a, b in pairwise(offsets)])


def column(folder: Path, layer: int, average_l0: int, feature_id: int) -> np.ndarray:
    path = folder / f"sae_activations/layer_{layer}_l0_{average_l0}.npz"
    return scipy.sparse.load_npz(path).toarray()[:, [feature_id]]  # [T, 1]


def test_a_probe_of_labels_gets_its_inputs_without_labels(examples, text, tmp_path, capsys):
    assert run(tmp_path / "new.npz", text, "--like", examples / "hidden.npz") == 0
    out = capsys.readouterr().out
    assert "read 12 sentences without labels" in out
    assert "12 rows × 32 inputs, 6 groups, no labels, so no y" in out
    written, example = load(tmp_path / "new.npz"), load(examples / "hidden.npz")
    assert "y" not in written
    assert set(written) == set(example) - {"y"}
    # layers in the order that --layers made of them
    assert written["layers"].tolist() == example["layers"].tolist() == [0, 2]
    expected = [pooled(text, tokens_of(text, f"hidden_states/layer_{k}.npz"), "mean") for k in (0, 2)]
    np.testing.assert_allclose(written["X"], np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)
    table = pd.read_csv(text / "sentences.csv")
    np.testing.assert_array_equal(written["sentences"], table["sentence"].to_numpy(str))
    assert set(written["part"]) == {""}
    metadata = written["metadata"]
    assert (metadata["labelled"], example["metadata"]["labelled"]) == (False, True)
    assert (metadata["strategy"], metadata["task"], metadata["pool"]) == (
        "hidden-to-concept",
        "classification",
        "mean",
    )
    assert metadata["classes"] is None
    assert metadata["like"]["path"] == str(examples / "hidden.npz")
    assert len(metadata["like"]["sha256"]) == 64


def test_chosen_features_stay_the_same_columns(examples, text, tmp_path):
    assert run(tmp_path / "new.npz", text, "--like", examples / "features.npz") == 0
    written, example = load(tmp_path / "new.npz"), load(examples / "features.npz")
    expected = np.concatenate([column(text, *key) for key in ((1, 16, 7), (0, 8, 3), (1, 8, 5))], axis=1)
    np.testing.assert_allclose(written["X"], pooled(text, expected, "max"), rtol=1e-6)
    assert written["metadata"]["features"] == example["metadata"]["features"]
    assert example["metadata"]["inputs_selected_on"] == "discovery"
    assert written["metadata"]["inputs_selected_on"] is None  # no label of these sentences chose an input


def test_a_feature_is_a_target_without_labels_too(examples, text, tmp_path):
    for name, pool in (("embedding", "mean"), ("early", "max")):
        assert run(tmp_path / f"{name}.npz", text, "--like", examples / f"{name}.npz") == 0
        written, example = load(tmp_path / f"{name}.npz"), load(examples / f"{name}.npz")
        np.testing.assert_allclose(
            written["y"], pooled(text, column(text, 1, 16, 7), pool)[:, 0], rtol=1e-6, atol=1e-6
        )
        assert written["metadata"]["labelled"] is True
        assert written["metadata"]["target"] == example["metadata"]["target"]
    embeddings = pooled(text, tokens_of(text, "embeddings.npz"), "max")
    np.testing.assert_allclose(load(tmp_path / "embedding.npz")["X"], embeddings, rtol=1e-6)
    assert load(tmp_path / "early.npz")["layers"].tolist() == [0]


def test_a_target_that_is_silent_in_a_text_is_zero(examples, text, tmp_path, capsys):
    folder = shutil.copytree(text, tmp_path / "silent_features")
    path = folder / "sae_activations/layer_1_l0_16.npz"
    acts = scipy.sparse.load_npz(path).tolil()
    acts[:, 7] = 0
    scipy.sparse.save_npz(path, acts.tocsr())
    assert run(tmp_path / "new.npz", folder, "--like", examples / "early.npz") == 0
    np.testing.assert_array_equal(load(tmp_path / "new.npz")["y"], np.zeros(12))
    assert "fires in only 0 of 12 sentences" in capsys.readouterr().err


def test_labels_are_kept_where_there_are_some(examples, tmp_path):
    folder = with_hash(write_feature_folder(tmp_path / "new_features", n_sentences=12, seed=1))
    binary = (*EXAMPLES["hidden"], "--binary", "0,3")
    source = write_feature_folder(tmp_path / "source_features")
    assert run(tmp_path / "binary.npz", source, *binary) == 0
    for name, labels in ((examples / "hidden.npz", [0, 1, 2, 3]), (tmp_path / "binary.npz", [0, 3])):
        assert run(tmp_path / "new.npz", folder, "--like", name) == 0
        written = load(tmp_path / "new.npz")
        assert written["y"].tolist() == [i % 4 for i in range(12) if i % 4 in labels]
        assert written["metadata"]["classes"] == labels
    # What --like stands for can be taken over once more.
    other = without_labels(write_feature_folder(tmp_path / "third_features", n_sentences=8, seed=2))
    assert run(tmp_path / "third.npz", other, "--like", tmp_path / "new.npz") == 0
    assert load(tmp_path / "third.npz")["metadata"]["arguments"]["binary"] == [0, 3]


def test_layers_can_be_named_for_a_text(text, tmp_path):
    """Without an example too, where nothing has to be chosen by labels."""
    assert run(tmp_path / "new.npz", text, "--strategy", "hidden-to-concept", "--layers", "all") == 0
    assert load(tmp_path / "new.npz")["X"].shape == (12, 48)


def spoiled(path: Path, **changes) -> None:
    """Rewrite the metadata of a dataset with some of them changed."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    metadata = json.loads(str(arrays["metadata"])) | changes
    np.savez(path, **arrays | {"metadata": np.array(json.dumps(metadata))})


def forget_hashes(folder: Path, example: Path) -> None:
    features = [{"layer": 1, "average_l0": 16, "feature_id": 7}]
    spoiled(example, features=features)


REFUSED = {
    "another SAE": (lambda s1, npz: with_hash(s1, "b" * 64), ["another SAE of layer 1, L0 16", "aaaaaaaaa…"]),
    "another model": (
        lambda s1, npz: edit_json(s1 / "run.json", model="other"),
        ["model 'tiny-random'", "run s1"],
    ),
    "no hash": (forget_hashes, ["features.npz has no encoder_sha256 of the SAE of layer 1, L0 16"]),
    "same sentences": (
        lambda s1, npz: edit_json(s1 / "run.json", input_sha256="0" * 64),
        ["made from the sentences of", "--strategy"],
    ),
    "no file": (lambda s1, npz: npz.unlink(), ["no such file", "NPZ that this stage wrote"]),
    "no NPZ": (lambda s1, npz: npz.write_bytes(b"PK\3\4"), ["is no dataset of this stage"]),
    "another format": (lambda s1, npz: spoiled(npz, format_version=2), ["format_version 2, expected 1"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(name, examples, text, tmp_path, capsys):
    s1 = shutil.copytree(text, tmp_path / "s1_features")
    example = shutil.copy(examples / "features.npz", tmp_path)
    spoil, expected = REFUSED[name]
    spoil(s1, Path(example))
    assert run(tmp_path / "out" / "new.npz", s1, "--like", example) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in expected:
        assert part in line
    assert not (tmp_path / "out").exists()


def test_what_a_text_cannot_give_is_refused(examples, text, tmp_path, capsys):
    binary = ("--strategy", "hidden-to-concept", "--layer", "1", "--binary", "0,3")
    assert run(tmp_path / "new.npz", text, *binary) == 2
    assert "sentences without labels; leave out --binary" in capsys.readouterr().err
    chosen = ("--strategy", "features-to-concept", "--s2-results", examples / "results")
    assert run(tmp_path / "new.npz", text, *chosen) == 2
    assert "s4 --like" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], "--strategy is required unless --like"),
        (["--like", "a.npz", "--strategy", "hidden-to-concept"], "leave out --strategy"),
        (["--like", "a.npz", "--layers", "all"], "leave out --layers"),
        (["--like", "a.npz", "--s2-results", "results"], "leave out --s2-results"),
        (["--like", "a.npz", "--pool", "mean"], "leave out --pool"),
    ],
)
def test_options_beside_the_example_are_refused(more, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        generate_datasets.main(["--input", "s1", "--output", str(tmp_path / "new.npz"), *more])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
