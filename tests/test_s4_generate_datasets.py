"""Stage 4: pooling against plain loops, every strategy through the command line, and each impossible
request.
"""

import argparse
import json
import os
import re
import shutil
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import generate_datasets
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from synthetic_features import SyntheticSae, write_feature_folder
from twins_s4.feature_folder import open_feature_folder
from twins_s4.sentence_pooling import pool_dense
from utils import parse_label_pair

N_SENTENCES = 80


def write_s2_results(
    folder, features, *, confirm=True, ranking=((1, 8, 5), (1, 16, 7), (0, 8, 3)), **changes
):
    """The files of a stage 2 result that stage 4 reads."""
    folder.mkdir()
    run = json.loads((features / "run.json").read_text(encoding="utf-8"))
    ran_on = {key: run[key] for key in ("input_sha256", "model", "n_tokens")} | changes
    written = {"format_version": 1, "pool": "max", "features_run": ran_on}
    (folder / "run.json").write_text(json.dumps(written), encoding="utf-8")
    sentences = pd.read_csv(features / "sentences.csv")
    part = np.where(confirm & (sentences["group"] % 4 == 0), "confirmation", "discovery")
    split = sentences[["sentence_index", "group", "concept_strength_label"]].assign(part=part)
    split.to_csv(folder / "split.csv", index=False)
    table = pd.DataFrame(ranking, columns=["layer", "average_l0", "feature_id"])
    table.insert(0, "rank", range(1, len(table) + 1))
    table.to_csv(folder / "discovery_ranking.csv", index=False)
    table.head(0).to_csv(folder / "ranked_features.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def s2_results(feature_folder, tmp_path_factory):
    return write_s2_results(tmp_path_factory.mktemp("s2") / "planted_results", feature_folder)


def run(output, folder, *arguments) -> int:
    return generate_datasets.main(["--input", str(folder), "--output", str(output), *map(str, arguments)])


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files} | {"metadata": json.loads(str(file["metadata"]))}


def tokens_of(folder, name):
    with np.load(folder / name, allow_pickle=False) as file:
        return file[file.files[0]]


@pytest.mark.parametrize(
    ("pool", "by_hand"),
    [
        ("final", lambda rows: rows[-1]),
        ("mean", lambda rows: rows.mean(axis=0)),
        ("max", lambda rows: rows.max(axis=0)),
    ],
)
def test_pooling_equals_a_loop_over_sentences(pool, by_hand):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 7, 700))])  # more sentences than one chunk
    token_values = rng.normal(size=(offsets[-1], 5)).astype(np.float16)
    expected = [by_hand(token_values[a:b].astype(np.float64)) for a, b in pairwise(offsets)]
    pooled = pool_dense(token_values, offsets, pool)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-7)


def test_label_pairs():
    assert parse_label_pair("3,0") == (0, 3)
    for text in ("0", "0,0", "0,4", "0,1,2"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_label_pair(text)


def test_stacked_layers_lie_side_by_side(feature_folder, tmp_path, capsys):
    output = tmp_path / "new folder" / "stacked.npz"
    assert run(output, feature_folder, "--strategy", "hidden-to-concept", "--layers", "0,2") == 0
    written = load(output)
    features = open_feature_folder(feature_folder)
    d_model = int(written["d_model"])
    assert written["X"].shape == (N_SENTENCES, 2 * d_model)
    for k, layer in enumerate([0, 2]):
        hidden = tokens_of(feature_folder, f"hidden_states/layer_{layer}.npz")
        last = hidden[features.sentence_offsets[1:] - 1].astype(np.float32)
        np.testing.assert_array_equal(written["X"][:, k * d_model : (k + 1) * d_model], last)
    sentences = pd.read_csv(feature_folder / "sentences.csv")
    np.testing.assert_array_equal(written["y"], sentences["concept_strength_label"])
    np.testing.assert_array_equal(written["group"], sentences["group"])
    np.testing.assert_array_equal(written["sentences"], sentences["sentence"].to_numpy(str))
    assert written["y"].dtype == written["group"].dtype == written["sentence_index"].dtype == np.int64
    assert written["layers"].tolist() == [0, 2]
    assert set(written["part"]) == {""}
    metadata = written["metadata"]
    assert (metadata["task"], metadata["trait"], metadata["pool"]) == ("classification", "planted", "final")
    assert metadata["inputs_selected_on"] is None
    beside = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    assert beside["source"]["input_sha256"] == "0" * 64
    assert len(beside["output_sha256"]) == 64
    assert "80 rows × 32 inputs, 40 groups" in capsys.readouterr().out


def test_all_layers_and_one_layer(feature_folder, tmp_path):
    concept = ("--strategy", "hidden-to-concept")
    assert run(tmp_path / "all.npz", feature_folder, *concept, "--layers", "all") == 0
    assert run(tmp_path / "one.npz", feature_folder, *concept, "--layer", 2) == 0
    every, one = load(tmp_path / "all.npz"), load(tmp_path / "one.npz")
    assert every["layers"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(every["X"][:, -16:], one["X"])


def test_same_input_gives_the_same_bytes(feature_folder, tmp_path):
    arguments = ("--strategy", "hidden-to-concept", "--layers", "0-1", "--pool", "mean")
    output = tmp_path / "a.npz"
    assert run(output, feature_folder, *arguments) == 0
    first = output.read_bytes()
    assert run(output, feature_folder, *arguments) == 0
    assert output.read_bytes() == first


def test_binary_keeps_two_labels(feature_folder, tmp_path):
    output = tmp_path / "binary.npz"
    arguments = ("--strategy", "hidden-to-concept", "--layer", 1, "--binary", "0,3")
    assert run(output, feature_folder, *arguments) == 0
    written = load(output)
    assert set(written["y"]) == {0, 3}
    assert len(written["y"]) == N_SENTENCES // 2
    labels = pd.read_csv(feature_folder / "sentences.csv")["concept_strength_label"].to_numpy()
    np.testing.assert_array_equal(labels[written["sentence_index"]], written["y"])
    assert written["metadata"]["classes"] == [0, 3]


def test_target_is_the_pooled_feature(feature_folder, tmp_path):
    features = open_feature_folder(feature_folder)
    acts = scipy.sparse.load_npz(feature_folder / "sae_activations/layer_1_l0_16.npz").toarray()[:, 7]  # [T]
    target = ("--target-layer", 1, "--target-l0", 16, "--target-feature", 7)
    for strategy, extra in (("embedding-to-feature", ()), ("hidden-to-feature", ("--input-layer", 0))):
        output = tmp_path / f"{strategy}.npz"
        assert run(output, feature_folder, "--strategy", strategy, "--pool", "mean", *target, *extra) == 0
        written = load(output)
        expected = [acts[a:b].max() for a, b in zip(features.sentence_offsets, features.sentence_offsets[1:])]
        np.testing.assert_allclose(written["y"], expected)
        assert written["y"].dtype == np.float32
        assert written["metadata"]["task"] == "regression"
        assert written["metadata"]["target"]["feature_id"] == 7
    embeddings = tokens_of(feature_folder, "embeddings.npz").astype(np.float64)
    first = slice(0, features.sentence_offsets[1])
    np.testing.assert_allclose(
        load(tmp_path / "embedding-to-feature.npz")["X"][0], embeddings[first].mean(axis=0), rtol=1e-5
    )


def test_input_layer_defaults_to_the_target_layer(feature_folder, tmp_path):
    target = ("--target-layer", 1, "--target-l0", 8, "--target-feature", 5)
    assert run(tmp_path / "a.npz", feature_folder, "--strategy", "hidden-to-feature", *target) == 0
    assert load(tmp_path / "a.npz")["layers"].tolist() == [1]


def test_target_falls_back_to_the_discovery_ranking(feature_folder, s2_results, tmp_path):
    output = tmp_path / "a.npz"
    arguments = ("--strategy", "hidden-to-feature", "--s2-results", s2_results)
    assert run(output, feature_folder, *arguments) == 0
    written = load(output)
    target = written["metadata"]["target"]
    assert (target["layer"], target["average_l0"], target["feature_id"]) == (1, 8, 5)
    assert target["chosen_by"] == "discovery_ranking.csv"
    assert set(written["part"]) == {"discovery", "confirmation"}
    assert written["metadata"]["inputs_selected_on"] is None  # the target was chosen, not the inputs


def test_features_stand_in_rank_order(feature_folder, s2_results, tmp_path):
    output = tmp_path / "a.npz"
    arguments = ("--strategy", "features-to-concept", "--s2-results", s2_results, "--k", 3)
    assert run(output, feature_folder, *arguments) == 0
    written, features = load(output), open_feature_folder(feature_folder)
    for column, (layer, l0, feature_id) in enumerate([(1, 8, 5), (1, 16, 7), (0, 8, 3)]):
        acts = scipy.sparse.load_npz(feature_folder / f"sae_activations/layer_{layer}_l0_{l0}.npz").toarray()
        expected = np.maximum.reduceat(acts[:, feature_id], features.sentence_offsets[:-1])
        np.testing.assert_allclose(written["X"][:, column], expected)
    assert written["metadata"]["pool"] == "max"
    assert written["metadata"]["inputs_selected_on"] == "discovery"
    confirmation = written["part"] == "confirmation"
    assert 0 < confirmation.sum() < N_SENTENCES
    assert not set(written["group"][confirmation]) & set(written["group"][~confirmation])


def test_warnings_name_what_is_weak(tmp_path, capsys):
    folder = write_feature_folder(tmp_path / "x_features", n_sentences=40)
    with np.load(folder / "tokens.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays["tokens"] = arrays["tokens"].astype("<U8")
    arrays["tokens"][arrays["sentence_offsets"][1:] - 1] = "."
    np.savez(folder / "tokens.npz", **arrays)
    target = ("--target-layer", 1, "--target-l0", 8, "--target-feature", 5)
    assert run(tmp_path / "a.npz", folder, "--strategy", "embedding-to-feature", *target) == 0
    assert "100% of the sentences end in '.'" in capsys.readouterr().err
    everything = write_s2_results(tmp_path / "r", folder, confirm=False)
    arguments = ("--strategy", "features-to-concept", "--s2-results", everything, "--k", 2)
    assert run(tmp_path / "b.npz", folder, *arguments) == 0
    assert "held out no confirmation sentences" in capsys.readouterr().err
    assert load(tmp_path / "b.npz")["metadata"]["inputs_selected_on"] == "all"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--strategy hidden-to-concept --layers 0-5", "no layer 3, 4, 5; extracted layers: 0, 1, 2"),
        ("--strategy hidden-to-concept --layer 9", "extracted layers: 0, 1, 2"),
        ("--strategy hidden-to-feature --target-layer 1 --target-feature 5", "average L0 8, 16; choose one"),
        ("--strategy hidden-to-feature --target-layer 1 --target-l0 9 --target-feature 5", "it has 8, 16"),
        ("--strategy hidden-to-feature --target-layer 2 --target-feature 5", "(L0 8), layer 1 (L0 8, 16)"),
        ("--strategy hidden-to-feature --target-layer 0 --target-feature 64", "features 0 to 63"),
        ("--strategy hidden-to-feature --target-layer 0 --target-feature -1", "features 0 to 63"),
        ("--strategy embedding-to-feature", "give --s2-results, or --target-layer"),
        ("--strategy features-to-concept --s2-results {s2} --k 4", "choose --k up to 3"),
        ("--strategy features-to-concept --s2-results {s2}/none", "run.json does not exist"),
    ],
)
def test_impossible_requests_name_the_choices(arguments, named, feature_folder, s2_results, tmp_path, capsys):
    output = tmp_path / "a.npz"
    assert run(output, feature_folder, *arguments.format(s2=s2_results).split()) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--strategy hidden-to-concept", "either --layer or --layers"),
        ("--strategy hidden-to-concept --layer 1 --layers 1", "either --layer or --layers"),
        ("--strategy hidden-to-concept --layer 1 --target-layer 1", "--target-layer belongs to"),
        ("--strategy hidden-to-feature --binary 0,3", "--binary belongs to"),
        ("--strategy hidden-to-feature --target-layer 1", "go together"),
        ("--strategy features-to-concept", "needs --s2-results"),
        ("--strategy hidden-to-concept --layer 1 --k 4", "--k belongs to features-to-concept"),
        ("--strategy features-to-concept --s2-results r --k 0", "'0' is not a whole number, 1 or more"),
        ("--strategy hidden-to-concept --layers 5-2", "runs backwards"),
        ("--strategy unknown", "invalid choice"),
    ],
)
def test_contradictory_options_are_refused(arguments, named, feature_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "a.npz", feature_folder, *arguments.split())
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err


def test_a_silent_target_names_features_that_fire(tmp_path, capsys):
    folder = write_feature_folder(tmp_path / "x_features", n_sentences=40, saes=(SyntheticSae(0, 8),))
    path = folder / "sae_activations/layer_0_l0_8.npz"
    acts = scipy.sparse.load_npz(path).tolil()
    acts[:, 3] = 0
    scipy.sparse.save_npz(path, acts.tocsr())
    arguments = ("--strategy", "hidden-to-feature", "--target-layer", 0, "--target-feature", 3)
    assert run(tmp_path / "a.npz", folder, *arguments) == 2
    busiest = np.argsort(-acts.tocsr().getnnz(axis=0), kind="stable")[:5]
    error = capsys.readouterr().err
    assert "feature 3 of layer 0, L0 8 never fires" in error
    assert ", ".join(map(str, busiest)) in error


def remove_sentences(folder):
    (folder / "sentences.csv").unlink()


def change_format(folder):
    run_json = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(run_json | {"format_version": 7}), encoding="utf-8")


def drop_group(folder):
    pd.read_csv(folder / "sentences.csv").drop(columns="group").to_csv(folder / "sentences.csv", index=False)


def shorten_layer(folder):
    hidden = tokens_of(folder, "hidden_states/layer_1.npz")
    np.savez(folder / "hidden_states/layer_1.npz", hidden_states=hidden[:-1])


def spoil_layer(folder):
    hidden = tokens_of(folder, "hidden_states/layer_1.npz").copy()
    hidden[-1, 0] = np.inf
    np.savez(folder / "hidden_states/layer_1.npz", hidden_states=hidden)


def cut_layer(folder):
    path = folder / "hidden_states/layer_1.npz"
    path.write_bytes(path.read_bytes()[:300])


def rename_array(folder):
    np.savez(folder / "hidden_states/layer_1.npz", states=tokens_of(folder, "hidden_states/layer_1.npz"))


def lose_run(folder):
    (folder / "run.json").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove_sentences, "sentences.csv is missing"),
        (change_format, "format_version 7, expected 1"),
        (drop_group, "no column group"),
        (shorten_layer, "layer_1.npz has shape"),
        (cut_layer, "layer_1.npz cannot be read"),
        (rename_array, "layer_1.npz cannot be read"),
        (spoil_layer, "inputs of sentence_index 79 are not finite"),
        (lose_run, "run.json does not exist"),
    ],
)
def test_damaged_folders_are_refused(damage, named, feature_folder, tmp_path, capsys):
    folder = tmp_path / "x_features"
    shutil.copytree(feature_folder, folder)
    damage(folder)
    assert run(tmp_path / "out" / "a.npz", folder, "--strategy", "hidden-to-concept", "--layer", 1) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_sha256": "f" * 64}, "input_sha256"),
        ({"model": "other"}, "model is 'other'"),
        ({"n_tokens": 1}, "n_tokens"),
    ],
)
def test_foreign_s2_results_are_refused(changes, named, feature_folder, tmp_path, capsys):
    foreign = write_s2_results(tmp_path / "r", feature_folder, **changes)
    arguments = ("--strategy", "features-to-concept", "--s2-results", foreign, "--k", 2)
    assert run(tmp_path / "a.npz", feature_folder, *arguments) == 2
    assert named in capsys.readouterr().err


def test_a_negative_control_of_stage_2_is_refused(feature_folder, s2_results, tmp_path, capsys):
    control = shutil.copytree(s2_results, tmp_path / "control")
    record = json.loads((control / "run.json").read_text(encoding="utf-8"))
    (control / "run.json").write_text(json.dumps(record | {"labels_shuffled": True}), encoding="utf-8")
    for strategy in ("features-to-concept", "hidden-to-feature"):
        arguments = ("--strategy", strategy, "--s2-results", control)
        assert run(tmp_path / "out" / "a.npz", feature_folder, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {control} is a negative control, made with --shuffle-labels")
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_default_k_is_recorded_where_it_is_used(feature_folder, tmp_path):
    ranking = tuple((1, 8, feature_id) for feature_id in range(20))
    results = write_s2_results(tmp_path / "r", feature_folder, ranking=ranking)
    arguments = ("--strategy", "features-to-concept", "--s2-results", results)
    assert run(tmp_path / "a.npz", feature_folder, *arguments) == 0
    written = load(tmp_path / "a.npz")
    assert written["X"].shape == (N_SENTENCES, 16)
    assert written["metadata"]["arguments"]["k"] == 16


def test_the_inputs_are_held_in_memory_once(tmp_path):
    """A layer's tokens and NumPy's buffer of 16 MiB are a fraction of X, so a second X would show."""
    folder = write_feature_folder(
        tmp_path / "x_features", n_sentences=800, n_layers=40, d_model=512, sentence_lengths=(1, 1)
    )
    arguments = ("--strategy", "hidden-to-concept", "--layers", "all")
    output = tmp_path / "a.npz"
    tracemalloc.start()
    try:
        assert run(output, folder, *arguments) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.6 * load(output)["X"].nbytes


def test_a_rewrite_stopped_in_between_leaves_no_record(feature_folder, tmp_path, monkeypatch):
    """The record of one NPZ must not stand beside another."""
    output = tmp_path / "a.npz"
    arguments = ("--strategy", "hidden-to-concept", "--layer")
    assert run(output, feature_folder, *arguments, 1) == 0
    replace = os.replace

    def stop_after_the_npz(source, target):
        replace(source, target)
        if Path(target) == output:
            raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop_after_the_npz)
    with pytest.raises(KeyboardInterrupt):
        run(output, feature_folder, *arguments, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert load(output)["layers"].tolist() == [2]


def test_other_datasets_of_the_folder_stay(feature_folder, tmp_path):
    arguments = ("--strategy", "hidden-to-concept", "--layer", 1)
    for name in ("a.npz", "b.npz"):
        assert run(tmp_path / name, feature_folder, *arguments) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.npz", "a.run.json", "b.npz", "b.run.json"]


def test_output_that_is_a_folder_or_below_a_file_is_one_line(feature_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    arguments = ("--strategy", "hidden-to-concept", "--layer", 1)
    assert run(tmp_path, feature_folder, *arguments) == 2
    assert "is a folder, expected an NPZ file" in capsys.readouterr().err
    assert run(tmp_path / "file" / "a.npz", feature_folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path / "file") in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_hidden_states_is_refused(feature_folder, tmp_path, capsys):
    folder = shutil.copytree(feature_folder, tmp_path / "x_features")
    shutil.rmtree(folder / "hidden_states")
    assert run(tmp_path / "a.npz", folder, "--strategy", "hidden-to-concept", "--layers", "all") == 2
    assert "has no layer at all; extracted layers: none" in capsys.readouterr().err


def test_where_standard_error_is_no_terminal_progress_is_plain_lines(
    feature_folder, tmp_path, capsys, monkeypatch
):
    def slow_pool(*arguments):
        time.sleep(0.02)
        return pool_dense(*arguments)

    monkeypatch.setattr("load_sentence_data.pool_dense", slow_pool)
    monkeypatch.setattr("twins_s4.progress.PLAIN_SECONDS", 0.001)
    assert run(tmp_path / "a.npz", feature_folder, "--strategy", "hidden-to-concept", "--layers", "all") == 0
    assert re.search(r"^pooling: \d of 3 layers after ", capsys.readouterr().err, flags=re.MULTILINE)


def test_kinds_of_sentences_and_weights_are_passed_on(tmp_path):
    folder = write_feature_folder(tmp_path / "kinds_features", text_kinds=True)
    run_json = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for sae in run_json["saes"][1:]:
        sae["encoder_sha256"] = f"weights of {sae['file']}"
    (folder / "run.json").write_text(json.dumps(run_json), encoding="utf-8")
    results = write_s2_results(tmp_path / "results", folder)
    request = ("--strategy", "features-to-concept", "--k", 3, "--s2-results", results, "--binary", "0,3")
    assert run(tmp_path / "a.npz", folder, *request) == 0
    dataset = load(tmp_path / "a.npz")
    kept = pd.read_csv(folder / "sentences.csv").query("concept_strength_label in (0, 3)")
    for kind in ("difficulty", "register"):
        assert dataset[kind].tolist() == kept[kind].tolist()
    hashes = [feature["encoder_sha256"] for feature in dataset["metadata"]["features"]]
    assert hashes == [*(f"weights of sae_activations/layer_1_l0_{l0}.npz" for l0 in (8, 16)), None]
    plain = write_feature_folder(tmp_path / "plain_features")
    assert run(tmp_path / "plain.npz", plain, "--strategy", "hidden-to-concept", "--layer", 1) == 0
    assert "difficulty" not in load(tmp_path / "plain.npz")
