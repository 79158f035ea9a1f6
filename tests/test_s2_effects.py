"""Effects in s2: columns against SciPy, the same protocol as for activations, and false-positive rates."""

import itertools
import json
import shutil

import analyze_features
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
from feature_ranking.analysis_input import open_analysis_input, with_shuffled_labels
from feature_ranking.held_out import evidence
from feature_ranking.ranking import rank_features
from feature_ranking.ranking_options import RankingOptions
from feature_ranking.sae_effects import EFFECT_COLUMNS
from feature_statistics.dense_columns import centred_ranks, column_auroc, spearman_with_null
from feature_statistics.feature_metrics import unit_ranks
from feature_statistics.permutation_test import critical_rho, maxt_p_values, permuted_labels
from feature_statistics.sentence_split import split_groups
from sklearn.metrics import roc_auc_score
from synthetic_features import SyntheticSae, write_feature_folder

NO_FILTERS = ["--min-pearson", "-1", "--min-tpr", "0", "--max-fpr", "1", "--no-require-monotonic"]
HELD_OUT = [f"confirm_steer_{name}{end}" for name in ("spearman", "auroc") for end in ("", "_low", "_high")]
HELD_OUT += ["confirm_steer_p", "evidence"]


def analyze(folder, output, *options) -> int:
    quick = ["--permutations", "200", "--bootstrap", "50", "--jobs", "2"]
    return analyze_features.main(["--input", str(folder), "--output", str(output), *quick, *options])


@pytest.fixture(scope="module")
def with_effects(tmp_path_factory):
    """Features 5 and 9 of layer 1, L0 8 steer; 5 and, at L0 16, 7 follow the label."""
    folder = tmp_path_factory.mktemp("s1") / "planted_features"
    return write_feature_folder(folder, n_sentences=160, effects=True)


@pytest.fixture(scope="module")
def results(with_effects, tmp_path_factory):
    output = tmp_path_factory.mktemp("s2") / "r"
    options = ["--rank-by", "steer_spearman", "--top-n", "12", *NO_FILTERS]
    assert analyze(with_effects, output, *options) == 0
    return output


@pytest.fixture
def folder(with_effects, tmp_path):
    return shutil.copytree(with_effects, tmp_path / "planted_features")


def read_effects(folder, layer, l0):
    path = folder / f"sae_effects/layer_{layer}_l0_{l0}.npz"
    return np.load(path)["steering"], scipy.sparse.load_npz(path).toarray()


# Statistics


def test_ranks_of_dense_columns_equal_scipy_with_ties_signs_and_both_zeros():
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            rng.normal(size=(20, 31)),
            rng.choice([-2, -0.0, 0.0, 0.5, 3e30, -1e-40], size=(20, 31)),
            np.zeros((1, 31)),
        ]
    ).astype(np.float32)
    np.testing.assert_array_equal(centred_ranks(values), scipy.stats.rankdata(values, axis=1) - 16)


def test_dense_correlations_and_their_null_equal_brute_force():
    rng = np.random.default_rng(1)
    labels, values = np.arange(40) % 4, rng.normal(size=(40, 9)).astype(np.float32)
    values[:, 4] = 1
    values[:, 5] = labels
    columns = np.array([0, 5, 4, 8, 2])
    permuted = permuted_labels(labels, np.arange(40) // 2, 60, rng)
    permuted_ranks = np.ascontiguousarray(unit_ranks(permuted).T.astype(np.float32))
    rho, largest = spearman_with_null(values, columns, labels, permuted_ranks)
    expected = [scipy.stats.spearmanr(values[:, j], labels).statistic for j in (0, 5, 8, 2)]
    np.testing.assert_allclose(rho[[0, 1, 3, 4]], expected, atol=1e-12)
    assert rho[1] == pytest.approx(1)
    assert np.isnan(rho[2])  # the same in every sentence
    null = [[scipy.stats.spearmanr(values[:, j], row).statistic for j in (0, 5, 8, 2)] for row in permuted]
    np.testing.assert_allclose(largest, np.abs(null).max(axis=1), atol=1e-6)


def test_column_auroc_equals_sklearn():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(-2, 4, (30, 3)), rng.integers(-3, 3, (20, 3))
    truth = np.repeat([1, 0], [30, 20])
    expected = [roc_auc_score(truth, np.r_[positive[:, k], negative[:, k]]) for k in range(3)]
    np.testing.assert_allclose(column_auroc(positive, negative), expected)


@pytest.mark.parametrize("alpha", [0, 0.004, 0.005, 0.05, 0.5, 0.999, 1])
def test_critical_rho_separates_what_is_significant(alpha):
    null = np.random.default_rng(0).random(199).astype(np.float32)
    rho = np.linspace(0.0001, 1.1, 2000)
    np.testing.assert_array_equal(maxt_p_values(rho, null) <= alpha, rho > critical_rho(null, alpha) + 1e-5)


def test_what_has_no_correlation_has_no_p():
    assert np.isnan(maxt_p_values(np.array([0.5, np.nan]), np.array([0.3])))[1]


def test_evidence_names_what_is_confirmed():
    follows, steers = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool)
    assert evidence(follows, steers).tolist() == ["both", "follows", "steers", ""]


# The analysis


def test_planted_features_steer_follow_or_do_both(results, capsys):
    ranked = pd.read_csv(results / "ranked_features.csv").fillna({"evidence": ""})
    found = ranked.set_index(["layer", "average_l0", "feature_id"])["evidence"]
    assert found.to_dict().items() >= {(1, 8, 9): "steers", (1, 8, 5): "both"}.items()
    assert found.iloc[2:].isin(["", "follows"]).all()
    assert ranked["steer_spearman"].is_monotonic_decreasing
    assert (ranked["p_steer_maxt"].iloc[:2] == 1 / 201).all()
    assert (ranked["p_steer_maxt"].iloc[2:] > 0.01).all()  # one of the 187 others is at 0.015, by chance
    summary = json.loads((results / "run.json").read_text())["summary"]
    assert (summary["n_steers"], summary["n_both"], summary["n_significant_steer_maxt"]) == (2, 1, 3)
    assert analyze_features.main(["--output", str(results), "--display-only"]) == 0
    out = capsys.readouterr().out
    assert ", 3 with p_steer_maxt (1 both); 192 pass the filters, 12 ranked" in out
    assert "; 2 steer, 1 do both" in out


def test_the_ranking_by_activation_is_what_it_was_and_says_what_steers(with_effects, tmp_path):
    assert analyze(with_effects, tmp_path / "r") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv").set_index("feature_id")
    assert ranked["evidence"].to_dict() == {5: "both", 7: "follows"}
    plain = write_feature_folder(tmp_path / "planted_features", n_sentences=160)
    assert analyze(plain, tmp_path / "plain") == 0
    expected = pd.read_csv(tmp_path / "plain/ranked_features.csv").set_index("feature_id")
    pd.testing.assert_frame_equal(ranked[expected.columns], expected)


def test_columns_equal_the_dense_computation(results, with_effects):
    split = pd.read_csv(results / "split.csv")
    labels = split["concept_strength_label"].to_numpy()
    found, held = (split["part"].to_numpy() == part for part in ("discovery", "confirmation"))
    offsets = np.load(with_effects / "tokens.npz")["sentence_offsets"]
    table = pd.read_csv(results / "discovery_ranking.csv")
    assert set(EFFECT_COLUMNS) <= set(table)
    ranked = pd.read_csv(results / "ranked_features.csv").set_index(["layer", "average_l0", "feature_id"])
    for (layer, l0), rows in table.groupby(["layer", "average_l0"]):
        steering, ablation = read_effects(with_effects, layer, l0)
        name = f"sae_activations/layer_{layer}_l0_{l0}.npz"
        acts = scipy.sparse.load_npz(with_effects / name).toarray()
        largest = np.stack([acts[a:b].max(axis=0) for a, b in itertools.pairwise(offsets)])[found].max(axis=0)
        rho = rows.set_index("feature_id")["steer_spearman"]
        for _, row in rows.iloc[::9].iterrows():
            f = row["feature_id"]
            x, of_0, of_3 = steering[:, f].astype(float), found & (labels == 0), found & (labels == 3)
            rest = found & np.isin(labels, (0, 3))
            assert row["steer_spearman"] == pytest.approx(scipy.stats.spearmanr(x[found], labels[found])[0])
            assert row["steer_auroc"] == pytest.approx(roc_auc_score(labels[rest] == 3, x[rest]))
            assert row["steer_slope"] == pytest.approx((x[of_3].mean() - x[of_0].mean()) * largest[f])
            assert row["ablation_label_0"] == pytest.approx(ablation[of_0, f].mean(), abs=1e-6)
            assert row["ablation_label_3"] == pytest.approx(ablation[of_3, f].mean(), abs=1e-6)
            assert row["steer_percentile"] == pytest.approx(
                scipy.stats.percentileofscore(rho, rho[f], "mean")
            )
            if (layer, l0, f) in ranked.index:
                expected = scipy.stats.spearmanr(x[held], labels[held]).statistic
                assert ranked.loc[(layer, l0, f), "confirm_steer_spearman"] == pytest.approx(expected)


def test_tables_have_the_columns_of_effects_only_where_there_are_effects(results, feature_folder, tmp_path):
    assert analyze(feature_folder, tmp_path / "r") == 0
    for name, columns in (
        ("ranked_features.csv", [*EFFECT_COLUMNS, *HELD_OUT]),
        ("best_per_sae.csv", [*EFFECT_COLUMNS, *HELD_OUT]),
        ("discovery_ranking.csv", EFFECT_COLUMNS),
    ):
        assert set(columns) <= set(pd.read_csv(results / name))
        assert not [c for c in pd.read_csv(tmp_path / "r" / name) if "steer" in c or "ablation" in c]
    assert "steer" not in (tmp_path / "r/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("pool", ["mean", "final"])
def test_the_slope_is_at_the_largest_activation_of_a_token_however_pooled(with_effects, tmp_path, pool):
    slopes = {}
    for name in ("max", pool):
        assert analyze(with_effects, tmp_path / name, "--pool", name, *NO_FILTERS) == 0
        table = pd.read_csv(tmp_path / name / "discovery_ranking.csv")
        slopes[name] = table.set_index(["layer", "average_l0", "feature_id"])["steer_slope"]
    assert len(slopes[pool]) > 100
    np.testing.assert_allclose(slopes[pool], slopes["max"].loc[slopes[pool].index])


def test_an_sae_without_effects_has_none_beside_others_that_have(folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    run["saes"][2]["effects"] = None
    (folder / "run.json").write_text(json.dumps(run))
    assert analyze(folder, tmp_path / "r") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv").set_index("feature_id")
    assert ranked["evidence"].to_dict() == {5: "both", 7: "follows"}
    assert ranked.loc[7, [*EFFECT_COLUMNS, *HELD_OUT[:-1]]].isna().all()
    assert ranked.loc[5, [*EFFECT_COLUMNS, *HELD_OUT]].notna().all()


def test_a_feature_without_any_effect_is_not_ranked_by_it(folder, tmp_path):
    path = folder / "sae_effects/layer_1_l0_8.npz"
    arrays = dict(np.load(path))
    arrays["steering"][:, 9] = 0
    np.savez(path, **arrays)
    assert analyze(folder, tmp_path / "r", "--rank-by", "steer_spearman", "--top-n", "500", *NO_FILTERS) == 0
    assert len(pd.read_csv(tmp_path / "r/ranked_features.csv")) == 191
    table = pd.read_csv(tmp_path / "r/discovery_ranking.csv")
    (row,) = table[(table["failed_filters"] == "steering")].to_dict("records")
    assert (row["layer"], row["average_l0"], row["feature_id"]) == (1, 8, 9)
    assert np.isnan([row["steer_spearman"], row["p_steer_maxt"], row["steer_percentile"]]).all()


def test_nothing_held_out_leaves_the_evidence_open(with_effects, tmp_path):
    assert analyze(with_effects, tmp_path / "r", "--confirm-share", "0") == 0
    ranked = pd.read_csv(tmp_path / "r/ranked_features.csv")
    assert ranked[HELD_OUT].isna().all(axis=None)
    assert ranked["p_steer_maxt"].notna().all()
    assert json.loads((tmp_path / "r/run.json").read_text())["summary"]["n_steers"] is None


def test_nothing_ranked_and_no_permutations_still_give_a_report(with_effects, tmp_path):
    options = ["--min-pearson", "0.999", "--permutations", "0"]
    assert analyze(with_effects, tmp_path / "r", *options) == 0
    assert set(HELD_OUT) <= set(pd.read_csv(tmp_path / "r/ranked_features.csv"))
    text = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert "What follows the label, and what steers" in text
    assert "Dashed lines" not in text
    # What came nearest stands in the page all the same, with its effect.
    assert "the first of each SAE, as none is ranked" in text
    for feature in pd.read_csv(tmp_path / "r/best_per_sae.csv")["feature_id"]:
        assert f"<!-- {feature} -->" in text  # the text that a group of the figure draws
    nearest = pd.read_csv(tmp_path / "r/discovery_ranking.csv").iloc[0]
    assert f"<td>{nearest['steer_spearman']:.3f}</td>" in text


def test_nothing_eligible_is_a_result_with_effects_too(with_effects, tmp_path):
    assert analyze(with_effects, tmp_path / "r", "--min-firing", "119") == 0
    best = pd.read_csv(tmp_path / "r/best_per_sae.csv")
    assert best["n_eligible"].tolist() == best["n_significant_steer"].tolist() == [0, 0, 0]
    assert best["steer_spearman"].isna().all()


def test_the_report_shows_both_axes_and_says_what_each_quadrant_means(results):
    text = (results / "report.html").read_text(encoding="utf-8")
    for words in ("Upper right: 1", "Lower right: 0", "Upper left: 0", "Lower left: 0", "layer 1, L0 16"):
        assert words in text
    assert text.count("<svg") == 3
    assert text.count("<image ") >= 3  # features are drawn as a density: the page does not grow with them


def test_quadrants_count_features_beyond_both_lines(with_effects):
    args = analyze_features.parse_args(
        ["--input", str(with_effects), "--output", "r", "--permutations", "99"]
    )
    features = open_analysis_input(with_effects)
    parts = split_groups(features.labels, features.groups, 0.25, 0)
    ranking = rank_features(features, parts, RankingOptions.from_arguments(args))
    discovery = ranking.discovery
    beyond = (discovery["p_maxt"] <= 0.05) & (discovery["p_steer_maxt"] <= 0.05)
    signs = np.sign(discovery.loc[beyond, ["spearman_corr", "steer_spearman"]])
    quadrants = ranking.correlations.quadrants()
    assert quadrants["upper_right"] == (signs == 1).all(axis=1).sum() == 1
    assert sum(quadrants.values()) == beyond.sum()


def test_same_bytes_whatever_the_number_of_jobs(results, with_effects, tmp_path):
    options = ["--rank-by", "steer_spearman", "--top-n", "12", "--jobs", "1", *NO_FILTERS]
    assert analyze(with_effects, tmp_path / "again", *options) == 0
    for name in ("ranked_features.csv", "best_per_sae.csv", "discovery_ranking.csv", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (results / name).read_bytes(), name


@pytest.mark.slow
def test_under_shuffled_labels_steers_is_said_at_the_nominal_rate_at_most(tmp_path):
    """The whole protocol, ranked by effect, with features that do steer: of 60 runs with shuffled labels."""
    saes = (SyntheticSae(1, 8, d_sae=100, steering=dict.fromkeys(range(20), 1.0)),)
    folder = write_feature_folder(tmp_path / "x_features", saes=saes, sentences_per_group=4, effects=True)
    arguments = ["--input", str(folder), "--output", "r", "--rank-by", "steer_spearman", *NO_FILTERS]
    arguments += ["--top-n", "5", "--permutations", "99", "--bootstrap", "1", "--jobs", "1"]
    options = RankingOptions.from_arguments(analyze_features.parse_args(arguments))
    features, n_seeds, alarms, significant = open_analysis_input(folder), 60, 0, 0
    for seed in range(n_seeds):
        shuffled = with_shuffled_labels(features, seed)
        parts = split_groups(shuffled.labels, shuffled.groups, 0.25, seed)
        ranking = rank_features(shuffled, parts, options)
        assert ranking.ranked["steer_spearman"].iloc[0] > 0.1  # chance looks like a finding where chosen
        alarms += ranking.summary["n_steers"] > 0
        significant += ranking.summary["n_significant_steer_maxt"] > 0
    limit = scipy.stats.binom.ppf(0.999, n_seeds, 0.05)
    assert alarms <= limit
    assert significant <= limit


# Failures


def spoil_effects(folder, **changes):
    path = folder / "sae_effects/layer_1_l0_8.npz"
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {name: change(arrays[name]) for name, change in changes.items()}))


BAD_EFFECTS = {
    "missing file": (
        lambda f: (f / "sae_effects/layer_1_l0_8.npz").unlink(),
        "layer_1_l0_8.npz is missing; run s1_compute_all_features/extract_sae_features.py",
    ),
    "cut-off file": (
        lambda f: (f / "sae_effects/layer_1_l0_8.npz").write_bytes(b"PK\x03\x04 cut"),
        "layer_1_l0_8.npz holds no readable effects",
    ),
    "no steering": (
        lambda f: shutil.copy(f / "sae_activations/layer_1_l0_8.npz", f / "sae_effects/layer_1_l0_8.npz"),
        "layer_1_l0_8.npz holds no readable effects",
    ),
    "wrong shape": (
        lambda f: spoil_effects(f, steering=lambda a: a[:, :32]),
        "has steering of shape (160, 32), expected (160, 64)",
    ),
    "not finite": (
        lambda f: spoil_effects(f, steering=lambda a: a * np.nan),
        "holds effects that are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD_EFFECTS)
def test_bad_effects_are_one_line_that_names_them_and_writes_nothing(folder, tmp_path, capsys, case):
    spoil, message = BAD_EFFECTS[case]
    spoil(folder)
    assert analyze(folder, tmp_path / "r") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "--gradients" in line
    assert not (tmp_path / "r").exists()


def test_ranking_by_effects_that_are_not_there_is_refused(feature_folder, tmp_path, capsys):
    assert analyze(feature_folder, tmp_path / "r", "--rank-by", "steer_spearman") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: --rank-by steer_spearman: {feature_folder} has no effects of layer 0, L0 8;"
    )
    assert "--gradients" in error
    assert error.count("\n") == 1
