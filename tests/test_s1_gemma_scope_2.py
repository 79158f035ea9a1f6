"""Tier 2: Google's SAEs of the embedded model from the hub, on loopback with small files in their layout."""

import json
import os
import re
import subprocess
from pathlib import Path

import build_configurations
import numpy as np
import pytest
import scipy.sparse
from doctor import main as doctor
from extract_sae_features import main as extract
from extraction import run_options
from loopback_hub import Repository, talking_to_loopback
from safetensors.numpy import load_file, save_file
from tiny_models import write_tiny_gemma2

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "s1_compute_all_features/gemma_scope_2_270m_16k_configurations.json"
CONTENT = json.loads(SHIPPED.read_text(encoding="utf-8"))
REPOSITORY = CONTENT["repo_id"]
D_MODEL, D_SAE = 32, 2048


def test_the_shipped_file_is_what_the_registry_gives(tmp_path):
    arguments = ["--release", REPOSITORY, "--width", "16k"]
    arguments += [
        "--match",
        "^resid_post_all/|^resid_post/.*l0_medium$",
        "--output",
        str(tmp_path / "c.json"),
    ]
    assert build_configurations.main(arguments) == 0
    assert (tmp_path / "c.json").read_bytes() == SHIPPED.read_bytes()
    places = {(sae["layer"], Path(sae["path"]).parent.name) for sae in CONTENT["saes"]}
    assert {layer for layer, folder in places if folder == "resid_post_all"} == set(range(18))
    assert {layer for layer, folder in places if folder == "resid_post"} == {5, 9, 12, 15}
    assert len(CONTENT["saes"]) == 40
    assert [sae["neuronpedia_id"] for sae in CONTENT["saes"] if sae["neuronpedia_id"]] == [
        f"gemma-3-270m/{layer}-gemmascope-2-res-16k" for layer in (5, 9, 12, 15)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An 18-layer Gemma in place of the embedded model."""
    return write_tiny_gemma2(tmp_path_factory.mktemp("model"), n_layers=18, d_model=D_MODEL)


@pytest.fixture(scope="module")
def scope(tmp_path_factory) -> Path:
    """Google's repository with all 40 SAEs, small and random."""
    folder = tmp_path_factory.mktemp("scope")
    rng = np.random.default_rng(0)
    for sae in CONTENT["saes"]:
        (folder / sae["path"]).mkdir(parents=True)
        arrays = {
            "w_enc": rng.normal(size=(D_MODEL, D_SAE)),
            "w_dec": rng.normal(size=(D_SAE, D_MODEL)),
            "b_enc": rng.normal(size=D_SAE),
            "b_dec": rng.normal(size=D_MODEL),
            "threshold": rng.uniform(0, 8, size=D_SAE),
        }
        weights = {name: array.astype(np.float32) for name, array in arrays.items()}
        save_file(weights, folder / sae["path"] / "params.safetensors")
        config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "width": D_SAE}
        config |= {"hf_hook_point_in": f"model.layers.{sae['layer']}.output", "affine_connection": False}
        (folder / sae["path"] / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch, model, scope):
    monkeypatch.setattr(run_options, "demo_model_folder", lambda: model)
    monkeypatch.setenv("COLUMNS", "10000")
    monkeypatch.chdir(tmp_path)
    with talking_to_loopback(monkeypatch, tmp_path) as hub:
        hub.repositories[REPOSITORY] = Repository(scope)
        yield hub


@pytest.fixture
def options(tmp_path):
    """The options of `run_pipeline.sh --gemma-scope-2`, with the width of the small files."""
    saes = [sae | {"d_sae": D_SAE} for sae in CONTENT["saes"]]
    (tmp_path / "c.json").write_text(json.dumps(CONTENT | {"saes": saes}))
    (tmp_path / "few.csv").write_text(
        "sentence,concept_strength_label\nThe shop was closed.,0\nShe had never gone there.,3\n"
    )
    return ["--demo", "--config", str(tmp_path / "c.json"), "--input", str(tmp_path / "few.csv")]


@pytest.mark.slow
def test_all_forty_are_fetched_and_encode_what_their_files_say(hub, options, tmp_path):
    output = tmp_path / "few_features"
    assert extract([*options, "--output", str(output)]) == 0
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert [(sae["layer"], sae["average_l0"]) for sae in run["saes"]] == [
        (sae["layer"], sae["average_l0"]) for sae in CONTENT["saes"]
    ]
    assert not any(request.authorized for request in hub.requests), "no account"
    files = hub.repositories[REPOSITORY].folder.rglob("params.safetensors")
    assert hub.bytes_sent(".safetensors") < 0.6 * sum(file.stat().st_size for file in files), "encoders only"
    for sae in run["saes"][::13]:
        params = load_file(hub.repositories[REPOSITORY].folder / sae["sae_id"] / "params.safetensors")
        x = np.load(output / f"residual_stream/layer_{sae['layer']}.npy")
        z = x @ params["w_enc"] + params["b_enc"]
        expected = np.where(z > params["threshold"], z, 0)
        np.testing.assert_allclose(
            scipy.sparse.load_npz(output / sae["file"]).toarray(), expected, rtol=1e-3, atol=1e-3
        )
    hub.requests.clear()
    assert extract([*options, "--output", str(output), "--local-files-only"]) == 0
    assert not hub.requests


@pytest.mark.parametrize("command", [extract, doctor])
def test_a_repository_that_asks_for_an_account_is_named_with_the_remedy(command, hub, options, capsys):
    hub.repositories[REPOSITORY].access = "gated"
    code = command(options)
    out, err = capsys.readouterr()
    assert code == (2 if command is extract else 1)
    said = err if command is extract else next(line for line in out.splitlines() if "FAILED" in line)
    assert f"{REPOSITORY} is gated: log in with `hf auth login`, accept its licence at" in said
    assert "Traceback" not in err
    assert not list(Path.cwd().glob("few_features/sae_activations/*"))


def test_doctor_measures_the_first_sae_and_warns_where_it_does_not_fit(hub, options, capsys):
    assert doctor(options) == 0
    rows = dict(
        re.match(r"(SAE[^ ]* ?[a-z0-9 L]*?)\s{2,}(.+)", line).groups()
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("SAE")
    )
    assert "40 to fetch (layers 0-17)" in rows["SAE access"]
    assert re.match(
        r"warning\s+\d+ on the built-in sentences, 10 in its name: .*quantised", rows["SAE, mean L0"]
    )
    assert rows["SAE, explained variance"].startswith("warning")  # its decoder is random


def pipeline(*arguments: str, path: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", ROOT / "run_pipeline.sh", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def test_the_pipeline_runs_the_embedded_model_with_these_saes(tmp_path):
    """With a `uv` that fails, it shows its first command and stops."""
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "uv").chmod(0o755)
    done = pipeline("--gemma-scope-2", "bravery", path=tmp_path)
    assert done.returncode == 3
    assert f"--demo --config {SHIPPED.name}" in done.stdout
    assert "--output ./bravery_gemma-scope-2_features" in done.stdout
    assert "--discard-residual-stream" not in done.stdout


def test_the_pipeline_refuses_two_models(tmp_path):
    done = pipeline("--gemma-scope-2", "--model", "google/gemma-2-2b", path=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --gemma-scope-2 names model and SAEs: leave out --model and --config\n"
