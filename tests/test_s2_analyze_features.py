"""The command line of s2: outputs, protocol, determinism, and one-line errors for bad input."""

import errno
import html.parser
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import analyze_features
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
from synthetic_features import SyntheticSae, write_feature_folder

FIRST_COLUMNS = [
    "rank",
    "layer",
    "average_l0",
    "feature_id",
    "neuronpedia_url",
    "interpretability_score",
    "pearson_corr",
    "spearman_corr",
    "separation_score",
    "tpr",
    "fpr",
    "mean_label_0",
    "mean_label_1",
    "mean_label_2",
    "mean_label_3",
    "monotonic",
]
FILES = {
    "ranked_features.csv",
    "discovery_ranking.csv",
    "best_per_sae.csv",
    "feature_examples.json",
    "split.csv",
    "report.html",
    "run.json",
    ".lock",
}
NO_FILTERS = ["--min-pearson", "-1", "--min-tpr", "0", "--max-fpr", "1", "--no-require-monotonic"]


def analyze(folder, output, *options) -> int:
    quick = ["--permutations", "200", "--bootstrap", "50", "--jobs", "2"]
    return analyze_features.main(["--input", str(folder), "--output", str(output), *quick, *options])


def read_run(output) -> dict:
    return json.loads((output / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results(feature_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("s2") / "planted_results"
    assert analyze(feature_folder, output) == 0
    return output


@pytest.fixture
def folder(feature_folder, tmp_path):
    """A copy of the feature folder, to be spoiled."""
    return shutil.copytree(feature_folder, tmp_path / "planted_features")


# Outputs


def test_planted_features_are_found_ranked_first_and_confirmed(results):
    ranked = pd.read_csv(results / "ranked_features.csv")
    assert list(ranked.columns[: len(FIRST_COLUMNS)]) == FIRST_COLUMNS
    assert set(zip(ranked["layer"], ranked["average_l0"], ranked["feature_id"])) == {(1, 8, 5), (1, 16, 7)}
    assert ranked["rank"].tolist() == [1, 2]
    assert ranked["confirmed"].all()
    assert (ranked["p_maxt"] <= 0.01).all()
    assert (ranked["q_bh"] <= 0.01).all()
    urls = ranked.set_index("feature_id")["neuronpedia_url"].fillna("").to_dict()
    assert urls == {5: "https://www.neuronpedia.org/tiny/1-res/5", 7: ""}


def test_all_files_are_written_and_nothing_else(results):
    assert {path.name for path in results.iterdir()} == FILES


def test_ranking_equals_the_dense_computation_on_discovery_sentences(results, feature_folder):
    split = pd.read_csv(results / "split.csv")
    offsets = np.load(feature_folder / "tokens.npz")["sentence_offsets"]
    found = (split["part"] == "discovery").to_numpy()
    labels = split["concept_strength_label"].to_numpy()[found]
    ranking = pd.read_csv(results / "discovery_ranking.csv")
    assert len(ranking) == 192
    assert ranking["interpretability_score"].is_monotonic_decreasing
    for (layer, l0), rows in ranking.groupby(["layer", "average_l0"]):
        acts = scipy.sparse.load_npz(feature_folder / f"sae_activations/layer_{layer}_l0_{l0}.npz").toarray()
        pooled = np.stack([acts[a:b].max(axis=0) for a, b in itertools.pairwise(offsets)])[found]
        for _, row in rows.sample(8, random_state=0).iterrows():
            x = pooled[:, row["feature_id"]].astype(np.float64)
            assert row["pearson_corr"] == pytest.approx(scipy.stats.pearsonr(x, labels).statistic)
            assert row["spearman_corr"] == pytest.approx(scipy.stats.spearmanr(x, labels).statistic)
            assert row["mean_label_3"] == pytest.approx(x[labels == 3].mean())
            assert row["n_firing"] == (x > 0).sum()


def test_confirmation_columns_are_measured_on_the_held_out_sentences(results, feature_folder):
    split = pd.read_csv(results / "split.csv")
    held = (split["part"] == "confirmation").to_numpy()
    offsets = np.load(feature_folder / "tokens.npz")["sentence_offsets"]
    acts = scipy.sparse.load_npz(feature_folder / "sae_activations/layer_1_l0_8.npz").toarray()
    x = np.array([acts[a:b, 5].max() for a, b in itertools.pairwise(offsets)])[held]
    y = split["concept_strength_label"].to_numpy()[held]
    row = pd.read_csv(results / "ranked_features.csv").query("feature_id == 5").iloc[0]
    assert row["confirm_spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert row["confirm_tpr"] == pytest.approx((x[y == 3] > row["threshold"]).mean())
    assert row["confirm_fpr"] == pytest.approx((x[y == 0] > row["threshold"]).mean())
    assert row["confirm_spearman_low"] <= row["confirm_spearman"] <= row["confirm_spearman_high"]


def test_split_covers_every_sentence_and_keeps_groups_whole(results, feature_folder):
    split = pd.read_csv(results / "split.csv")
    assert split["sentence_index"].tolist() == list(range(80))
    assert split.groupby("group")["part"].nunique().max() == 1
    assert (split["part"] == "confirmation").mean() == pytest.approx(0.25, abs=0.03)


def test_best_per_sae_has_a_row_for_every_sae(results):
    best = pd.read_csv(results / "best_per_sae.csv")
    assert list(zip(best["layer"], best["average_l0"])) == [(0, 8), (1, 8), (1, 16)]
    assert best["feature_id"].tolist()[1:] == [5, 7]
    assert best["n_passing"].tolist() == [0, 1, 1]
    assert best["confirm_auroc"].notna().all()


def test_examples_show_the_strongest_sentences_and_their_peak(results, feature_folder):
    features = json.loads((results / "feature_examples.json").read_text(encoding="utf-8"))
    ranked = pd.read_csv(results / "ranked_features.csv")
    assert [f["feature_id"] for f in features] == ranked["feature_id"].tolist()
    sentences = pd.read_csv(feature_folder / "sentences.csv")
    for feature in features:
        assert list(feature["examples"]) == ["0", "1", "2", "3"]
        assert feature["examples"]["0"] == []  # a planted feature is silent at label 0
        strongest = feature["examples"]["3"]
        assert len(strongest) == 5
        activations = [e["activation"] for e in strongest]
        assert activations == sorted(activations, reverse=True)
        for example in strongest:
            row = sentences.iloc[example["sentence_index"]]
            assert (row["concept_strength_label"], row["sentence"]) == (3, example["sentence"])
            peak = int(np.argmax(example["activations"]))
            assert example["peak_token"] == example["tokens"][peak]
            assert f"«{example['peak_token']}»" in example["peak_context"]
            assert example["activation"] == example["activations"][peak]


def test_run_record_names_the_features_run(results, feature_folder):
    record, s1 = read_run(results), json.loads((feature_folder / "run.json").read_text())
    assert record["format_version"] == 1
    assert record["features_run"] == {
        "path": str(feature_folder),
        **{key: s1[key] for key in ("input_sha256", "model", "model_revision", "n_sentences", "n_tokens")},
        "model_fingerprint": None,  # this folder names neither that nor its encoders
        "saes": [
            {"layer": sae["layer"], "average_l0": sae["average_l0"], "encoder_sha256": None}
            for sae in s1["saes"]
        ],
    }
    assert record["pool"] == "max"
    assert record["arguments"]["permutations"] == 200
    assert record["seconds"] > 0
    assert record["summary"]["n_features"] == 192


def test_same_seed_same_bytes_whatever_the_number_of_jobs(feature_folder, results, tmp_path):
    assert analyze(feature_folder, tmp_path / "again", "--jobs", "1") == 0
    for name in FILES - {"run.json"}:
        assert (tmp_path / "again" / name).read_bytes() == (results / name).read_bytes(), name


# Options


@pytest.mark.parametrize("pool", ["mean", "final"])
def test_pooling_is_applied(feature_folder, tmp_path, pool):
    assert analyze(feature_folder, tmp_path / "r", "--pool", pool, *NO_FILTERS) == 0
    offsets = np.load(feature_folder / "tokens.npz")["sentence_offsets"]
    acts = scipy.sparse.load_npz(feature_folder / "sae_activations/layer_0_l0_8.npz").toarray()
    reduce = (lambda x: x.mean(axis=0)) if pool == "mean" else (lambda x: x[-1])
    pooled = np.stack([reduce(acts[a:b]) for a, b in itertools.pairwise(offsets)])
    split = pd.read_csv(tmp_path / "r/split.csv")
    found = ((split["part"] == "discovery") & (split["concept_strength_label"] == 3)).to_numpy()
    rows = pd.read_csv(tmp_path / "r/discovery_ranking.csv").query("layer == 0")
    assert len(rows) > 0
    np.testing.assert_allclose(
        rows["mean_label_3"], pooled[found][:, rows["feature_id"]].mean(axis=0), rtol=1e-5
    )


@pytest.mark.parametrize("column", ["spearman_corr", "auroc"])
def test_rank_by_and_top_n(feature_folder, tmp_path, column):
    assert analyze(feature_folder, tmp_path / "r", "--rank-by", column, "--top-n", "7", *NO_FILTERS) == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    everything = pd.read_csv(tmp_path / "r/discovery_ranking.csv")
    assert len(ranked) == 7
    assert ranked[column].tolist() == sorted(everything[column], reverse=True)[:7]


def test_filters_and_min_firing_are_applied(feature_folder, tmp_path):
    options = ["--min-pearson", "0.05", "--min-tpr", "0.1", "--max-fpr", "0.1", "--min-firing", "30"]
    assert analyze(feature_folder, tmp_path / "r", *options) == 0
    everything = pd.read_csv(tmp_path / "r/discovery_ranking.csv").fillna({"failed_filters": ""})
    assert everything["n_firing"].min() >= 30
    passes = everything.query("pearson_corr >= 0.05 and tpr >= 0.1 and fpr <= 0.1 and monotonic")
    assert everything[everything["failed_filters"] == ""].equals(passes)
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert ranked["feature_id"].tolist() == passes["feature_id"].tolist()


def test_nothing_passing_is_a_result_that_names_the_nearest_misses(feature_folder, tmp_path, capsys):
    assert analyze(feature_folder, tmp_path / "r", "--min-pearson", "0.999", "--max-fpr", "0") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert len(ranked) == 0
    assert list(ranked.columns[: len(FIRST_COLUMNS)]) == FIRST_COLUMNS
    assert "confirm_p" in ranked
    assert json.loads((tmp_path / "r/feature_examples.json").read_text()) == []
    out = capsys.readouterr().out
    assert "no feature passed the filters" in out
    assert re.search(r"1 +1 +8 +5 .* pearson\n", out)
    assert "No feature passed the filters" in (tmp_path / "r/report.html").read_text(encoding="utf-8")


def test_nothing_eligible_is_a_result_too(feature_folder, tmp_path, capsys):
    assert analyze(feature_folder, tmp_path / "r", "--min-firing", "79") == 0
    assert "no feature fires in 79 discovery sentences" in capsys.readouterr().out
    best = pd.read_csv(tmp_path / "r/best_per_sae.csv")
    assert best["n_eligible"].tolist() == [0, 0, 0]
    assert best["feature_id"].isna().all()


def test_confirm_share_zero_ranks_on_all_sentences(feature_folder, tmp_path, capsys):
    assert analyze(feature_folder, tmp_path / "r", "--confirm-share", "0") == 0
    assert set(pd.read_csv(tmp_path / "r/split.csv")["part"]) == {"discovery"}
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert ranked["feature_id"].tolist() == [5, 7] or ranked["feature_id"].tolist() == [7, 5]
    assert ranked.filter(like="confirm").isna().all(axis=None)
    assert read_run(tmp_path / "r")["summary"]["n_confirmed"] is None
    assert "Nothing was held out" in (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "none held out to confirm" in capsys.readouterr().out


def test_shuffled_labels_confirm_nothing(feature_folder, tmp_path):
    for seed in range(3):
        options = ["--shuffle-labels", "--seed", str(seed), "--alpha", "0.01", *NO_FILTERS]
        assert analyze(feature_folder, tmp_path / "r", *options) == 0
        record = read_run(tmp_path / "r")
        assert record["labels_shuffled"]
        assert record["summary"]["n_ranked"] == 50
        assert record["summary"]["n_confirmed"] == 0
    assert "Negative control" in (tmp_path / "r/report.html").read_text(encoding="utf-8")


def test_permutations_zero_leaves_p_maxt_empty(feature_folder, tmp_path):
    assert analyze(feature_folder, tmp_path / "r", "--permutations", "0") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert ranked["p_maxt"].isna().all()
    assert ranked["confirmed"].all()


def test_q_bh_accounts_for_groups_with_and_without_permutations(tmp_path, capsys):
    """Scenes of four sentences: without their correction the same rho would be more significant."""
    folder = write_feature_folder(tmp_path / "x_features", sentences_per_group=4, n_sentences=160)
    q_bh = {}
    for permutations in ("0", "200"):
        output = tmp_path / permutations
        assert analyze(folder, output, "--permutations", permutations, *NO_FILTERS) == 0
        q_bh[permutations] = pd.read_csv(output / "discovery_ranking.csv")["q_bh"].tolist()
    assert q_bh["0"] == q_bh["200"]
    out = capsys.readouterr().out
    assert out.count("note: No permutation test. With --permutations 0 p_maxt is empty") == 1
    assert read_run(tmp_path / "0")["notices"][0].startswith("No permutation test.")
    assert read_run(tmp_path / "200")["notices"] == []
    report = (tmp_path / "0/report.html").read_text(encoding="utf-8")
    assert "<strong>No permutation test.</strong> With --permutations 0" in report


def test_an_sae_that_keeps_signs_is_left_out_and_named(folder, tmp_path, capsys):
    """As abstopk SAEs do; the others are ranked as if it were not there."""
    spoil_activations(folder, lambda m: m.multiply(np.random.default_rng(0).choice([-1, 1], m.shape)))
    assert analyze(folder, tmp_path / "r", *NO_FILTERS) == 0
    record = read_run(tmp_path / "r")
    assert record["signed_saes_left_out"] == ["layer_1/width_64/average_l0_8"]
    assert (record["summary"]["n_saes"], record["summary"]["n_features"]) == (2, 128)
    run = json.loads((folder / "run.json").read_text())
    spoil_run(folder, saes=[sae for sae in run["saes"] if sae["sae_id"] != "layer_1/width_64/average_l0_8"])
    assert analyze(folder, tmp_path / "without", *NO_FILTERS) == 0
    for name in ("ranked_features.csv", "discovery_ranking.csv", "best_per_sae.csv"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert "note: SAEs left out." in capsys.readouterr().out
    assert "<strong>SAEs left out.</strong>" in (tmp_path / "r/report.html").read_text(encoding="utf-8")


def test_where_standard_error_is_no_terminal_progress_is_plain_lines(
    feature_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("twins_s2.progress.PLAIN_SECONDS", 0.002)
    assert analyze(feature_folder, tmp_path / "r") == 0
    assert re.search(r"^ranking: \d of 3 SAEs after ", capsys.readouterr().err, flags=re.MULTILINE)


def test_report_says_that_the_fpr_filter_is_inert(results):
    text = (results / "report.html").read_text(encoding="utf-8")
    assert "rejects hardly anything: fpr is measured above the same label-0 sentences' own" in text
    assert "confirm_fpr" in text
    fpr = pd.read_csv(results / "discovery_ranking.csv")["fpr"]
    assert fpr.max() <= 1 / 15  # one of the 15 label-0 sentences


def test_copies_of_a_feature_form_one_family(folder, tmp_path):
    """Feature 5 of layer 1 is copied, scaled, into two other SAEs."""
    source = scipy.sparse.load_npz(folder / "sae_activations/layer_1_l0_8.npz").toarray()
    for name, feature, scale in (("layer_0_l0_8", 11, 2.0), ("layer_1_l0_16", 12, 0.5)):
        path = folder / f"sae_activations/{name}.npz"
        dense = scipy.sparse.load_npz(path).toarray()
        dense[:, feature] = scale * source[:, 5]
        scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(dense))
    assert analyze(folder, tmp_path / "r") == 0
    families = pd.read_csv(tmp_path / "r/ranked_features.csv").set_index("feature_id")["family_id"]
    assert families[5] == families[11] == families[12] != families[7]


def test_duplicate_sae_is_counted_once(folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    twin = dict(run["saes"][1], average_l0=9, sae_id="twin", duplicate_of=run["saes"][1]["sae_id"])
    run["saes"].append(twin)
    (folder / "run.json").write_text(json.dumps(run))
    assert analyze(folder, tmp_path / "r") == 0
    record = read_run(tmp_path / "r")
    assert record["summary"]["n_features"] == 192
    assert record["duplicate_saes_left_out"] == ["twin"]
    assert 9 not in pd.read_csv(tmp_path / "r/discovery_ranking.csv")["average_l0"].tolist()
    assert "twin" in (tmp_path / "r/report.html").read_text(encoding="utf-8")


def test_contrast_measures_specificity(feature_folder, tmp_path):
    """The other trait drives feature 5 as well, but not feature 7."""
    saes = (SyntheticSae(0, 8), SyntheticSae(1, 8, planted={5: 4.0}), SyntheticSae(1, 16))
    other = write_feature_folder(tmp_path / "envy_features", saes=saes, seed=1)
    assert analyze(feature_folder, tmp_path / "r", "--contrast", str(other)) == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv").set_index("feature_id")
    assert ranked.loc[5, "contrast_share_envy"] == 1
    assert ranked.loc[7, "contrast_share_envy"] < 1
    assert ranked.loc[5, "contrast_auroc"] < 0.75 < 0.95 < ranked.loc[7, "contrast_auroc"]
    assert ranked["contrast_share"].equals(ranked["contrast_share_envy"].rename("contrast_share"))


def test_display_only_prints_a_finished_result_without_input(results, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    options = ["--output", str(results), "--display-only", "--display-top", "1"]
    assert analyze_features.main(options) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ +1 +1 ", out, flags=re.MULTILINE)
    assert not re.search(r"^ +2 +1 ", out, flags=re.MULTILINE)
    assert before == {path.name: path.stat().st_mtime_ns for path in results.iterdir()}


def two_labels(folder):
    """Labels 0 and 1 become 0, labels 2 and 3 become 3."""
    label = "concept_strength_label"
    spoil_sentences(folder, lambda table: table.assign(**{label: table[label].map({0: 0, 1: 0, 2: 3, 3: 3})}))


def test_labels_0_and_3_are_enough(folder, tmp_path, capsys):
    two_labels(folder)
    assert analyze(folder, tmp_path / "r") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert set(ranked["feature_id"]) == {5, 7}
    assert ranked["confirmed"].all()
    missing = ["mean_label_1", "mean_label_2", "monotonic"]
    for name in ("ranked_features.csv", "discovery_ranking.csv", "best_per_sae.csv"):
        table = pd.read_csv(tmp_path / "r" / name)
        assert table[missing].isna().all(axis=None)
        known = ["mean_label_0", "mean_label_3", "interpretability_score", "auroc", "threshold"]
        assert table[known].notna().all(axis=None)
    failed = pd.read_csv(tmp_path / "r/discovery_ranking.csv")["failed_filters"].dropna()
    assert not failed.str.contains("monotonic").any()
    assert "note: Labels 0 and 3 only." in capsys.readouterr().out
    report = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "<strong>Labels 0 and 3 only.</strong>" in report
    assert "label means never falling" not in report
    assert "<h3>Label 3" in report
    assert "<h3>Label 2" not in report
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", report, flags=re.DOTALL).lower()
    examples = json.loads((tmp_path / "r/feature_examples.json").read_text(encoding="utf-8"))
    assert examples[0]["examples"]["1"] == examples[0]["examples"]["2"] == []


def test_a_label_that_only_part_of_the_split_could_have_is_still_refused(folder, tmp_path, capsys):
    two_labels(folder)
    spoil_sentences(
        folder, lambda table: table.assign(concept_strength_label=[1, *table["concept_strength_label"][1:]])
    )
    assert analyze(folder, tmp_path / "r") == 2
    assert "label 1 is missing in the" in capsys.readouterr().err


# Report


class PageReader(html.parser.HTMLParser):
    """Collects what a page would load, and its open tags."""

    def __init__(self):
        super().__init__()
        self.loaded, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" or (tag == "link" and name == "href"):
                self.loaded.append(value)
            elif name == "href":
                self.links.append(value)


def test_report_is_self_contained_and_links_only_to_neuronpedia(results):
    text = (results / "report.html").read_text(encoding="utf-8")
    page = PageReader()
    page.feed(text)
    assert page.loaded == []
    assert "url(http" not in text
    assert "@import" not in text
    outside = {link for link in page.links if not link.startswith("#")}
    assert outside == {"https://www.neuronpedia.org/tiny/1-res/5"}
    assert page.tags.count("svg") == 2
    assert page.tags.count("details") == 2
    inside = {link[1:] for link in page.links if link.startswith("#") and not link.startswith("#m")}
    assert all(f'id="{name}"' in text for name in inside)


def test_report_escapes_the_text_of_sentences(folder, tmp_path):
    with np.load(folder / "tokens.npz") as arrays:
        content = dict(arrays)
    content["tokens"] = np.full(len(content["tokens"]), "<script>alert(1)</script>&")
    np.savez(folder / "tokens.npz", **content)
    assert analyze(folder, tmp_path / "r") == 0
    text = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text


# Failures


def spoil_run(folder, **changes):
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | changes))


def spoil_sentences(folder, change):
    table = pd.read_csv(folder / "sentences.csv")
    change(table).to_csv(folder / "sentences.csv", index=False)


def spoil_activations(folder, change):
    path = folder / "sae_activations/layer_1_l0_8.npz"
    scipy.sparse.save_npz(path, change(scipy.sparse.load_npz(path)))


def drop_label_3(table):
    return table.assign(concept_strength_label=table["concept_strength_label"].clip(upper=2))


def single_sentence_of_label_3(table):
    labels = table["concept_strength_label"].clip(upper=2)
    labels.iloc[-1] = 3
    return table.assign(concept_strength_label=labels)


def keep_signs_everywhere(folder):
    for path in folder.glob("sae_activations/*.npz"):
        scipy.sparse.save_npz(path, -scipy.sparse.load_npz(path))


BAD_INPUT = {
    "missing folder": (shutil.rmtree, "planted_features is no folder"),
    "unfinished run": (lambda f: (f / "run.json").unlink(), "run.json does not exist"),
    "broken run.json": (lambda f: (f / "run.json").write_text("{"), "run.json is not JSON"),
    "foreign format": (lambda f: spoil_run(f, format_version=2), "format_version 2, expected 1"),
    "no SAEs": (lambda f: spoil_run(f, saes=[]), "run.json has no saes"),
    "missing SAE": (
        lambda f: (f / "sae_activations/layer_1_l0_16.npz").unlink(),
        "layer_1_l0_16.npz is missing",
    ),
    "missing tokens": (lambda f: (f / "tokens.npz").unlink(), "tokens.npz is missing"),
    "token counts differ": (lambda f: spoil_run(f, n_tokens=3), "run.json names 80 sentences and 3 tokens"),
    "no group column": (lambda f: spoil_sentences(f, lambda t: t.drop(columns="group")), "no column group"),
    "label out of range": (
        lambda f: spoil_sentences(f, lambda t: t.assign(concept_strength_label=4)),
        "has the label 4",
    ),
    "label missing": (lambda f: spoil_sentences(f, drop_label_3), "no sentence of label 3"),
    "label missing in a part": (
        lambda f: spoil_sentences(f, single_sentence_of_label_3),
        "label 3 is missing in the",
    ),
    "wrong shape": (lambda f: spoil_activations(f, lambda m: m[:, :32]), "layer_1_l0_8.npz has shape"),
    "only signed activations": (keep_signs_everywhere, "every SAE of"),
    "NaN activations": (lambda f: spoil_activations(f, lambda m: m * np.nan), "not finite"),
    "cut-off file": (
        lambda f: (f / "sae_activations/layer_1_l0_8.npz").write_bytes(b"PK\x03\x04 cut"),
        "layer_1_l0_8.npz is no readable sparse matrix",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_that_names_it_and_writes_nothing(folder, tmp_path, capsys, case):
    spoil, message = BAD_INPUT[case]
    spoil(folder)
    assert analyze(folder, tmp_path / "r") == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in error
    assert not (tmp_path / "r").exists()


def test_contrast_of_another_model_or_other_saes_is_refused(feature_folder, folder, tmp_path, capsys):
    spoil_run(folder, model="other-model")
    assert analyze(feature_folder, tmp_path / "r", "--contrast", str(folder)) == 2
    assert "other-model" in capsys.readouterr().err
    spoil_run(folder, model="tiny-random", saes=json.loads((folder / "run.json").read_text())["saes"][:2])
    assert analyze(feature_folder, tmp_path / "r", "--contrast", str(folder)) == 2
    assert "no SAE of layer 1 with average_l0 16" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_contrast_with_other_weights_of_the_same_layer_and_l0_is_refused(folder, tmp_path, capsys):
    run = json.loads((folder / "run.json").read_text())
    spoil_run(folder, saes=[sae | {"encoder_sha256": "a" * 64} for sae in run["saes"]])
    other = shutil.copytree(folder, tmp_path / "envy_features")
    assert analyze(folder, tmp_path / "r", "--contrast", str(other)) == 0
    spoil_run(other, saes=[sae | {"encoder_sha256": "b" * 64} for sae in run["saes"]])
    assert analyze(folder, tmp_path / "other", "--contrast", str(other)) == 2
    assert f"{other} was encoded with other weights than {folder} at layer 1" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_two_contrasts_of_one_name_are_refused(feature_folder, folder, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    other = shutil.copytree(folder, tmp_path / "b" / folder.name)
    assert analyze(feature_folder, tmp_path / "r", "--contrast", str(folder), str(other)) == 2
    assert f"{folder} and {other} are both of the trait planted" in capsys.readouterr().err


def test_display_only_without_a_result_is_an_error(tmp_path, capsys):
    assert analyze_features.main(["--output", str(tmp_path / "none"), "--display-only"]) == 2
    assert "run.json does not exist" in capsys.readouterr().err


def test_display_only_refuses_results_of_another_format(results, tmp_path, capsys):
    foreign = shutil.copytree(results, tmp_path / "r")
    (foreign / "run.json").write_text(json.dumps(read_run(foreign) | {"format_version": 2}))
    assert analyze_features.main(["--output", str(foreign), "--display-only"]) == 2
    assert "format_version 2, expected 1" in capsys.readouterr().err


def test_output_that_is_a_file_is_named_before_anything_is_computed(feature_folder, tmp_path, capsys):
    (tmp_path / "r").write_text("mine")
    assert analyze(feature_folder, tmp_path / "r") == 2
    captured = capsys.readouterr()
    assert captured.err == (
        f"error: --output {tmp_path / 'r'} is a file, expected a folder or nothing; choose another name\n"
    )
    assert captured.out == ""
    assert (tmp_path / "r").read_text() == "mine"


def test_a_full_disk_is_one_line_and_keeps_the_old_results(
    results, feature_folder, tmp_path, capsys, monkeypatch
):
    output = shutil.copytree(results, tmp_path / "r")
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def no_space(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", no_space)
    monkeypatch.setattr("pathlib.Path.write_text", no_space)
    assert analyze(feature_folder, output) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_rewrite_stopped_in_between_leaves_no_finished_result(
    results, feature_folder, tmp_path, monkeypatch
):
    """A split of one run beside the ranking of another: features would be tested where they were chosen."""
    output = shutil.copytree(results, tmp_path / "r")
    replace, replaced = os.replace, []

    def stop_at_the_third(source, target):
        if Path(target).parent == output:
            replaced.append(Path(target).name)
            if len(replaced) == 3:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        analyze(feature_folder, output, "--seed", "1")
    assert len(replaced) == 3
    assert not (output / "run.json").exists()
    assert not [path for path in output.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "r"], "--input is required"),
        (["--input", "f", "--output", "r", "--confirm-share", "1"], "--confirm-share"),
        (["--input", "f", "--output", "r", "--top-n", "0"], "--top-n"),
        (["--input", "f", "--output", "r", "--max-fpr", "1.5"], "--max-fpr"),
        (["--input", "f", "--output", "r", "--pool", "median"], "--pool"),
        (["--input", "f", "--output", "r", "--permutations", "many"], "not a whole number"),
    ],
)
def test_wrong_options_are_argparse_errors(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        analyze_features.main(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
