"""Frozen features on other sentences (--transfer), and on plain and hard held-out sentences apart."""

import itertools
import json
import shutil

import analyze_features
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
from feature_ranking.transfer import TRANSFER_COLUMNS
from feature_statistics.confirmation import effect_sizes
from sklearn.metrics import roc_auc_score
from synthetic_features import SyntheticSae, write_feature_folder

NAME = "people"
SAES = (SyntheticSae(0, 8), SyntheticSae(1, 8, planted={5: 4.0}), SyntheticSae(1, 16))
NO_FILTERS = ["--min-pearson", "-1", "--min-tpr", "0", "--max-fpr", "1", "--no-require-monotonic"]


def analyze(folder, output, *options) -> int:
    quick = ["--permutations", "200", "--bootstrap", "50", "--jobs", "2"]
    return analyze_features.main(["--input", str(folder), "--output", str(output), *quick, *options])


def with_hashes(folder, **changes):
    """Give every SAE the hash of its file's name, as if that were its weights."""
    run = json.loads((folder / "run.json").read_text())
    for sae in run["saes"]:
        sae["encoder_sha256"] = changes.get(sae["file"], sae["file"])
    (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Features 5 (L0 8) and 7 (L0 16) of layer 1 follow the label."""
    folder = tmp_path_factory.mktemp("s1") / "planted_features"
    return with_hashes(write_feature_folder(folder, n_sentences=120, text_kinds=True))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Other sentences, of labels 0, 1 and 3, on which feature 5 follows the label and 7 does not."""
    folder = tmp_path_factory.mktemp("s1") / f"{NAME}_features"
    with_hashes(write_feature_folder(folder, saes=SAES, n_sentences=100, seed=1))
    table = pd.read_csv(folder / "sentences.csv")
    table["concept_strength_label"] = table["concept_strength_label"].replace(2, 1)
    table.to_csv(folder / "sentences.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def results(own, other, tmp_path_factory):
    output = tmp_path_factory.mktemp("s2") / "r"
    assert analyze(own, output, "--transfer", str(other)) == 0
    return output


def pooled_of(folder, sae, feature_id):
    offsets = np.load(folder / "tokens.npz")["sentence_offsets"]
    acts = scipy.sparse.load_npz(folder / f"sae_activations/{sae}.npz").toarray()[:, feature_id]
    return np.array([acts[a:b].max() for a, b in itertools.pairwise(offsets)])


# Transfer


def test_transfer_measures_the_frozen_feature_on_the_other_sentences(results, other):
    labels = pd.read_csv(other / "sentences.csv")["concept_strength_label"].to_numpy()
    ranked = pd.read_csv(results / "ranked_features.csv").set_index("feature_id")
    pair = np.isin(labels, (0, 3))
    for feature_id, sae in ((5, "layer_1_l0_8"), (7, "layer_1_l0_16")):
        row, x = ranked.loc[feature_id], pooled_of(other, sae, feature_id)
        assert row[f"transfer_{NAME}_auroc"] == pytest.approx(roc_auc_score(labels[pair] == 3, x[pair]))
        assert row[f"transfer_{NAME}_tpr"] == pytest.approx((x[labels == 3] > row["threshold"]).mean())
        assert row[f"transfer_{NAME}_fpr"] == pytest.approx((x[labels == 0] > row["threshold"]).mean())
        low, high = (row[f"transfer_{NAME}_auroc_{end}"] for end in ("low", "high"))
        assert low <= row[f"transfer_{NAME}_auroc"] <= high
    assert ranked.loc[5, f"transfer_{NAME}_p"] == pytest.approx(2 / 401)  # Holm over the two
    assert ranked.loc[7, f"transfer_{NAME}_p"] > 0.05


def test_transfer_columns_stand_beside_the_confirmation_in_both_tables(results, own, tmp_path):
    names = [f"transfer_{NAME}_{name}" for name in TRANSFER_COLUMNS]
    for file in ("ranked_features.csv", "best_per_sae.csv"):
        columns = list(pd.read_csv(results / file))
        at = columns.index(names[0])
        assert columns[at : at + len(names)] == names
        assert columns[at - 1].startswith("confirm")
    assert pd.read_csv(results / "best_per_sae.csv")[names].notna().all(axis=None)
    assert analyze(own, tmp_path / "r") == 0
    assert not [name for name in pd.read_csv(tmp_path / "r/ranked_features.csv") if "transfer" in name]


def test_transfer_neither_chooses_nor_changes_what_is_ranked(results, own, tmp_path):
    assert analyze(own, tmp_path / "r") == 0
    expected = pd.read_csv(tmp_path / "r/ranked_features.csv")
    pd.testing.assert_frame_equal(pd.read_csv(results / "ranked_features.csv")[expected.columns], expected)


def test_transfer_can_be_repeated_and_is_recorded_and_reported(own, other, tmp_path):
    second = shutil.copytree(other, tmp_path / "more_features")
    options = ["--transfer", str(other), "--transfer", str(second)]
    assert analyze(own, tmp_path / "r", *options) == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert ranked["transfer_more_auroc"].tolist() == ranked[f"transfer_{NAME}_auroc"].tolist()
    record = json.loads((tmp_path / "r/run.json").read_text())
    assert [entry["name"] for entry in record["transfers"]] == [NAME, "more"]
    assert record["transfers"][0]["n_label_3"] == record["transfers"][0]["n_label_0"] == 25
    assert record["transfers"][0]["n_seen"] == 0
    report = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "On other sentences" in report
    assert "25 of label 3 and 25 of label 0" in report


def test_the_same_weights_are_found_whatever_their_l0_is_called(results, own, other, tmp_path):
    renamed = shutil.copytree(other, tmp_path / "people_features")
    run = json.loads((renamed / "run.json").read_text())
    for sae in run["saes"]:
        sae["average_l0"] += 1
    (renamed / "run.json").write_text(json.dumps(run))
    assert analyze(own, tmp_path / "r", "--transfer", str(renamed)) == 0
    expected = (results / "ranked_features.csv").read_bytes()
    assert (tmp_path / "r/ranked_features.csv").read_bytes() == expected


def test_measuring_on_the_sentences_of_discovery_is_said(own, tmp_path, capsys):
    assert analyze(own, tmp_path / "r", "--transfer", str(own)) == 0
    n_discovery = (pd.read_csv(tmp_path / "r/split.csv")["part"] == "discovery").sum()
    assert f"note: Sentences seen before. {n_discovery} sentences of {own}" in capsys.readouterr().out
    assert "<strong>Sentences seen before.</strong>" in (tmp_path / "r/report.html").read_text(
        encoding="utf-8"
    )


def test_nothing_ranked_has_transfer_columns_without_rows(own, other, tmp_path):
    assert analyze(own, tmp_path / "r", "--transfer", str(other), "--min-pearson", "0.999") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert len(ranked) == 0
    assert f"transfer_{NAME}_auroc" in ranked


def spoil_run(folder, change):
    run = json.loads((folder / "run.json").read_text())
    change(run)
    (folder / "run.json").write_text(json.dumps(run))


BAD_TRANSFERS = {
    "other model": (lambda f: spoil_run(f, lambda run: run.update(model="other-model")), "other-model"),
    "SAE missing": (
        lambda f: spoil_run(f, lambda run: run["saes"].pop(0)),
        "has no SAE of layer 0 with average_l0 8",
    ),
    "other weights": (
        lambda f: with_hashes(f, **{"sae_activations/layer_0_l0_8.npz": "f" * 64}),
        "was encoded with other weights",
    ),
    "no label 0": (
        lambda f: (
            pd.read_csv(f / "sentences.csv")
            .assign(concept_strength_label=3)
            .to_csv(f / "sentences.csv", index=False)
        ),
        "no sentence of label 0",
    ),
    "no folder": (shutil.rmtree, "is no folder"),
}


@pytest.mark.parametrize("case", BAD_TRANSFERS)
def test_a_bad_transfer_is_one_line_before_anything_is_computed(own, other, tmp_path, capsys, case):
    spoil, message = BAD_TRANSFERS[case]
    folder = shutil.copytree(other, tmp_path / "people_features")
    spoil(folder)
    assert analyze(own, tmp_path / "r", "--transfer", str(folder)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert str(folder) in captured.err
    assert captured.out == ""
    assert not (tmp_path / "r").exists()


def test_two_transfers_of_one_name_are_refused(own, other, tmp_path, capsys):
    second = shutil.copytree(other, tmp_path / other.name)
    assert analyze(own, tmp_path / "r", "--transfer", str(other), "--transfer", str(second)) == 2
    assert f"--transfer {other} and {second} are both of the trait {NAME}" in capsys.readouterr().err


# Plain and hard


def test_held_out_auroc_of_plain_and_of_hard_sentences(results, own):
    sentences, split = pd.read_csv(own / "sentences.csv"), pd.read_csv(results / "split.csv")
    x = pooled_of(own, "layer_1_l0_16", 7)
    row = pd.read_csv(results / "ranked_features.csv").set_index("feature_id").loc[7]
    for difficulty in ("plain", "hard"):
        chosen = (split["part"] == "confirmation") & (sentences["difficulty"] == difficulty)
        chosen &= sentences["concept_strength_label"].isin((0, 3))
        expected = roc_auc_score(sentences["concept_strength_label"][chosen] == 3, x[chosen])
        name = f"confirm_auroc_{difficulty}"
        assert row[name] == pytest.approx(expected)
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    report = (results / "report.html").read_text(encoding="utf-8")
    assert "plain" in report
    assert "hard" in report


def test_without_the_column_there_are_no_columns(feature_folder, tmp_path):
    assert analyze(feature_folder, tmp_path / "r") == 0
    assert not [name for name in pd.read_csv(tmp_path / "r/ranked_features.csv") if "plain" in name]


@pytest.mark.parametrize("share", ["0", "0.25"])
def test_a_difficulty_without_held_out_sentences_is_empty(own, tmp_path, share):
    folder = shutil.copytree(own, tmp_path / "planted_features")
    table = pd.read_csv(folder / "sentences.csv").assign(difficulty="hard")
    table.to_csv(folder / "sentences.csv", index=False)
    assert analyze(folder, tmp_path / "r", "--confirm-share", share, *NO_FILTERS) == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert ranked.filter(like="confirm_auroc_plain").isna().all(axis=None)
    assert ranked["confirm_auroc_hard"].notna().all() == (share != "0")


def test_effect_sizes_without_one_of_the_labels_have_no_auroc():
    values, labels = np.arange(6.0)[:, None], np.array([1, 1, 2, 2, 3, 3])
    table = effect_sizes(values, labels, np.arange(6), np.zeros(1), 20, np.random.default_rng(0))
    assert table[["auroc", "auroc_low", "auroc_high", "fpr"]].isna().all(axis=None)
    assert table["spearman"][0] == pytest.approx(scipy.stats.spearmanr(values[:, 0], labels).statistic)
