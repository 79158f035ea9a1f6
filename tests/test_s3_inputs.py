"""s3 reads the folders of s1 and s2, takes only what it needs, and refuses what does not fit."""

import argparse
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from drawing_inputs.drawn_run import load_run, read_activations
from drawing_inputs.feature import Feature
from drawing_inputs.feature_choice import named_features, top_features
from drawing_inputs.option_values import feature_list
from twins_s3.feature_folder import open_feature_folder

PLANTED = ((1, 8, 5), (1, 16, 7))  # (layer, average_l0, feature_id) of the fixture `feature_folder`


def write_run(folder: Path, sentences: list[list[str]], labels: list[int], activations: np.ndarray) -> Path:
    """Write an s1 folder of the given tokens whose SAE of layer 0, L0 8 has `activations` [T, d_sae]."""
    (folder / "sae_activations").mkdir(parents=True)
    n_tokens = [len(tokens) for tokens in sentences]
    pd.DataFrame(
        {
            "sentence_index": np.arange(len(sentences)),
            "sentence": ["".join(tokens).strip() for tokens in sentences],
            "concept_strength_label": labels,
            "n_tokens": n_tokens,
            "group": np.arange(len(sentences)),
        }
    ).to_csv(folder / "sentences.csv", index=False)
    tokens = np.array([token for sentence in sentences for token in sentence])  # [T]
    offsets = np.concatenate([[0], np.cumsum(n_tokens)])  # [n + 1]
    np.savez(
        folder / "tokens.npz",
        token_ids=np.zeros(len(tokens), np.int32),
        tokens=tokens,
        sentence_offsets=offsets,
    )
    name = "sae_activations/layer_0_l0_8.npz"
    scipy.sparse.save_npz(folder / name, scipy.sparse.csr_matrix(activations.astype(np.float32)))
    run = {
        "format_version": 1,
        "model": "tiny-random",
        "d_model": 16,
        "n_sentences": len(sentences),
        "n_tokens": len(tokens),
        "input_sha256": "0" * 64,
        "saes": [
            {
                "layer": 0,
                "average_l0": 8,
                "d_sae": activations.shape[1],
                "neuronpedia_id": "tiny/0-res",
                "file": name,
            }
        ],
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def write_s2_results(
    folder: Path,
    s1_folder: Path,
    features: tuple[tuple[int, int, int], ...] = PLANTED,
    *,
    passed: int | None = None,
    confirm_every: int | None = 4,
) -> Path:
    """Write what s3 reads of an s2 result; the first `passed` features (default all) passed the filters.

    Every `confirm_every`th group is in the confirmation part.
    """
    folder.mkdir(parents=True)
    run = json.loads((s1_folder / "run.json").read_text(encoding="utf-8"))
    keys = ("input_sha256", "model", "model_revision", "n_sentences", "n_tokens")
    source = {"path": str(s1_folder), **{key: run.get(key) for key in keys}}
    record = {"format_version": 1, "features_run": source, "pool": "max"}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    table = pd.DataFrame(
        [
            {
                "rank": rank,
                "layer": layer,
                "average_l0": average_l0,
                "feature_id": feature_id,
                "neuronpedia_url": "",
                "interpretability_score": 1 - rank / 10,
            }
            for rank, (layer, average_l0, feature_id) in enumerate(features, start=1)
        ]
    )
    table.to_csv(folder / "discovery_ranking.csv", index=False)
    table.head(len(table) if passed is None else passed).to_csv(folder / "ranked_features.csv", index=False)
    sentences = pd.read_csv(s1_folder / "sentences.csv")
    split = sentences[["sentence_index", "group", "concept_strength_label"]].copy()
    confirmation = sentences["group"] % confirm_every == 0 if confirm_every else False
    split["part"] = np.where(confirmation, "confirmation", "discovery")
    split.to_csv(folder / "split.csv", index=False)
    return folder


def dense(folder: Path, layer: int, average_l0: int) -> np.ndarray:
    return scipy.sparse.load_npz(folder / f"sae_activations/layer_{layer}_l0_{average_l0}.npz").toarray()


def test_activations_are_the_columns_of_the_named_features(feature_folder):
    features = [Feature(1, 16, 7), Feature(1, 8, 5), Feature(1, 16, 3)]
    activations = read_activations(open_feature_folder(feature_folder), features)
    expected = np.stack(
        [
            dense(feature_folder, 1, 16)[:, 7],
            dense(feature_folder, 1, 8)[:, 5],
            dense(feature_folder, 1, 16)[:, 3],
        ],
        1,
    )
    np.testing.assert_array_equal(activations, expected)
    assert activations.dtype == np.float32


def test_reading_a_wide_sae_does_not_make_it_dense(tmp_path):
    rng = np.random.default_rng(0)
    sentences = [[f" w{i}" for i in range(10)]] * 100
    folder = write_run(tmp_path / "s1", sentences, [0, 1, 2, 3] * 25, np.zeros((1000, 4)))
    wide = scipy.sparse.random(1000, 50_000, density=0.001, format="csr", dtype=np.float32, rng=rng)
    scipy.sparse.save_npz(folder / "sae_activations/layer_0_l0_8.npz", wide)
    s1 = open_feature_folder(folder)
    s1.run["saes"][0]["d_sae"] = 50_000
    tracemalloc.start()
    activations = read_activations(s1, [Feature(0, 8, 49_999), Feature(0, 8, 17)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(activations, wide[:, [49_999, 17]].toarray())
    assert peak < 10e6, f"{peak / 1e6:.0f} MB, where the dense matrix has 200 MB"


def test_a_sentence_that_reads_none_is_text(tmp_path):
    folder = write_run(tmp_path / "s1", [["None"], [" NA", " nan"]], [0, 3], np.ones((3, 2)))
    run = load_run(folder, None, [(0, 8, 0)], 1)
    assert run.s1.sentences["sentence"].tolist() == ["None", "NA nan"]


def test_top_features_come_in_rank_order_with_score(tmp_path, feature_folder):
    s2 = write_s2_results(tmp_path / "s2", feature_folder)
    features, source = top_features(s2, 1)
    assert source == "ranked_features.csv"
    assert features == [Feature(1, 8, 5, rank=1, score=0.9, neuronpedia_url="")]


def test_unfiltered_ranking_stands_in_where_no_feature_passed(tmp_path, feature_folder):
    s2 = write_s2_results(tmp_path / "s2", feature_folder, passed=0)
    features, source = top_features(s2, 10)
    assert source == "discovery_ranking.csv"
    assert [(f.layer, f.average_l0, f.feature_id) for f in features] == list(PLANTED)


def test_named_features_get_score_from_s2_and_page_from_s1(tmp_path, feature_folder):
    s2 = write_s2_results(tmp_path / "s2", feature_folder)
    s1 = open_feature_folder(feature_folder)
    ranked, unranked, pageless = named_features([(1, 8, 5), (0, 8, 3), (1, 16, 9)], s1, s2)
    assert (ranked.rank, ranked.score) == (1, 0.9)
    assert (unranked.rank, unranked.score) == (None, None)
    assert unranked.neuronpedia_url == "https://www.neuronpedia.org/tiny/0-res/3"
    assert pageless.neuronpedia_url == ""


@pytest.mark.parametrize("text", ["12:82", "12:82:x", "a:b:c", "1:2:3,1:2:3", "", "1:2:-3"])
def test_malformed_feature_lists_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"layer:l0:feature_id|twice"):
        feature_list(text)


def test_confirmation_rows_follow_the_sentences(tmp_path, feature_folder):
    s2 = write_s2_results(tmp_path / "s2", feature_folder)
    split = pd.read_csv(s2 / "split.csv")
    split.sample(frac=1, random_state=0).to_csv(s2 / "split.csv", index=False)  # in any order
    run = load_run(feature_folder, s2, None, 2)
    np.testing.assert_array_equal(run.confirmation, (np.arange(80) // 2) % 4 == 0)
