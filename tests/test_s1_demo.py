"""The shipped SAEs and the embedded model, and Gemma Scope's configurations against sae-lens' registry."""

import json
import re
from pathlib import Path

import build_configurations
import numpy as np
import pytest
import scipy.sparse
from autoencoders.configurations import read_configurations
from extract_sae_features import main

ROOT = Path(__file__).resolve().parents[1]
S1 = ROOT / "s1_compute_all_features"
DEMO = S1 / "demo"
CONFIGURATIONS = json.loads((DEMO / "demo_configurations.json").read_text(encoding="utf-8"))
PROVENANCE = json.loads((DEMO / "provenance.json").read_text(encoding="utf-8"))


def test_shipped_saes_are_few_and_small():
    files = sorted(DEMO.rglob("params.npz"))
    assert 4 <= len(files) <= 6
    assert sum(file.stat().st_size for file in files) <= 32e6
    assert [str(f.parent.relative_to(DEMO)) for f in files] == sorted(
        sae["path"] for sae in CONFIGURATIONS["saes"]
    )
    layers = [sae["layer"] for sae in CONFIGURATIONS["saes"]]
    assert len(set(layers)) < len(layers), "one layer has two sparsities"


@pytest.mark.parametrize("sae", CONFIGURATIONS["saes"], ids=lambda sae: sae["path"])
def test_shipped_sae_has_gemma_scopes_layout(sae):
    params = np.load(DEMO / sae["path"] / "params.npz", allow_pickle=False)
    shapes = {name: params[name].shape for name in params.files}
    d_sae = sae["d_sae"]
    assert shapes == {
        "W_enc": (640, d_sae),
        "W_dec": (d_sae, 640),
        "b_enc": (d_sae,),
        "b_dec": (640,),
        "threshold": (d_sae,),
    }
    assert all(np.isfinite(params[name]).all() for name in params.files)
    assert (params["threshold"] > 0).all()
    np.testing.assert_allclose(np.linalg.norm(params["W_dec"].astype(np.float32), axis=1), 1, atol=2e-3)


def test_provenance_says_what_every_shipped_sae_is():
    assert [s["path"] for s in PROVENANCE["saes"]] == [s["path"] for s in CONFIGURATIONS["saes"]]
    own = PROVENANCE["text"]["own_sentences"]["tokens"]
    assert own <= 0.1 * PROVENANCE["tokens"]
    for sae in PROVENANCE["saes"]:
        measured = sae["held_out"]
        assert 0 < measured["explained_variance"] < 1
        assert measured["l0"] == pytest.approx(int(sae["path"].rpartition("_")[2]), abs=0.51)


@pytest.fixture(scope="module")
def demo_features(tmp_path_factory):
    """s1 with --demo on 24 shipped sentences; converts the embedded model on a new machine."""
    folder = tmp_path_factory.mktemp("demo")
    lines = (
        (ROOT / "s0_dataset_generation/expanded_data/dishonesty.csv").read_text(encoding="utf-8").splitlines()
    )
    (folder / "few.csv").write_text("\n".join(lines[:25]) + "\n", encoding="utf-8")
    assert main(["--demo", "--input", str(folder / "few.csv"), "--output", str(folder / "few_features")]) == 0
    return folder / "few_features"


@pytest.mark.slow
def test_the_embedded_default_runs_and_has_the_sparsity_it_was_trained_for(demo_features):
    run = json.loads((demo_features / "run.json").read_text(encoding="utf-8"))
    assert (run["n_sentences"], run["n_layers"], run["d_model"]) == (24, 18, 640)
    assert len(run["saes"]) == len(CONFIGURATIONS["saes"])
    assert {sae["sae_release"] for sae in run["saes"]} == {CONFIGURATIONS["release"]}
    for sae in run["saes"]:
        matrix = scipy.sparse.load_npz(demo_features / sae["file"])
        assert matrix.shape == (run["n_tokens"], sae["d_sae"])
        assert 0.5 * sae["average_l0"] < matrix.nnz / run["n_tokens"] < 2 * sae["average_l0"]


@pytest.mark.slow
def test_shipped_saes_reconstruct_the_residual_stream(demo_features):
    """Encoding, thresholds and decoder fit together: most of the variance of new sentences is explained."""
    run = json.loads((demo_features / "run.json").read_text(encoding="utf-8"))
    for sae in run["saes"]:
        x = np.load(demo_features / f"hidden_states/layer_{sae['layer']}.npz")["hidden_states"].astype(
            np.float32
        )
        params = np.load(DEMO / sae["sae_id"] / "params.npz")
        f = scipy.sparse.load_npz(demo_features / sae["file"])
        error = f @ params["W_dec"].astype(np.float32) + params["b_dec"] - x
        explained = 1 - (error**2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
        assert explained > 0.6, (sae["sae_id"], explained)


@pytest.mark.slow
def test_hidden_states_that_overflow_float16_are_stored_as_float32(demo_features):
    stored = [np.load(f)["hidden_states"] for f in (demo_features / "hidden_states").iterdir()]
    for values in stored:
        assert np.isfinite(values).all()
        assert values.dtype == (np.float32 if np.abs(values).max() > 65504 else np.float16)


def test_gemma_scope_configurations_are_the_registrys(tmp_path, capsys):
    file = S1 / "gemma_scope_16k_configurations.json"
    assert build_configurations.main(["--width", "16k", "--output", str(tmp_path / "c.json")]) == 0
    assert (tmp_path / "c.json").read_bytes() == file.read_bytes()
    assert "left out" not in capsys.readouterr().out
    saes = json.loads(file.read_text(encoding="utf-8"))["saes"]
    assert len(saes) == 135
    assert sum(sae["d_sae"] for sae in saes) == 2_211_840
    assert sum(sae["neuronpedia_id"] is not None for sae in saes) == 38
    canonical = {
        sae["layer"]: sae["average_l0"]
        for sae in saes
        if str(sae["neuronpedia_id"]).endswith("gemmascope-res-16k")
    }
    expected = [105, 102, 141, 59, 124, 68, 70, 69, 71, 73, 77, 80, 82, 84, 84, 78, 78, 77, 74, 73, 71, 70]
    expected += [72, 75, 73, 116]
    assert canonical == dict(enumerate(expected))


# Release, options, model, layers, widths, L0s (None: not checked). What sae-lens 6.54's registry holds.
RESIDUAL = [
    ("gemma-scope-9b-pt-res", "--width 16k", "google/gemma-2-9b", range(42), {16384}, None),
    ("gemma-scope-27b-pt-res", "", "google/gemma-2-27b", [10, 22, 34], {131072}, None),
    ("gemma-scope-2b-pt-res-canonical", "--width 65k", "google/gemma-2-2b", range(26), {65536}, None),
    ("gemma-scope-2-270m-pt-res-all", "--width 16k", "google/gemma-3-270m", range(18), {16384}, None),
    ("gemma-scope-2-4b-pt-res-all", "--width 16k", "google/gemma-3-4b-pt", range(34), {16384}, None),
    ("gemma-scope-2-1b-it-res", "--width 1m", "google/gemma-3-1b-it", [7, 13, 17, 22], {1048576}, None),
    (
        "gemma-scope-2-270m-pt-res",
        "--width 262k --match l0_medium$",
        "google/gemma-3-270m",
        [5, 9, 12, 15],
        {262144},
        None,
    ),
    ("gpt2-small-res-jb", "", "gpt2", range(12), {None}, None),
    ("gpt2-small-res-jb-feature-splitting", "--match _768$", "gpt2", [7], {None}, {36}),
    ("gpt2-small-res_scefr-ajt", "", "gpt2", [1, 5, 9], {None}, {0}),
    ("gpt2-small-resid-post-v5-128k", "", "gpt2", range(12), {None}, {32}),
    ("mistral-7b-res-wg", "", "mistralai/Mistral-7B-v0.1", [7, 15, 23], {None}, {74, 75, 92}),
    ("pythia-70m-deduped-res-sm", "", "EleutherAI/pythia-70m-deduped", range(6), {None}, {0}),
    ("llama_scope_lxr_8x", "", "meta-llama/Llama-3.1-8B", range(32), {None}, {50}),
    (
        "llama_scope_r1_distill",
        "--match r_800m_slimpajama",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        range(32),
        {None},
        {0},
    ),
    ("qwen-scope-3.5-27b-w80k-l50", "--width 80k", "Qwen/Qwen3.5-27B", range(64), {81920}, {50}),
    (
        "sae_bench_gemma-2-2b_topk_width-2pow14_date-1109",
        "--width 2pow14 --match trainer_0$",
        "google/gemma-2-2b",
        [5, 12, 19],
        {16384},
        {0},
    ),
    (
        "saebench_gemma-2-2b_width-2pow12_date-0108",
        "--match trainer_3",
        "google/gemma-2-2b",
        [12],
        {4096},
        {0},
    ),
    (
        "sae_bench_pythia70m_sweep_gated_ctx128_0730",
        "--match trainer_0$",
        "EleutherAI/pythia-70m-deduped",
        [3, 4],
        {None},
        {0},
    ),
    (
        "qwen2.5-7b-instruct-andyrdt",
        "",
        "Qwen/Qwen2.5-7B-Instruct",
        [3, 7, 11, 15, 19, 23, 27],
        {None},
        {0},
    ),
    ("goodfire-llama-3.1-8b-instruct", "", "meta-llama/Llama-3.1-8B-Instruct", [19], {None}, {91}),
    ("gemma-2-2b-res-matryoshka-dc", "", "google/gemma-2-2b", range(25), {None}, {40}),
]


@pytest.mark.parametrize(("release", "options", "model", "layers", "widths", "l0s"), RESIDUAL)
def test_configurations_of_residual_releases(release, options, model, layers, widths, l0s, tmp_path):
    output = tmp_path / "c.json"
    code = build_configurations.main(["--release", release, *options.split(), "--output", str(output)])
    assert code == 0
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["model"] == model
    read_here = {"gemma-scope-(2b|9b|27b)-": None, "gemma-scope-2-": "params.safetensors"}
    formats = [name for start, name in read_here.items() if re.match(start, release)]
    assert content.get("format") == (formats[0] if formats else "sae-lens")
    assert {sae["layer"] for sae in content["saes"]} == set(layers)
    assert {sae["d_sae"] for sae in content["saes"]} == widths
    assert l0s in (None, {sae["average_l0"] for sae in content["saes"]})
    assert read_configurations(output).saes  # no two share a file


def built_or_refused(release: str) -> tuple[dict, list[str]] | str:
    try:
        return build_configurations.build(release, model="any/model")
    except ValueError as error:
        return str(error)


OTHER_SITES = re.compile("mlp|att|mid|transcoder|clt|_lxa|_lxm|hook-z|temporal")


def test_every_release_of_the_registry_is_built_or_refused_for_its_reason():
    outcomes = {release: built_or_refused(release) for release in build_configurations.registry()}
    for release, outcome in outcomes.items():
        if OTHER_SITES.search(release):
            assert "which is what this stage extracts" in outcome, release
        elif isinstance(outcome, str):
            assert "have the same layer and L0" in outcome, release
        else:
            content, left_out = outcome
            places = [(sae["layer"], sae["average_l0"]) for sae in content["saes"]]
            assert len(set(places)) == len(places), release
            assert len(places) + len(left_out) == len(build_configurations.registry()[release]["saes"])
            assert min(places) >= (0, 0)
    assert not any("\n" in outcome for outcome in outcomes.values() if isinstance(outcome, str))
    assert sum(isinstance(outcome, tuple) for outcome in outcomes.values()) >= 40


def test_what_is_left_out_is_said(tmp_path, capsys):
    output = str(tmp_path / "c.json")
    assert build_configurations.main(["--release", "gpt2-small-res-jb", "--output", output]) == 0
    assert capsys.readouterr().out.endswith("; 1 left out, not after a block: blocks.0.hook_resid_pre\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--release gemma-scope-9b", "gemma-scope-9b-pt-res"),
        ("--width 17k", "no SAE for --width '17k': its widths are 131k, 16k,"),
        ("--release gpt2-small-res-jb --match layer_3", "--match 'layer_3': its widths are not in its names"),
        ("--release gemma-scope-2b-pt-mlp --width 16k", "do not read the residual stream after a block"),
        ("--release gemma-scope-2-270m-pt-att-all", "do not read the residual stream after a block"),
        ("--release gpt2-small-resid-mid-v5-32k", "do not read the residual stream after a block"),
        ("--release temporal-sae-gemma-2-2b", "its format temporal"),
        ("--release gemma-scope-2b-pt-res", "layer_12/width_16k/average_l0_22 and layer_12/width_32k"),
        ("--release sae_bench_pythia70m_sweep_topk_ctx128_0730", "L0 (unknown)"),
        ("--release saebench_gemma-2-2b_width-2pow12_date-0108", "--width or --match"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments, expected, capsys):
    assert build_configurations.main([*arguments.split(), "--output", "never.json"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error
    assert not Path("never.json").exists()


def test_a_pattern_that_is_none_is_a_wrong_argument(capsys):
    with pytest.raises(SystemExit, match="2"):
        build_configurations.main(["--match", "trainer_("])
    assert "--match: 'trainer_(' is not a regular expression" in capsys.readouterr().err
