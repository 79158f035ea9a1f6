"""steer_features.py on a tiny random Gemma 2: doses against whole forward passes, nulls, files, failures."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from autoencoders.feature_places import FeaturePlace
from extract_sae_features import main as extract
from finite_steering import steering_units
from finite_steering.continuations import DECODINGS, Pen, perplexities
from finite_steering.directions import Direction, finalist_direction, null_directions
from finite_steering.dose_response import place_among_nulls
from finite_steering.finalists import SaeActivity, activity
from finite_steering.measured_sentences import choose_sentences
from finite_steering.measured_text import neutral_files, neutral_sentences
from language_model.model_source import ModelSource, load_model
from steer_features import main
from tiny_models import write_tiny_gemma2
from twins_s1.feature_folder import open_feature_folder
from whole_passes import steered_logits

SCENES = (
    ("The shop was closed.", "He told the nurse.", "She had gone home.", "He shouted at the team."),
    ("The bakery gives bread.", "The money was found.", "I told my sister.", "She shouted at the referee."),
    ("Every Tuesday she counted.", "The whole team had gone.", "He wrote it down.", "I had shouted twice."),
)
PROMPTS = ("The shop", "My sister told the", "He")
NEUTRAL = ("The shelter was closed.", "She counted the tablets.")
ALPHAS = (-1.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_gemma2, tiny_saes):
    """A feature folder of twelve sentences in three scenes, with gradients. Do not modify."""
    home = tmp_path_factory.mktemp("steering")
    with (home / "calm.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["sentence", "concept_strength_label", "group"])
        rows.writerows((text, label, g) for g, scene in enumerate(SCENES) for label, text in enumerate(scene))
    output = home / "calm_features"
    arguments = ["--input", home / "calm.csv", "--output", output, *sources(tiny_gemma2, tiny_saes)]
    assert extract([*map(str, arguments), "--gradients"]) == 0
    return output


def sources(model, saes):
    return [
        "--model",
        model,
        "--config",
        saes / "configurations.json",
        "--sae-release",
        saes,
        "--device",
        "cpu",
    ]


def firing_features(folder, layer, average_l0):
    """Features of an SAE that fire, the most frequent first."""
    activations = scipy.sparse.load_npz(folder / f"sae_activations/layer_{layer}_l0_{average_l0}.npz")
    counts = np.diff(activations.tocsc().indptr)
    return np.argsort(-counts, kind="stable")[: (counts > 0).sum()]


@pytest.fixture(scope="module")
def inputs(folder, tmp_path_factory):
    """Two finalists of one SAE and one of another, openings, and neutral text."""
    home = tmp_path_factory.mktemp("inputs")
    first, second = firing_features(folder, 3, 9)[[1, 4]]
    rows = [(3, 9, first), (0, 5, firing_features(folder, 0, 5)[2]), (3, 9, second)]
    (home / "hand.csv").write_text(
        "layer,average_l0,feature_id,remark\n" + "".join(f"{a},{b},{c},mine\n" for a, b, c in rows)
    )
    (home / "openings.txt").write_text("\n".join(PROMPTS) + "\n\n")
    (home / "neutral.txt").write_text("\n".join(NEUTRAL) + "\n")
    return home


@pytest.fixture
def command(folder, inputs, tiny_gemma2, tiny_saes, capsys):
    """`run(output, **options)`: exit status, standard output, standard error of the real command."""

    def run(output, **options):
        chosen = {
            "features": inputs / "hand.csv",
            "input": folder,
            "output": output,
            "model": tiny_gemma2,
            "config": tiny_saes / "configurations.json",
            "sae-release": tiny_saes,
            "device": "cpu",
            "alphas": ",".join(map(str, ALPHAS)),
            "nulls": 4,
            "bootstrap": 50,
            "neutral": inputs / "neutral.txt",
            "prompts": inputs / "openings.txt",
            "continuation-tokens": 5,
        }
        chosen |= {name.replace("_", "-"): value for name, value in options.items()}
        return main([f"--{name}={value}" for name, value in chosen.items()]), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def steered(folder, inputs, tiny_gemma2, tiny_saes, tmp_path_factory):
    """The output of a whole run. Do not modify."""
    output = tmp_path_factory.mktemp("steered") / "calm_steering"
    arguments = ["--features", inputs / "hand.csv", "--input", folder, "--output", output]
    arguments += [*sources(tiny_gemma2, tiny_saes), f"--alphas={','.join(map(str, ALPHAS))}", "--nulls", 4]
    arguments += ["--bootstrap", 50, "--neutral", inputs / "neutral.txt"]
    arguments += ["--prompts", inputs / "openings.txt", "--continuation-tokens", 5]
    assert main([str(argument) for argument in arguments]) == 0
    return output


@pytest.fixture(scope="module")
def model(tiny_gemma2):
    return load_model(str(tiny_gemma2), dtype=torch.float32, device=torch.device("cpu"))


def decoder_row(saes, layer, average_l0, feature):
    params = np.load(saes / f"layer_{layer}/width_128/average_l0_{average_l0}/params.npz")
    return torch.from_numpy(params["W_dec"][feature])


def finalists(steered):
    return json.loads((steered / "run.json").read_text())["features"]


def whole_logits(network, ids, layer, change):
    return steered_logits(network, torch.tensor([ids]), layer, change)


def mean_log_prob(network, ids, layer, change):
    log_probs = whole_logits(network, ids, layer, change)[:-1].log_softmax(dim=-1)
    return log_probs.gather(1, torch.tensor(ids[1:])[:, None]).mean().item()


def sentence_ids(folder):
    arrays = np.load(folder / "tokens.npz")
    offsets = arrays["sentence_offsets"]
    return [[2, *arrays["token_ids"][a:b].tolist()] for a, b in pairwise(offsets)]


def value_of(doses, place, measure, alpha, operation="steer"):
    kept = doses[(doses["kind"] == "feature") & (doses["operation"] == operation)]
    for name in ("layer", "average_l0", "feature_id"):
        kept = kept[kept[name] == place[name]]
    (row,) = kept[(kept["measure"] == measure) & (kept["alpha"] == alpha)].itertuples()
    return row


def test_doses_are_those_of_whole_forward_passes(folder, steered, model, tiny_saes):
    network, tokenizer = model
    doses = pd.read_csv(steered / "dose_response.csv")
    labels = pd.read_csv(folder / "sentences.csv")["concept_strength_label"].to_numpy()
    texts = sentence_ids(folder)
    neutral = [[2, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in NEUTRAL]
    nothing = torch.zeros(1, 32)
    for place in finalists(steered):
        layer = place["layer"]
        row = decoder_row(tiny_saes, layer, place["average_l0"], place["feature_id"])
        for alpha in ALPHAS:
            change = alpha * place["largest_activation"] * row[None]
            moved = np.array(
                [
                    mean_log_prob(network, ids, layer, change) - mean_log_prob(network, ids, layer, nothing)
                    for ids in texts
                ]
            )
            gap = moved[labels == 3].mean() - moved[labels == 0].mean()
            found = value_of(doses, place, "log_prob_gap", alpha)
            assert found.value == pytest.approx(gap, abs=2e-5)
            assert found.low <= found.value <= found.high
            for label in range(4):
                found = value_of(doses, place, f"log_prob_label_{label}", alpha)
                assert found.value == pytest.approx(moved[labels == label].mean(), abs=2e-5)
            lost, divergence = [], []
            for ids in neutral:
                before = whole_logits(network, ids, layer, nothing)[:-1].log_softmax(dim=-1)
                after = whole_logits(network, ids, layer, change)[:-1].log_softmax(dim=-1)
                targets = torch.tensor(ids[1:])[:, None]
                lost.append((after - before).gather(1, targets).mean().item())
                divergence.append((before.exp() * (before - after)).sum(dim=-1).mean().item())
            assert value_of(doses, place, "neutral_log_prob", alpha).value == pytest.approx(
                np.mean(lost), abs=2e-5
            )
            assert value_of(doses, place, "neutral_kl", alpha).value == pytest.approx(
                np.mean(divergence), rel=1e-3, abs=1e-5
            )


def test_ablation_takes_the_contribution_away_where_the_feature_fires(folder, steered, model, tiny_saes):
    network, _ = model
    doses = pd.read_csv(steered / "dose_response.csv")
    labels = pd.read_csv(folder / "sentences.csv")["concept_strength_label"].to_numpy()
    offsets = np.load(folder / "tokens.npz")["sentence_offsets"]
    for place in finalists(steered):
        layer, l0 = place["layer"], place["average_l0"]
        file = folder / f"sae_activations/layer_{layer}_l0_{l0}.npz"
        own = torch.from_numpy(scipy.sparse.load_npz(file)[:, [place["feature_id"]]].toarray())  # [T, 1]
        assert own.max().item() == pytest.approx(place["largest_activation"])
        row = decoder_row(tiny_saes, layer, l0, place["feature_id"])
        moved = np.array(
            [
                mean_log_prob(network, ids, layer, -own[start:stop] * row)
                - mean_log_prob(network, ids, layer, torch.zeros(1, 32))
                for ids, start, stop in zip(sentence_ids(folder), offsets, offsets[1:])
            ]
        )
        gap = moved[labels == 3].mean() - moved[labels == 0].mean()
        found = value_of(doses, place, "log_prob_gap", 0, operation="ablate")
        assert found.value == pytest.approx(gap, abs=2e-5)


def test_slopes_predictions_and_places(folder, steered):
    doses = pd.read_csv(steered / "dose_response.csv")
    slopes = pd.read_csv(steered / "slopes.csv")
    labels = pd.read_csv(folder / "sentences.csv")["concept_strength_label"].to_numpy()
    assert slopes.groupby(["layer", "average_l0", "kind"]).size().to_dict() == {
        (layer, l0, kind): count
        for (layer, l0), own in {(0, 5): 1, (3, 9): 2}.items()
        for kind, count in (("feature", own), ("null_feature", 4), ("null_direction", 4))
    }
    for place in finalists(steered):
        layer, l0, feature, largest = place.values()
        gaps = [value_of(doses, place, "log_prob_gap", alpha) for alpha in (-1, 1)]
        of_sae = slopes[(slopes["layer"] == layer) & (slopes["average_l0"] == l0)]
        (row,) = of_sae[(of_sae["feature_id"] == feature) & (of_sae["kind"] == "feature")].itertuples()
        assert row.slope == pytest.approx((gaps[1].value - gaps[0].value) / 2)
        effects = np.load(folder / f"sae_effects/layer_{layer}_l0_{l0}.npz")["steering"][:, feature]
        expected = largest * (effects[labels == 3].mean() - effects[labels == 0].mean())
        assert row.predicted_slope == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert [gap.predicted for gap in gaps] == pytest.approx([-expected, expected], rel=1e-4, abs=1e-6)
        nulls = of_sae[of_sae["kind"] != "feature"]
        per_norm = (nulls["slope"] / nulls["norm"]).to_numpy()
        own = row.slope / row.norm
        assert row.percentile == pytest.approx(100 * (per_norm < own).mean())
        assert row.p_null == pytest.approx((1 + (np.abs(per_norm) >= abs(own)).sum()) / 9)
        norms = of_sae[of_sae["kind"] == "feature"]["norm"]
        np.testing.assert_allclose(nulls["norm"], norms.median(), rtol=1e-5)
        assert nulls[["percentile", "p_null"]].isna().all(axis=None)


def test_nulls_fire_about_as_often_and_have_the_finalists_norm(folder, steered, tiny_saes):
    seen = activity(scipy.sparse.load_npz(folder / "sae_activations/layer_3_l0_9.npz"))
    w_dec = torch.from_numpy(np.load(tiny_saes / "layer_3/width_128/average_l0_9/params.npz")["W_dec"])
    own = [place for place in finalists(steered) if place["layer"] == 3]
    directions = [
        Direction("feature", p["feature_id"], None, p["largest_activation"] * w_dec[p["feature_id"]])
        for p in own
    ]
    nulls = null_directions(directions, seen, w_dec, 3, seed=0)
    assert [null.kind for null in nulls] == ["null_feature"] * 3 + ["null_direction"] * 3
    assert [null.null_index for null in nulls] == list(range(6))
    median = np.median([direction.norm for direction in directions])
    for null in nulls:
        assert null.norm == pytest.approx(median, rel=1e-5)
    rates = np.log(seen.token_rate, where=seen.token_rate > 0, out=np.full(128, np.inf))
    target = np.median([rates[p["feature_id"]] for p in own])
    nearest = np.sort(np.abs(np.delete(rates, [p["feature_id"] for p in own]) - target))[14]
    for null in nulls[:3]:
        assert null.feature_id not in [p["feature_id"] for p in own]
        assert abs(rates[null.feature_id] - target) <= nearest
        unit = w_dec[null.feature_id] / w_dec[null.feature_id].norm()
        torch.testing.assert_close(null.vector / null.vector.norm(), unit)


def test_gaussian_directions_vary_as_the_decoder_rows_do():
    """Where a few dimensions are enormous, an isotropic direction of that norm wrecks all text."""
    rng = np.random.default_rng(0)
    scale = np.array([100, 10, 1, 1, 1, 1], dtype=np.float32)
    w_dec = torch.from_numpy(rng.standard_normal((500, 6), dtype=np.float32) * scale)
    seen = activity(scipy.sparse.csr_array(np.eye(500, dtype=np.float32)))
    own = Direction("feature", 0, None, w_dec[0])
    nulls = [null.vector for null in null_directions([own], seen, w_dec, 400, seed=0)[-400:]]
    of_nulls = np.stack(nulls) / np.linalg.norm(nulls, axis=1, keepdims=True)
    of_rows = w_dec.numpy() / np.linalg.norm(w_dec.numpy(), axis=1, keepdims=True)
    spread = [np.sqrt((unit**2).mean(axis=0)) for unit in (of_nulls, of_rows)]
    np.testing.assert_allclose(*spread, rtol=0.25)


def test_place_among_nulls_by_hand():
    nulls = np.array([-3.0, -1.0, 0.0, 2.0])
    assert place_among_nulls(2.5, nulls) == {"percentile": 100.0, "p_null": 2 / 5}
    assert place_among_nulls(0.0, nulls) == {"percentile": 62.5, "p_null": 1.0}
    assert place_among_nulls(-4.0, nulls) == {"percentile": 0.0, "p_null": 1 / 5}


def test_continuations_are_those_of_whole_forward_passes(steered, model, tiny_saes):
    """Openings of unequal length, all doses: without cache, one text at a time, with the same noise."""
    network, tokenizer = model
    written = json.loads((steered / "continuations.json").read_text())
    prompts = [[2, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in PROMPTS]
    assert len({len(ids) for ids in prompts}) > 1
    doses = sorted({0.0, *ALPHAS})
    assert len(written) == len(finalists(steered)) * len(PROMPTS) * len(doses) * len(DECODINGS)
    generator = torch.Generator().manual_seed(0)
    first = min(map(len, prompts))
    noise = [
        -torch.empty(len(prompts), network.config.vocab_size).exponential_(generator=generator).log()
        for _ in range(first, max(map(len, prompts)) + 5)
    ]
    found = {(w["layer"], w["feature_id"], w["prompt"], w["decoding"], w["alpha"]): w for w in written}
    for place in finalists(steered):
        layer, l0, feature, largest = place.values()
        row = decoder_row(tiny_saes, layer, l0, feature)[None]
        for p, alpha, decoding in product(range(len(PROMPTS)), doses, DECODINGS):
            ids = list(prompts[p])
            for _ in range(5):
                logits = whole_logits(network, ids, layer, alpha * largest * row)[-1]
                ids.append(int((logits + (decoding == "sampled") * noise[len(ids) - first][p]).argmax()))
            own = ids[len(prompts[p]) :]
            own = own[: own.index(1)] if 1 in own else own  # <eos>
            entry = found[layer, feature, PROMPTS[p], decoding, alpha]
            assert entry["text"] == tokenizer.decode(own, skip_special_tokens=True)
            assert entry["seed"] == (0 if decoding == "sampled" else None)
            if own:
                whole = prompts[p] + own
                log_probs = whole_logits(network, whole, layer, 0 * row)[:-1].log_softmax(dim=-1)
                chosen = log_probs.gather(1, torch.tensor(whole[1:])[:, None])[-len(own) :]
                assert entry["perplexity"] == pytest.approx((-chosen.mean()).exp().item(), rel=1e-4)
    texts = {(w["prompt"], w["decoding"], w["text"]) for w in written}
    assert len(texts) > len(PROMPTS) * len(DECODINGS)  # steering changes something


@pytest.mark.parametrize("most_rows", [1, 40])
def test_continuations_do_not_depend_on_what_is_written_beside_them(
    command, steered, tmp_path, monkeypatch, most_rows
):
    monkeypatch.setattr(steering_units, "MOST_ROWS", most_rows)
    assert command(tmp_path / "out")[0] == 0
    texts, before = (
        json.loads((folder / "continuations.json").read_text()) for folder in (tmp_path / "out", steered)
    )
    found, expected = ([text.pop("perplexity") for text in written] for written in (texts, before))
    assert texts == before
    assert np.array(found, float) == pytest.approx(np.array(expected, float), rel=1e-4, nan_ok=True)


def test_an_empty_continuation_has_no_perplexity(model):
    pens = [Pen(0, 0.0, "greedy", None), Pen(1, 0.0, "greedy", None)]
    nothing, something = perplexities(model[0], [[2, 7], [2, 8, 9]], pens, [[], [11]])
    assert nothing is None
    assert something > 1
    assert perplexities(model[0], [[2, 7]], pens[:1], [[]]) == [None]


def contents(output):
    names = ("dose_response.csv", "slopes.csv", "continuations.json")
    return {name: (output / name).read_bytes() for name in names}


def test_a_stopped_run_goes_on_to_the_same_bytes(command, steered, tmp_path, monkeypatch):
    plain = steering_units.respond
    calls = []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 19:  # nulls and finalist of the first SAE, nulls and a finalist of the second
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(steering_units, "respond", stopped)
    code, _, err = command(tmp_path / "out")
    assert (code, err.splitlines()[-1]) == (130, "interrupted; the same command goes on where it stopped")
    assert not (tmp_path / "out/run.json").exists()
    code, out, _ = command(tmp_path / "out")
    assert code == 0
    assert "3 features and 16 null directions on 12 sentences" in out
    assert len(calls) == 20  # only what was broken off
    assert contents(tmp_path / "out") == contents(steered)
    assert not (tmp_path / "out/scratch").exists()
    monkeypatch.setattr(ModelSource, "load_weights", None)  # a finished run needs no model
    assert command(tmp_path / "out")[0] == 0


def test_a_folder_belongs_to_one_run(command, steered, tmp_path):
    shutil.copytree(steered, tmp_path / "out")
    code, _, err = command(tmp_path / "out", seed=1)
    assert code == 2
    assert "was made with " in err
    assert "--overwrite" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    code, _, err = command(tmp_path / "other")
    assert (code, (tmp_path / "other/mine.txt").read_text()) == (2, "mine")
    assert "is not empty and not a steering folder" in err


def test_run_json_says_what_was_measured(steered, inputs):
    run = json.loads((steered / "run.json").read_text())
    assert run["format_version"] == 1
    assert run["trait"] == "calm"
    assert run["sentences_per_label"] == [3, 3, 3, 3]
    assert (run["groups"], run["neutral_sentences"], run["held_out"]) == (3, 2, False)
    rows = pd.read_csv(inputs / "hand.csv")
    assert {tuple(place.values())[:3] for place in run["features"]} == {
        tuple(row) for row in rows[["layer", "average_l0", "feature_id"]].to_numpy().tolist()
    }
    assert {"path", "input_sha256", "model", "model_revision", "n_tokens"} <= set(run["features_run"])


def test_a_sample_of_the_vocabulary_says_how_far_it_is_off(command, steered, tmp_path):
    """All 380 words are the default here; a run on 200 measures the same directions, and names its error."""
    exact = json.loads((steered / "run.json").read_text())
    assert (exact["words"], exact["vocabulary"], exact["vocabulary_error"]) == (32768, 380, 0)
    code, out, _ = command(tmp_path / "out", words=200)
    assert code == 0
    error = json.loads((tmp_path / "out/run.json").read_text())["vocabulary_error"]
    assert f"D within {error:.0e} of that with all words" in out
    gaps = [
        table[(table["measure"] == "log_prob_gap") & (table["operation"] == "steer")]["value"].to_numpy()
        for table in (pd.read_csv(folder / "dose_response.csv") for folder in (tmp_path / "out", steered))
    ]
    off = np.abs(gaps[0] - gaps[1])
    assert 0 < error <= off.max() + 1e-6
    assert np.isclose(off, error, atol=1e-6).any()
    assert off.max() < np.abs(gaps[1]).max() / 10
    assert np.corrcoef(*gaps)[0, 1] > 0.99


def test_held_out_sentences_only(command, folder, tmp_path):
    split = pd.DataFrame({"sentence_index": range(12), "part": ["discovery"] * 4 + ["confirmation"] * 8})
    split.to_csv(tmp_path / "split.csv", index=False)
    code, _, err = command(tmp_path / "out", split=tmp_path / "split.csv", top_n=1, nulls=1)
    assert code == 0
    assert "note: no held-out" not in err
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (run["sentence_index"], run["held_out"]) == (list(range(4, 12)), True)
    split["part"] = ["confirmation"] + ["discovery"] * 11
    split.to_csv(tmp_path / "split.csv", index=False)
    code, _, err = command(tmp_path / "out", split=tmp_path / "split.csv")
    assert code == 2
    assert "[1, 0, 0, 0] held-out sentences" in err


def test_whole_scenes_come_first():
    labels = np.array([0, 3, 0, 1, 2, 3, 0, 3])
    groups = np.array([0, 1, 2, 2, 2, 2, 3, 3])
    chosen = choose_sentences(labels, groups, None, 1, seed=0)
    assert chosen.index.tolist() == [2, 3, 4, 5]
    assert choose_sentences(labels, groups, None, 9, seed=0).index.tolist() == list(range(8))


def test_neutral_text_is_label_0_of_csvs_and_lines_of_text(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,concept_strength_label\nOne.,0\nTwo.,3\nThree.,0\n")
    (tmp_path / "b.txt").write_text("Four.\n\n")
    files = [tmp_path / "a.csv", tmp_path / "b.txt"]
    assert neutral_sentences(files, 9, seed=0) == ["One.", "Three.", "Four."]
    assert len(neutral_sentences(files, 2, seed=0)) == 2


def test_neutral_files_are_the_labelled_csvs_beside_the_input(tmp_path, folder):
    for name, header in (("a", "sentence,concept_strength_label"), ("b", "layer,average_l0"), ("c", "")):
        (tmp_path / f"{name}.csv").write_text(header)
    (tmp_path / "own.csv").write_text("sentence,concept_strength_label")
    opened = replace(open_feature_folder(folder), run={"input": str(tmp_path / "own.csv")})
    assert neutral_files(opened) == [tmp_path / "a.csv"]


def csv_of(tmp_path, *rows, header="layer,average_l0,feature_id"):
    (tmp_path / "features.csv").write_text("\n".join([header, *rows]) + "\n")
    return {"features": tmp_path / "features.csv"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t, f: csv_of(t, "3,82,1"), "has no SAE of layer 3 with L0 82"),
        (lambda t, f: csv_of(t, "3,9,128"), "feature 128 of layer 3, L0 9 does not exist"),
        (lambda t, f: csv_of(t, "3,9,x"), "3,9,x are not three whole numbers"),
        (lambda t, f: csv_of(t, "3,9", header="layer,average_l0"), "no column feature_id"),
        (lambda t, f: csv_of(t), "no feature in it"),
        (lambda t, f: csv_of(t, "3,9,1", "3,9,1"), "a second time"),
        (lambda t, f: {"features": t / "none.csv"}, "no such file"),
        (lambda t, f: {"prompts": t / "none.txt"}, "no such file; check --prompts"),
        (lambda t, f: {"neutral": t / "none.txt"}, "no such file; check --neutral"),
        (lambda t, f: {"continuation_tokens": 250}, "the model's context holds"),
        (lambda t, f: {"input": t}, "run.json does not exist"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(command, folder, tmp_path, change, expected):
    code, out, err = command(tmp_path / "out", **change(tmp_path, folder))
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert not (tmp_path / "out/dose_response.csv").exists()


def test_a_feature_that_never_fires_has_no_dose():
    seen = SaeActivity(np.array([0.5, 0]), np.array([2.0, 0]))
    w_dec = torch.eye(2)
    assert finalist_direction(FeaturePlace(3, 9, 0), seen, w_dec).vector.tolist() == [2, 0]
    with pytest.raises(ValueError, match="feature 1 of layer 3, L0 9 fires at no token"):
        finalist_direction(FeaturePlace(3, 9, 1), seen, w_dec)


def test_another_model_is_refused(command, folder, tmp_path):
    other = write_tiny_gemma2(tmp_path / "other", n_layers=2)
    code, _, err = command(tmp_path / "out", model=other)
    assert code == 2
    assert f"this run has {other}: name that model with --model or --demo" in err


@pytest.mark.parametrize("alphas", ["0,1", "nan", "1e9", "a lot"])
def test_doses_that_are_none(command, tmp_path, alphas, capsys):
    with pytest.raises(SystemExit) as ended:
        command(tmp_path / "out", alphas=alphas)
    assert ended.value.code == 2
    assert "is not a list of doses other than 0" in capsys.readouterr().err


def test_a_dose_that_overflows_keeps_what_is_finished(command, steered, tmp_path, monkeypatch):
    plain = steering_units.finalist_direction

    def infinite_second(place, seen, w_dec):
        direction = plain(place, seen, w_dec)
        if place.layer == 3:
            return Direction(direction.kind, direction.feature_id, None, direction.vector * float("inf"))
        return direction

    with monkeypatch.context() as patched:
        patched.setattr(steering_units, "finalist_direction", infinite_second)
        code, _, err = command(tmp_path / "out")
    assert code == 2
    assert "makes the model's log-probabilities not finite; use smaller ones" in err
    assert len(list((tmp_path / "out/scratch").glob("layer_0*.json"))) == 2
    assert command(tmp_path / "out")[0] == 0
    assert contents(tmp_path / "out") == contents(steered)
