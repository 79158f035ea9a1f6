"""Stage 5 emergence: a planted layer is found, floors are respected, the statistics equal hand-made ones."""

import json
import shutil

import emergence
import generate_datasets
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from emergence_curves.emergence_landmarks import Curve, first_of_two, half_maximum_position
from emergence_curves.readout_curves import complete_resamples
from figures.layer_axes import metric_title
from measures.grouped_rows import permute_by_group
from models import kernel_logistic
from sklearn.metrics import roc_auc_score
from synthetic_features import write_feature_folder
from twins_s5.group_statistics import group_bootstrap

QUICK = ["--folds", "4", "--repeats", "1", "--permutations", "4", "--bootstrap", "300"]


def stacked(
    folder,
    *options,
    trait="planted",
    signal_from=2,
    n_layers=6,
    layers="all",
    leak_words=False,
    seed=0,
    text_kinds=False,
):
    """A dataset of stacked layers whose hidden states carry the label from one layer on; more `options` of
    stage 4 may follow.
    """
    features = write_feature_folder(
        folder / f"{trait}_features",
        n_sentences=160,
        n_layers=n_layers,
        d_model=12,
        saes=(),
        hidden_signal_from_layer=signal_from,
        seed=seed,
        text_kinds=text_kinds,
    )
    if leak_words:
        table = pd.read_csv(features / "sentences.csv")
        words = np.array(["apple", "pear", "plum", "fig"])
        table["sentence"] += " " + words[table["concept_strength_label"].to_numpy()]
        table.to_csv(features / "sentences.csv", index=False)
    output = folder / f"{trait}.npz"
    request = ["--strategy", "hidden-to-concept", "--layers", layers, *options]
    assert generate_datasets.main(["--input", str(features), "--output", str(output), *request]) == 0
    return output


def study(output, *arguments) -> dict:
    assert emergence.main([*QUICK, *map(str, arguments), "--output", str(output)]) == 0
    return json.loads((output / "emergence.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Output folder and content for two traits whose signal starts at layers 1 and 3."""
    folder = tmp_path_factory.mktemp("emergence")
    first = stacked(folder, trait="early", signal_from=1)
    second = stacked(folder, trait="late", signal_from=3, seed=1)
    return folder / "out", study(folder / "out", first, second), (first, second)


@pytest.mark.parametrize(("trait", "layer"), [("early", 1), ("late", 3)])
@pytest.mark.parametrize("probe", ["logistic", "ridge", "diffmeans"])
@pytest.mark.parametrize("metric", ["kappa", "accuracy", "auroc"])
def test_the_planted_layer_is_the_onset(planted, trait, layer, probe, metric):
    figures = planted[1]["traits"][trait]["probes"][probe][metric]
    assert figures["onset"] == layer
    assert figures["onset_interval"] == [layer, layer]
    assert figures["onset_found_share"] == 1
    assert figures["clears"] == [k >= layer for k in range(6)]
    assert figures["peak"] >= layer
    assert layer - 1 < figures["half_maximum"] <= layer
    low, value, high = (np.array(figures[key]) for key in ("band_low", "value", "band_high"))
    assert (low[:layer] < value[:layer]).all()  # a layer of no error has no width
    np.testing.assert_allclose(high - value, value - low)


def test_traits_are_compared_by_their_onsets(planted):
    (difference,) = planted[1]["onset_differences"]
    assert (difference["first"], difference["second"]) == ("early", "late")
    assert difference["layers_later"] == 2
    assert difference["interval"] == [2, 2]
    assert difference["share_first_earlier"] == 1


def test_files_are_complete(planted):
    output, content, datasets = planted
    table = pd.read_csv(output / "emergence.csv")
    curve = table[(table["trait"] == "late") & (table["source"] == "logistic") & (table["metric"] == "kappa")]
    assert curve["layer"].tolist() == list(range(6))
    np.testing.assert_allclose(
        curve["value"], content["traits"]["late"]["probes"]["logistic"]["kappa"]["value"]
    )
    assert set(table["source"]) == {"logistic", "ridge", "diffmeans", "majority", "length", "tfidf"}
    assert set(table["sentences"]) == {"all"}
    for name in ("early.png", "late.png", "all_traits.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert set(run["inputs"]) == set(map(str, datasets))


def test_same_seed_gives_the_same_bytes_whatever_the_jobs(planted, tmp_path):
    output, _, datasets = planted
    study(tmp_path, *datasets, "--jobs", 1)
    for name in ("emergence.json", "emergence.csv", "early.png"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


def test_no_signal_has_no_onset(tmp_path):
    figures = study(tmp_path / "out", stacked(tmp_path, signal_from=None))["traits"]["planted"]["probes"]
    for probe in figures.values():
        assert probe["kappa"]["onset"] is None
        assert not any(probe["kappa"]["clears"])
        assert probe["kappa"]["onset_interval"][1] is None
        assert max(map(abs, probe["kappa"]["value"])) < 0.35


def test_what_the_words_already_tell_is_no_emergence(tmp_path):
    content = study(tmp_path / "out", stacked(tmp_path, leak_words=True))
    entry = content["traits"]["planted"]
    assert entry["floors"]["tfidf"]["kappa"]["value"] > 0.9
    assert entry["probes"]["logistic"]["kappa"]["value"][-1] > 0.5
    assert entry["probes"]["logistic"]["kappa"]["onset"] is None


def test_only_one_layer_above_the_floors_is_no_onset():
    clears = np.array([[0, 1, 0, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1]], bool)
    assert first_of_two(clears).tolist() == [3, 0, 5]


def test_half_maximum_by_hand():
    curves = np.array([[0.0, 0.2, 0.6, 0.4], [0.5, 0.6, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])
    positions = half_maximum_position(curves, np.array([0.2, 0.0, 0.3]))
    np.testing.assert_allclose(
        positions, [1.5, 0.0, np.nan]
    )  # (0.2 + 0.6) / 2 = 0.4 lies between 0.2 and 0.6


def test_band_has_the_width_of_the_largest_of_independent_normals():
    rng = np.random.default_rng(0)
    spread = np.array([0.5, 1.0, 2.0, 1.0, 3.0, 0.1])
    resampled = rng.normal(size=(40_000, 6)) * spread
    expected = scipy.stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2)  # P(all six |z| below c) = 0.95
    low, high = Curve(np.zeros(6), resampled).band()
    np.testing.assert_allclose(high, expected * spread, rtol=0.02)
    np.testing.assert_allclose(low, -high)


@pytest.mark.slow
def test_band_covers_whole_curves_at_the_nominal_rate():
    """Correlated accuracies of 8 layers on 150 groups of 2 rows, 250 worlds: nominal 0.95."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(150), 2)
    truth = np.linspace(0.3, 0.8, 8)
    covered = 0
    for _ in range(250):
        ease = rng.normal(size=150)[groups, None] + 0.7 * rng.normal(size=(300, 8))
        right = ease < np.sqrt(1 + 0.49) * scipy.stats.norm.ppf(truth)  # [n, layers]
        weights = group_bootstrap(groups, 300, rng)
        value, resampled = right.mean(axis=0), weights @ right / weights.sum(axis=1, keepdims=True)
        low, high = Curve(value, resampled).band()
        covered += ((low <= truth) & (truth <= high)).all()
    assert 0.9 <= covered / 250 <= 0.98


def test_shuffling_keeps_groups_together():
    groups = np.repeat(np.arange(30), [1, 2, 3] * 10)
    codes = groups % 4  # all rows of a group share their label
    shuffled = permute_by_group(codes, groups, np.random.default_rng(0))
    assert sorted(shuffled) == sorted(codes)
    assert (shuffled != codes).mean() > 0.4
    assert all(len(set(shuffled[groups == group])) == 1 for group in range(30))


def write_rungs(folder, dataset, version=1, **changes):
    """What emergence reads of a stage 2 result."""
    with np.load(dataset, allow_pickle=False) as file:
        source = json.loads(str(file["metadata"]))["source"]
    ran_on = {"input_sha256": source["input_sha256"], "model": source["model"]} | changes
    folder.mkdir()
    (folder / "run.json").write_text(
        json.dumps({"format_version": version, "features_run": ran_on}), encoding="utf-8"
    )
    rungs = [(1, 8, 0.7, 0.6, 0.8), (1, 16, 0.75, 0.6, 0.85), (4, 8, np.nan, np.nan, np.nan)]
    columns = ["layer", "average_l0", "confirm_auroc", "confirm_auroc_low", "confirm_auroc_high"]
    pd.DataFrame(rungs, columns=columns).assign(auroc=0.8).to_csv(folder / "best_per_sae.csv", index=False)
    return folder


def test_single_features_are_drawn_beside_the_probes(planted, tmp_path):
    output, _, (first, second) = planted
    rungs = write_rungs(tmp_path / "results", first)
    study(tmp_path / "out", first, second, "--s2-results", rungs)
    assert (tmp_path / "out" / "early.png").read_bytes() != (output / "early.png").read_bytes()
    assert (tmp_path / "out" / "late.png").read_bytes() == (output / "late.png").read_bytes()


def failure(capsys, *arguments) -> str:
    assert emergence.main([*QUICK, *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_unsuitable_datasets_are_refused(planted, tmp_path, capsys):
    _, _, (first, second) = planted
    output = ("--output", tmp_path / "out")
    assert "hidden-to-concept with 1 layers" in failure(
        capsys, stacked(tmp_path, trait="single", layers="2"), *output
    )
    assert "two datasets are of one trait" in failure(capsys, first, first, *output)
    assert "does not exist" in failure(capsys, tmp_path / "none.npz", *output)
    assert "has 40 groups; 30 folds need at least 60" in failure(capsys, first, *output, "--folds", 30)
    foreign = write_rungs(tmp_path / "foreign", second, model="other")
    assert "none of the datasets come from" in failure(capsys, first, *output, "--s2-results", foreign)
    later = write_rungs(tmp_path / "later", first, version=2)
    assert "run.json has format_version 2" in failure(capsys, first, *output, "--s2-results", later)
    own = write_rungs(tmp_path / "own", first)
    (own / "best_per_sae.csv").unlink()
    assert "best_per_sae.csv does not exist" in failure(capsys, first, *output, "--s2-results", own)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def transferred(planted, tmp_path_factory):
    """Output folder, content and datasets of `early` with people's sentences of labels 0 and 3, whose signal
    starts at layer 4 and of which the first is also one of `early`.
    """
    folder = tmp_path_factory.mktemp("transfer")
    own = planted[2][0]
    people = stacked(folder, "--binary", "0,3", trait="people", signal_from=4, seed=7)
    with np.load(own) as ours, np.load(people) as file:
        arrays = {key: file[key] for key in file.files}
        arrays["sentences"][0] = ours["sentences"][5].upper()
    np.savez(people, **arrays)
    return folder / "out", study(folder / "out", own, "--transfer", people), (own, people)


def test_probes_trained_on_ours_are_read_on_other_sentences(transferred):
    """Difference of means and AUROC by hand; the two rows of the shared sentence's group are left out."""
    _, content, (own, people) = transferred
    other = content["traits"]["early"]["transfer"]
    with np.load(own) as ours, np.load(people) as file:
        X, y, d_model = ours["X"], ours["y"], int(ours["d_model"])
        kept = file["group"] != file["group"][0]
        theirs, labels = file["X"][kept], file["y"][kept]
    assert other["n_left_out"] == (~kept).sum() >= 1
    assert other["n_sentences"] == len(labels)
    assert (other["name"], other["classes"], other["metrics"]) == ("people", [0, 3], ["auroc"])
    figures = other["probes"]["diffmeans"]["auroc"]
    for layer, value in enumerate(figures["value"]):
        block = slice(layer * d_model, (layer + 1) * d_model)
        mean, scale = X[:, block].mean(axis=0), X[:, block].std(axis=0)
        Z, Z_theirs = (X[:, block] - mean) / scale, (theirs[:, block] - mean) / scale
        scores = Z_theirs @ (Z[y == 3].mean(axis=0) - Z[y == 0].mean(axis=0))
        assert value == pytest.approx(roc_auc_score(labels == 3, scores), abs=1e-3)
    assert set(other["floors"]) == {"majority", "length", "tfidf"}
    assert other["floors"]["majority"]["auroc"]["value"] == 0.5


def test_the_curve_on_other_sentences_has_its_own_peak(transferred):
    output, content, (_, people) = transferred
    entry = content["traits"]["early"]
    for probe in ("logistic", "ridge", "diffmeans"):
        figures = entry["transfer"]["probes"][probe]["auroc"]
        value, low = np.array(figures["value"]), np.array(figures["band_low"])
        assert (value[:4] < 0.75).all()
        assert (low[4:] > 0.9).all()
        assert figures["peak"] >= 4
        assert figures["peak_interval"][0] >= 4
        assert figures["peak_value"] == value.max()
        assert entry["probes"][probe]["auroc"]["value"][1] > 0.95
    table = pd.read_csv(output / "emergence.csv")
    curve = table[(table["sentences"] == "people") & (table["source"] == "ridge")]
    assert curve["metric"].unique().tolist() == ["auroc"]
    np.testing.assert_allclose(curve["value"], entry["transfer"]["probes"]["ridge"]["auroc"]["value"])
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert str(people) in run["inputs"]


def test_what_is_ours_does_not_depend_on_the_transfer(planted, transferred):
    without, own = planted[1]["traits"]["early"], dict(transferred[1]["traits"]["early"])
    assert own.pop("transfer")
    assert own == without
    assert (planted[0] / "early.png").read_bytes() != (transferred[0] / "early.png").read_bytes()


def test_other_sentences_with_all_labels_have_all_metrics(planted, tmp_path, capsys):
    people = stacked(tmp_path, trait="people", signal_from=1, seed=7)
    content = study(tmp_path / "out", planted[2][0], "--transfer", people, "--probes", "ridge")
    other = content["traits"]["early"]["transfer"]
    assert list(other["probes"]["ridge"]) == other["metrics"] == ["kappa", "accuracy", "auroc"]
    assert other["n_left_out"] == 0
    assert other["probes"]["ridge"]["kappa"]["value"][1] > 0.6
    output = capsys.readouterr()
    assert "early on 160 sentences of people: peak " in output.out
    assert "left out" not in output.err


def test_unsuitable_other_sentences_are_refused(planted, transferred, tmp_path, capsys):
    _, _, (first, second) = planted
    output, people = ("--output", tmp_path / "out"), transferred[2][1]
    assert "1 files of other sentences for 2 datasets" in failure(
        capsys, first, second, *output, "--transfer", people
    )
    few = stacked(tmp_path, trait="few", layers="0-3", seed=7)
    assert "has layers [0, 1, 2, 3], " in failure(capsys, first, *output, "--transfer", few)
    assert "has 0 groups with label 0 that " in failure(capsys, first, *output, "--transfer", first)
    text = tmp_path / "text.npz"
    with np.load(people) as file:
        np.savez(text, **{key: file[key] for key in file.files if key != "y"})
    assert "text.npz has no labels, so there is no curve" in failure(
        capsys, first, *output, "--transfer", text
    )
    assert not (tmp_path / "out").exists()


def test_two_labels_have_curves_and_a_caveat(tmp_path, capsys):
    path = stacked(tmp_path, "--binary", "0,3")
    entry = study(tmp_path / "out", path)["traits"]["planted"]
    assert entry["classes"] == [0, 3]
    for metrics in entry["probes"].values():
        for figures in metrics.values():
            assert figures["onset"] == 2
    for kappa, accuracy in zip(*(entry["probes"]["ridge"][name]["value"] for name in ("kappa", "accuracy"))):
        assert kappa == pytest.approx(2 * accuracy - 1, abs=0.01)  # Cohen's, of two classes in equal shares
    assert entry["caveats"][0].startswith("the sentences have the labels 0 and 3 only: kappa is unweighted")
    assert "warning: planted: the sentences have the labels 0 and 3 only" in capsys.readouterr().err
    assert metric_title("kappa", [0, 3]) == "Cohen's kappa, labels 0 and 3"


def test_kinds_of_sentences_have_their_own_curves(tmp_path, capsys):
    """The hard sentences have lost the signal of the layers before the fourth."""
    path = stacked(tmp_path, text_kinds=True, signal_from=1)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    hard = arrays["difficulty"] == "hard"
    signal = np.arange(1, 4) * arrays["d_model"]
    arrays["X"][np.ix_(hard, signal)] = arrays["X"][~hard][:, signal].mean(axis=0)
    np.savez(path, **arrays)
    entry = study(tmp_path / "out", path)["traits"]["planted"]
    plain, hard = (entry["apart"]["difficulty"][value] for value in ("plain", "hard"))
    assert plain["n_sentences"] + hard["n_sentences"] == entry["n_sentences"]
    assert list(plain["probes"]) == ["logistic"]
    of_plain, of_hard = (np.array(block["probes"]["logistic"]["auroc"]["value"]) for block in (plain, hard))
    assert (of_plain[1:] > 0.9).all()
    assert (of_hard[:4] < 0.75).all()
    assert (of_hard[4:] > 0.9).all()
    assert hard["probes"]["logistic"]["auroc"]["peak"] >= 4
    assert len(entry["apart"]["register"]) == 8
    table = pd.read_csv(tmp_path / "out" / "emergence.csv")
    assert {"all", "difficulty: hard", "register: story"} <= set(table["sentences"])
    assert "planted, difficulty hard, 80 sentences: peak " in capsys.readouterr().out


def write_collinear(path, *, n=160, n_layers=3, width=48, noise=0.0):
    """Every layer holds the four labels on four directions: as good as the labels themselves."""
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int64) % 4
    layers = [np.eye(4)[labels] @ rng.normal(size=(4, width)) for _ in range(n_layers)]
    X = np.hstack(layers) + noise * rng.normal(size=(n, n_layers * width))
    metadata = {
        "format_version": 1,
        "strategy": "hidden-to-concept",
        "task": "classification",
        "trait": "perfect",
        "source": {"input_sha256": "", "model": "synthetic"},
    }
    np.savez(
        path,
        X=X.astype(np.float32),
        y=labels,
        sentence_index=np.arange(n),
        group=np.arange(n),
        layers=np.arange(n_layers),
        d_model=np.int64(width),
        sentences=np.array([f"sentence {rng.integers(10**6)}" for _ in range(n)]),
        part=np.full(n, ""),
        metadata=np.array(json.dumps(metadata)),
    )
    return path


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_perfect_and_collinear_probe_has_its_onset(noise, tmp_path):
    path = write_collinear(tmp_path / "a.npz", noise=noise)
    figures = study(tmp_path / "out", path)["traits"]["perfect"]["probes"]
    for probe in ("logistic", "ridge", "diffmeans"):
        kappa = figures[probe]["kappa"]
        if probe == "logistic":
            assert kappa["value"] == kappa["band_low"] == kappa["band_high"] == [1.0] * 3
            assert kappa["onset"] == 0
        assert np.isfinite(np.array(kappa["band_low"], float)).all()


def test_resamples_without_an_end_class_are_drawn_again(tmp_path):
    """Six sentences a class: four resamples in a thousand lack a class, and have no AUROC for it."""
    path = write_collinear(tmp_path / "a.npz", n=24, noise=1.0)
    entry = study(tmp_path / "out", path, "--folds", 2, "--bootstrap", 3000)["traits"]["perfect"]
    for probe in entry["probes"].values():
        assert np.isfinite(np.array(probe["auroc"]["band_low"], float)).all()
    codes, groups = np.arange(16) % 4, np.arange(16)
    weights = complete_resamples(codes, groups, 1000, np.random.default_rng(0))
    plain = group_bootstrap(groups, 1000, np.random.default_rng(0))
    lacking = (plain @ np.eye(4)[codes] == 0).any(axis=1)
    assert 10 < lacking.sum() < 100
    assert (weights @ np.eye(4)[codes] > 0).all()
    np.testing.assert_array_equal(weights[~lacking], plain[~lacking])


def test_a_study_of_fewer_traits_leaves_no_old_figures(planted, tmp_path):
    output, _, (first, _) = planted
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    study(tmp_path / "out", first)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"emergence.json", "emergence.csv", "early.png", "run.json", "notes.txt"}


def test_a_probe_that_does_not_converge_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kernel_logistic, "MAX_STEPS", 1)
    study(tmp_path / "out", write_collinear(tmp_path / "a.npz", noise=1.0))
    error = capsys.readouterr().err
    assert error.count("warning: logistic regression did not converge: ") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--folds", "1"], "'1' is not a whole number, 2 or more"),
        (["--logistic-c", "0"], "'0' is not a number of at least 1e-06"),
        (["--probes", "svm"], "invalid choice"),
    ],
)
def test_senseless_options_are_refused(arguments, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        emergence.main(["a.npz", *arguments])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err
