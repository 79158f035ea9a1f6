"""doctor.py on a tiny random Gemma 2: everything in order, then one thing broken at a time."""

import json
import os
import re
import shutil
import tomllib
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import doctor
import numpy as np
import pytest
import torch
from doctor import main
from extract_sae_features import main as extract
from hub.encoder_cache import sae_repository
from language_model.model_source import ModelSource
from language_model.tokens import TokenizedSentences
from loopback_hub import Repository, talking_to_loopback
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from preflight import examination, machine_checks, size_estimates, source_checks
from preflight.computation_checks import relative_difference
from preflight.doctor_checks import CHECKS
from preflight.examination import SENTENCES, Examination, ranges, size
from preflight.machine_checks import MINIMUM_PYTHON, MINIMUM_VERSIONS, check_memory
from preflight.size_estimates import memory_needed, output_bytes
from tiny_models import write_tiny_saes
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """One line per check."""
    monkeypatch.setenv("COLUMNS", "10000")


@pytest.fixture
def labelled_csv(tmp_path):
    path = tmp_path / "honesty.csv"
    path.write_text("sentence,concept_strength_label\nThe shop was closed.,0\nShe had never gone there.,3\n")
    return path


@pytest.fixture
def examine(capsys, tiny_gemma2, tiny_saes, labelled_csv, tmp_path):
    """`run(**options)`: exit status, and `(result, detail)` by check, of the real command."""

    def run(*flags, **options):
        chosen = {
            "input": labelled_csv,
            "output": tmp_path / "out",
            "model": tiny_gemma2,
            "config": tiny_saes / "configurations.json",
            "sae-release": tiny_saes,
            "device": "cpu",
        }
        chosen |= {name.replace("_", "-"): value for name, value in options.items()}
        argv = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
        code = main([*argv, *flags])
        captured = capsys.readouterr()
        assert captured.err == ""
        header, *rows, closing = captured.out.splitlines()
        assert header.split() == ["check", "result", "detail"]
        table = {}
        for row in rows:
            name, result, detail = re.fullmatch(
                r"(.+?)\s{2,}(ok|warning|FAILED|not checked)\s+(.+)", row
            ).groups()
            table[name] = (result, detail)
        results = [result for result, _ in table.values()]
        counts = {name: results.count(name) for name in ("ok", "warning", "FAILED", "not checked")}
        assert closing == ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return code, table

    return run


def test_all_is_well(examine, tmp_path):
    code, table = examine()
    assert code == 0
    assert list(table) == [item.name for item in CHECKS]
    random = {"SAE, mean L0", "SAE, explained variance"}  # a random SAE fits no residual stream
    assert {result for name, (result, _) in table.items() if name not in random} == {"ok"}
    assert {table[name][0] for name in random} <= {"ok", "warning"}
    detail = {name: text for name, (_, text) in table.items()}
    assert "torch 2" in detail["libraries"]
    assert detail["block list"] == "model.layers: 4 blocks, d_model 32"
    assert detail["planned SAEs"] == "3 on layers 0,3 of 0-3"
    assert "id 2 (<bos>)" in detail["BOS"]
    assert "times 5.66" in detail["embedding scale"]
    assert "before the final norm" in detail["hidden states"]
    assert detail["SAE file"].startswith("layer_0/width_128/average_l0_5: d_in 32")
    assert "5 in its name" in detail["SAE, mean L0"]
    assert not (tmp_path / "out").exists(), "looking changes nothing"


@pytest.fixture
def plans(monkeypatch):
    """The plans that checks of disk space have seen."""
    seen = []
    plain = size_estimates.output_bytes
    monkeypatch.setattr(size_estimates, "output_bytes", lambda plan: seen.append(plan) or plain(plan))
    return seen


def test_mean_l0_and_disk_space_are_those_of_the_extraction(
    examine, plans, tiny_gemma2, tiny_saes, tmp_path, capsys
):
    csv = tmp_path / "built_in.csv"
    csv.write_text("sentence,concept_strength_label\n" + "".join(f'"{text}",0\n' for text in SENTENCES))
    _, before = examine(input=csv)
    arguments = ["--input", csv, "--output", tmp_path / "out", "--model", tiny_gemma2, "--device", "cpu"]
    arguments += ["--config", tiny_saes / "configurations.json", "--sae-release", tiny_saes]
    assert extract([str(a) for a in arguments]) == 0
    capsys.readouterr()
    saes = json.loads((tmp_path / "out/run.json").read_text())["saes"]
    assert before["SAE, mean L0"][1].startswith(f"{saes[0]['measured_l0']:.0f} on")

    def written(where: str) -> int:
        return sum(file.stat().st_size for file in (tmp_path / "out").glob(where))

    estimate = output_bytes(plans[0])
    assert written("residual_stream/layer_*") == pytest.approx(estimate["residual stream"], rel=0.02)
    assert written("hidden_states/*") == pytest.approx(estimate["hidden states"], rel=0.05)
    assert written("embeddings.npz") == pytest.approx(estimate["embeddings"] * 2 / 6, rel=0.05)
    assert written("sae_activations/*") == pytest.approx(
        estimate["activations"] * sum(sae["measured_l0"] for sae in saes) / (5 + 4 + 9), rel=0.1
    )
    _, after = examine(input=csv)
    assert "already there −" in after["disk space"][1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_of_short_types_passes(examine, dtype):
    code, table = examine(dtype=dtype)
    assert code == 0, table


def test_without_input_the_output_is_not_estimated(examine):
    code, table = examine(input=None, output=None)
    assert code == 0
    assert table["output folder"] == ("not checked", "needs --input or --output")
    assert table["disk space"] == ("ok", "nothing to fetch; the output's size is estimated with --input")


@pytest.mark.parametrize(
    ("decoder_scale", "named_l0", "explained", "results"),
    [(1, 32, 1, ("ok", "ok")), (0.5, 32, 0.75, ("ok", "ok")), (0.1, 100, 0.19, ("warning", "warning"))],
)
def test_an_sae_is_judged_by_its_sparsity_and_by_what_it_explains(
    examine, tmp_path, decoder_scale, named_l0, explained, results
):
    """Features that read every dimension, and its negative: x is their sum, and of each pair one fires."""
    saes = write_tiny_saes(tmp_path / "saes", layers=((3, named_l0),), d_model=32, d_sae=64)
    file = saes / f"layer_3/width_128/average_l0_{named_l0}/params.npz"
    both = np.concatenate([np.eye(32), -np.eye(32)]).astype(np.float32)  # [d_sae, d_model]
    nothing = np.zeros(64, np.float32)
    w_dec = np.float32(decoder_scale) * both
    np.savez(file, W_enc=both.T, W_dec=w_dec, b_enc=nothing, b_dec=nothing[:32], threshold=nothing)
    code, table = examine(config=saes / "configurations.json", sae_release=saes, layers="3")
    assert code == 0
    l0, variance = table["SAE, mean L0"], table["SAE, explained variance"]
    assert (l0[0], variance[0]) == results
    assert l0[1].startswith(f"32 on the built-in sentences, {named_l0} in its name")
    assert variance[1].startswith(f"{explained:.2f} on the built-in sentences; {explained:.2f} without")
    assert ("quantised" in l0[1], "quantised" in variance[1]) == (named_l0 == 100, decoder_scale == 0.1)


def only_failure(code, table, name, *expected):
    """Assert exit status 1 and that one check failed, with these words."""
    assert code == 1
    assert [key for key, (result, _) in table.items() if result == "FAILED"] == [name]
    for text in expected:
        assert text in table[name][1]


def not_checked(table) -> set[str]:
    return {name for name, (result, _) in table.items() if result == "not checked"}


def test_sae_of_another_model(examine, tmp_path):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4),), d_model=48)
    code, table = examine(config=saes / "configurations.json", sae_release=saes)
    only_failure(code, table, "SAE file", "(48, 128)", "(32, 128)", "another model")
    assert not_checked(table) == {
        "SAE, batch against single",
        "SAE, mean L0",
        "SAE, explained variance",
    }
    assert table["SAE, mean L0"][1] == "needs SAE file"


def test_truncated_params(examine, tmp_path):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4),), d_model=32)
    file = saes / "layer_1/width_128/average_l0_4/params.npz"
    file.write_bytes(file.read_bytes()[:9000])
    code, table = examine(config=saes / "configurations.json", sae_release=saes)
    only_failure(code, table, "SAE file", str(file), "truncated", "fetch it again")


def test_missing_params(examine, tmp_path, tiny_saes):
    code, table = examine(sae_release=tmp_path)
    only_failure(code, table, "SAE access", "layer_0/width_128/average_l0_5/params.npz", "--sae-release")
    assert {"SAE file", "disk space"} <= not_checked(table)


def test_sae_beyond_the_last_block(examine, tmp_path):
    saes = write_tiny_saes(tmp_path / "saes", layers=((7, 4),), d_model=32)
    code, table = examine(config=saes / "configurations.json", sae_release=saes)
    only_failure(code, table, "planned SAEs", "layer 7", "layers 0 to 3")
    assert {"model", "SAE file"} <= not_checked(table)


def test_layers_beyond_the_last_block(examine):
    only_failure(*examine(layers="2-9"), "planned SAEs", "0 to 3", "9")


def test_layers_without_saes_are_a_warning(examine):
    code, table = examine(layers="1-2")
    assert code == 0
    assert table["planned SAEs"][0] == "warning"
    assert table["SAE file"] == ("not checked", "no SAE is planned")


def without_bos(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := target / name).exists():
            content = json.loads(file.read_text())
            content.pop("bos_token", None)
            file.write_text(json.dumps(content))
    return target


def test_gemma_without_bos_fails(examine, tiny_gemma2, tmp_path):
    code, table = examine(model=without_bos(tiny_gemma2, tmp_path / "model"))
    only_failure(code, table, "BOS", "no BOS token", "tokenizer files")


def test_another_family_without_bos_is_warned(examine, tiny_gemma2, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = without_bos(tiny_gemma2, tmp_path / "model")
    (model / "model.safetensors").unlink()
    sizes = {"vocab_size": 400, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(model)
    code, table = examine(model=model)
    assert code == 0, table
    assert table["BOS"][0] == "warning"
    assert table["block list"][1] == "transformer.h: 4 blocks, d_model 32"
    assert table["embedding scale"][1].startswith("no multiple")
    assert "before the final norm" in table["hidden states"][1]


def test_two_bos_are_seen(examine, monkeypatch):
    def twice(*args):
        tokenized = plain(*args)
        ids = np.insert(tokenized.token_ids, 0, tokenized.bos_id)
        offsets = tokenized.sentence_offsets + (np.arange(len(tokenized.sentence_offsets)) > 0)
        tokens = np.insert(tokenized.tokens, 0, "<bos>")
        return TokenizedSentences(ids, tokens, offsets, tokenized.bos_id)

    plain = examination.tokenize
    monkeypatch.setattr(examination, "tokenize", twice)
    only_failure(*examine(), "BOS", "[2, 2, ", "one BOS (2)", "uv sync")


def test_no_disk_space(examine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    code, table = examine()
    only_failure(code, table, "disk space", "1 MB free", "--output", "HF_HOME")
    assert {"model", "SAE file"} <= not_checked(table)


def test_little_disk_space_is_a_warning(examine, plans, monkeypatch):
    examine()
    total = sum(output_bytes(plans[0]).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, total + 1))
    code, table = examine()
    assert code == 0
    assert table["disk space"][0] == "warning"
    assert table["disk space"][1].endswith("little margin")


def test_no_memory(examine, monkeypatch):
    monkeypatch.setattr(machine_checks, "main_memory_free", lambda: 10**5)
    code, table = examine()
    only_failure(code, table, "memory", "1 MB free", "--dtype bfloat16", "--batch-tokens")
    assert {"model", "hidden states", "BOS"} <= not_checked(table)
    assert table["SAE file"][0] == "ok"


def test_memory_of_a_gpu_holds_model_or_sae_and_main_memory_the_rest(examine, plans, monkeypatch):
    examine()
    skeleton = AutoModelForCausalLM.from_config(plans[0].config)
    weights = 4 * skeleton.num_parameters()

    def on_cuda(dtype):
        compute = replace(plans[0].compute, dtype_name=dtype)
        vars(compute)["device"] = torch.device("cuda")
        return replace(plans[0], compute=compute)

    on_device, beside = memory_needed(on_cuda("float32"), weights // 4)
    assert on_device > weights
    assert beside >= weights, "they pass through main memory"
    assert memory_needed(on_cuda("bfloat16"), weights // 4)[0] == on_device / 2
    exam = Examination(on_cuda("bfloat16"), skeleton)
    for free, expected in ((on_device, "ok"), (0.52 * on_device, "warning")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), 10**12))
        assert check_memory(exam)[0] == expected
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (on_device // 3, 10**12))
    with pytest.raises(ValueError, match=r"cuda: about .* needed, .* free: --dtype bfloat16"):
        check_memory(exam)


def test_gradients_take_memory_and_disk(examine, plans, tiny_gemma2, tiny_saes, labelled_csv, tmp_path):
    assert examine("--gradients")[0] == 0
    with_effects = plans[0]
    without = replace(with_effects, with_effects=False)
    device, beside = memory_needed(with_effects, 10**6)
    plain_device, plain_beside = memory_needed(without, 10**6)
    # 768 positions of 4 blocks with d_mlp 64, and five arrays of logits.
    n_words = with_effects.text_config.vocab_size
    assert device == 4 * 10**6 + 4 * 768 * (4 * (4 * 64 + 10 * 32) + 5 * n_words)
    assert device > plain_device
    assert beside >= plain_beside
    large = replace(with_effects, sentences=None)
    assert memory_needed(large, 1)[1] >= 2 * 4 * 128 * 32, "the decoder, twice"
    arguments = ["--input", labelled_csv, "--output", tmp_path / "out", "--model", tiny_gemma2, "--gradients"]
    arguments += [
        "--config",
        tiny_saes / "configurations.json",
        "--sae-release",
        tiny_saes,
        "--device",
        "cpu",
    ]
    assert extract([str(argument) for argument in arguments]) == 0

    def written(where: str) -> int:
        return sum(file.stat().st_size for file in (tmp_path / "out").glob(where))

    headers = 5 * 512  # of the members of two or three files, at most
    estimate = output_bytes(with_effects)
    assert 0 <= written("gradients/*") - estimate["gradients"] <= headers
    saes = json.loads((tmp_path / "out/run.json").read_text())["saes"]
    steering = 4 * 2 * 3 * 128
    assert estimate["effects"] == steering + 12 * with_effects.n_tokens * (5 + 4 + 9)
    fires = with_effects.n_tokens * sum(sae["measured_l0"] for sae in saes)
    # Attribution has an entry for each that fires, ablation at most as many.
    assert steering + 4 * fires < written("sae_effects/*") < steering + 12 * fires + 3 * 8 * 512
    assert output_bytes(without) == {
        name: n_bytes for name, n_bytes in estimate.items() if name not in ("gradients", "effects")
    }


def test_main_memory_of_this_machine():
    assert 0 < machine_checks.main_memory_free() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_large_model_on_the_cpu_is_a_warning(examine, monkeypatch):
    monkeypatch.setattr(machine_checks, "LARGE_FOR_A_CPU", 1000)
    code, table = examine()
    assert code == 0
    assert table["memory"][0] == "warning"
    assert "slow without a GPU" in table["memory"][1]


def test_output_behind_a_file(examine, tmp_path):
    (tmp_path / "file").write_text("a file where a folder is wanted")
    code, table = examine(output=tmp_path / "file" / "out")
    only_failure(code, table, "output folder", str(tmp_path / "file"), "another --output")


def test_read_only_output(examine, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(machine_checks.tempfile, "TemporaryFile", read_only)
    only_failure(*examine(), "output folder", "Read-only file system", "another --output")


def test_device_that_is_not_there(examine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, table = examine(device="cuda")
    only_failure(code, table, "device", "--device cpu")
    assert table["block list"][0] == "ok"
    assert {"memory", "model"} <= not_checked(table)


def test_old_and_missing_libraries(examine, monkeypatch):
    monkeypatch.setitem(MINIMUM_VERSIONS, "torch", "99.1")
    monkeypatch.setitem(MINIMUM_VERSIONS, "no-such-library", "1.0")
    code, table = examine()
    only_failure(code, table, "libraries", "at least 99.1", "no-such-library is not installed", "uv sync")
    assert table["model"][0] == "ok"


def test_minimum_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {r.name: str(r.specifier) for r in map(Requirement, project["dependencies"])}
    wanted = {canonicalize_name(name): specifier for name, specifier in wanted.items()}
    for name, minimum in MINIMUM_VERSIONS.items():
        assert wanted[canonicalize_name(name)] == f">={minimum}"
    assert project["requires-python"] == f">={MINIMUM_PYTHON}"


def test_attention_that_ignores_the_mask(examine, monkeypatch):
    from transformers.models.gemma2 import modeling_gemma2

    for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
        monkeypatch.setattr(modeling_gemma2, name, lambda **_: None)
    code, table = examine()
    assert code == 1
    assert table["batch against single"][0] == "FAILED"
    assert "--batch-tokens 1" in table["batch against single"][1]
    assert table["SAE, batch against single"][0] == "FAILED"
    assert table["hidden states"][0] == "ok"


def changed_stream(monkeypatch, change):
    """Let `change(key, values, model)` replace what residual_stream_batches yields."""
    plain = examination.residual_stream_batches

    def changed(model, *args):
        for rows, states in plain(model, *args):
            yield rows, {key: change(key, values, model) for key, values in states.items()}

    monkeypatch.setattr(examination, "residual_stream_batches", changed)


@pytest.mark.parametrize("weight", [0.0, 0.5], ids=["norm of weight 1", "norm of weight 1.5"])
def test_residual_stream_taken_after_the_final_norm(examine, monkeypatch, weight):
    def after_the_norm(key, values, model):
        torch.nn.init.constant_(model.model.norm.weight, weight)  # Gemma multiplies by 1 + weight
        return model.model.norm(values).detach() if key == 3 else values

    changed_stream(monkeypatch, after_the_norm)
    only_failure(*examine(), "hidden states", "block 3", "before the final norm", "uv sync")


def test_residual_stream_of_another_block(examine, monkeypatch):
    changed_stream(monkeypatch, lambda key, values, _: 1.001 * values if key == 1 else values)
    only_failure(*examine(), "hidden states", "after block 1", "1.0e-03", "uv sync")


def test_last_layer_that_is_something_else(examine, monkeypatch):
    changed_stream(monkeypatch, lambda key, values, _: values.flip(1) if key == 3 else values)
    only_failure(*examine(), "hidden states", "block 3, the last one", "before the final norm")


def test_embeddings_that_are_not_scaled(examine, monkeypatch):
    changed_stream(monkeypatch, lambda key, values, _: values / 32**0.5 if key == "embeddings" else values)
    only_failure(*examine(), "embedding scale", "times 1.00", "5.66", "uv sync")


def test_overflow(examine, monkeypatch):
    changed_stream(monkeypatch, lambda key, values, _: values * float("inf") if key == 2 else values)
    code, table = examine(dtype="float16")
    only_failure(code, table, "model", "after block 2", "not finite", "--dtype float32 or bfloat16")


def test_overflow_above_the_planned_layers_does_not_matter(examine, monkeypatch):
    changed_stream(monkeypatch, lambda key, values, _: values * float("inf") if key == 2 else values)
    code, table = examine(layers="0-1")
    assert code == 0
    assert table["hidden states"][0] == "ok"
    assert "final norm" not in table["hidden states"][1]


def test_out_of_device_memory(examine, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(ModelSource, "load_weights", full)
    only_failure(*examine(), "model", "out of memory. Tried", "--device cpu")


def test_no_block_list(examine, monkeypatch):
    def none(_):
        raise ValueError("Odd: no list of 4 blocks found")

    monkeypatch.setattr(source_checks, "decoder_and_blocks", none)
    code, table = examine()
    only_failure(code, table, "block list", "no list of 4 blocks")
    assert table["SAE file"][0] == "ok"


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_gemma2):
    """A hub with `tiny/gemma-2` and `tiny/scope`, to which this process talks: empty caches, no token."""
    scope = write_tiny_saes(tmp_path / "scope", layers=((0, 5), (3, 4)), d_model=32, d_sae=2048)
    with talking_to_loopback(monkeypatch, tmp_path) as hub:
        hub.repositories["tiny/gemma-2"] = Repository(tiny_gemma2)
        hub.repositories["tiny/scope"] = Repository(scope)
        yield hub


@pytest.fixture
def hub_options(hub, tmp_path):
    return {
        "model": "tiny/gemma-2",
        "config": hub.repositories["tiny/scope"].folder / "configurations.json",
        "sae_release": "tiny/scope",
    }


def test_gated_model(examine, hub, hub_options):
    hub.repositories["tiny/gemma-2"].access = "gated"
    code, table = examine(**hub_options)
    only_failure(
        code, table, "model access", "tiny/gemma-2 is gated", "hf auth login", hub.endpoint, "--demo"
    )
    assert table["SAE access"] == (
        "ok",
        "tiny/scope: 0 of 2 cached, access given, 2 to fetch (layers 0,3)",
    )
    assert {"model", "block list", "disk space"} <= not_checked(table)


def test_gated_saes(examine, hub, hub_options):
    hub.repositories["tiny/scope"].access = "gated"
    code, table = examine(**hub_options)
    only_failure(code, table, "SAE access", "tiny/scope is gated", "hf auth login")
    assert table["block list"][0] == "ok"


def test_missing_model(examine, hub, hub_options):
    code, table = examine(**hub_options | {"model": "tiny/none"})
    only_failure(code, table, "model access", "tiny/none is not on the hub", "--model")


def test_offline_with_nothing_cached(examine, hub, hub_options):
    code, table = examine("--local-files-only", **hub_options)
    assert code == 1
    assert not hub.requests
    for name in ("model access", "SAE access"):
        assert table[name][0] == "FAILED"
        assert "not in the local cache" in table[name][1]
        assert "run once online" in table[name][1]


def test_offline_with_a_model_cached_in_part(examine, hub, hub_options, tmp_path):
    assert examine(**hub_options)[0] == 0
    for file in (tmp_path / "hf").rglob("model.safetensors"):
        file.unlink()
    sae_repository.cache_clear()
    code, table = examine("--local-files-only", layers="0", **hub_options)
    only_failure(code, table, "model access", "tiny/gemma-2: its weights are not in", "run once online")
    assert table["SAE access"][1] == "tiny/scope: 1 of 1 cached"


def test_bytes_to_fetch_from_the_hub(examine, hub, hub_options, monkeypatch):
    needs, plain = [], machine_checks.disk_needs
    monkeypatch.setattr(machine_checks, "disk_needs", lambda *a: needs.append(plain(*a)) or needs[-1])
    code, table = examine(**hub_options)
    assert code == 0, table
    assert "access given" in table["model access"][1]
    assert "SAEs to fetch 1 MB" in table["disk space"][1]
    sent = hub.bytes_sent("model.safetensors")
    what, _, n_bytes = needs[0][0]
    assert what == "model to fetch"
    assert n_bytes == pytest.approx(sent, rel=0.1)
    assert not [r for r in hub.requests if "layer_3" in r.path and r.method == "GET"], "one SAE is enough"

    sae_repository.cache_clear()
    code, table = examine(**hub_options)
    assert code == 0, table
    assert "in the Hugging Face cache" in table["model access"][1]
    assert table["SAE access"][1] == "tiny/scope: 1 of 2 cached, access given, 1 to fetch (layers 3)"
    assert "model to fetch" not in table["disk space"][1]


def test_decoders_are_counted_where_gradients_are_planned(examine, hub, hub_options):
    def fetched(detail: str) -> int:
        return int(re.search(r"decoders to fetch (\d+) MB", detail)[1])

    code, table = examine("--gradients", **hub_options)
    assert code == 0, table
    assert table["SAE access"][1].endswith("decoders: 0 of 2 cached")
    assert fetched(table["disk space"][1]) == 1
    sae_repository.cache_clear()
    code, table = examine("--gradients", **hub_options)
    assert table["SAE access"][1].endswith("decoders: 1 of 2 cached"), "explained variance needs one"
    sae_repository.cache_clear()
    code, table = examine(**hub_options)
    assert "decoders: " not in table["SAE access"][1]
    assert "decoders to fetch" not in table["disk space"][1]


def bad_input(capsys, argv, *expected):
    assert main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for text in expected:
        assert text in captured.err


def test_bad_input_ends_with_status_2(capsys, tmp_path, tiny_gemma2, labelled_csv):
    bad_input(capsys, ["--model", tiny_gemma2], "--config")
    bad_input(capsys, ["--model", tiny_gemma2, "--config", tmp_path / "no.json"], "no.json")
    bad_input(capsys, ["--input", tmp_path / "no.csv"], "no.csv")
    labelled_csv.write_text("sentence,concept_strength_label\nA.,7\n")
    bad_input(capsys, ["--input", labelled_csv], "line 2", "'7'")
    with pytest.raises(SystemExit) as left:
        main(["--layers", "x"])
    assert left.value.code == 2


def test_sentence_longer_than_the_context_is_seen(examine, labelled_csv):
    labelled_csv.write_text("sentence,concept_strength_label\n" + "zq " * 300 + ",1\n")
    only_failure(*examine(), "disk space", "255", "sentence 0")


def test_ctrl_c(capsys, monkeypatch, tiny_gemma2, tiny_saes):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelSource, "read_config", interrupted)
    config = tiny_saes / "configurations.json"
    assert (
        main(["--model", str(tiny_gemma2), "--config", str(config), "--sae-release", str(tiny_saes)]) == 130
    )
    assert capsys.readouterr().err == "interrupted\n"


def test_long_details_are_wrapped_under_their_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    doctor.print_row("memory", "ok", "word " * 40)
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index("word")
    assert len(lines) > 1
    assert all(len(line) <= 80 for line in lines)
    assert {line[:column].strip() for line in lines[1:]} == {""}


def test_small_helpers():
    assert ranges([5, 0, 1, 2, 2, 12]) == "0-2,5,12"
    assert ranges([]) == ""
    assert (size(1), size(2.5e6), size(20.4e9)) == ("1 MB", "3 MB", "20.4 GB")
    got, expected = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])
    assert relative_difference(got, expected) == 1
    assert np.isnan(relative_difference(got * np.nan, expected))
