"""s1 against sae-lens' own loader and one sentence at a time, on a tiny random Gemma 2."""

import json
import re
import shutil
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from autoencoders.configurations import SaeEntry
from autoencoders.jump_relu import JumpReluEncoder, read_encoder
from extract_sae_features import main
from extraction import sae_pass
from extraction.sae_pass import LayerTokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from input_sentences.input_file import read_input_sentences
from input_sentences.sentence_groups import sentence_groups
from language_model.model_source import ModelSource, load_model
from language_model.residual_stream import EMBEDDINGS, decoder_and_blocks, residual_stream_batches
from language_model.tokens import pack_batches, tokenize
from output_folder import arrays
from output_folder.arrays import (
    CsrWriter,
    create_rows,
    finish_rows,
    row_chunks,
    write_half_if_finite,
    write_rows,
)
from tiny_models import write_tiny_saes

SENTENCES = [
    "I told my sister that the shop was closed.",
    "No.",
    "The nurse counted the tablets twice, and " * 12 + "went home.",
    "Ein 🦜 sagt 中文, naïve!",
    "She divided the money evenly, although nobody would have noticed.",
    "x",
    "He shouted at the referee until the whole team had gone.",
    "  leading blanks and \ttabs",
]


@pytest.fixture(scope="module")
def labelled_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "honesty.csv"
    frame = pd.DataFrame({"sentence": SENTENCES, "concept_strength_label": [0, 1, 2, 3] * 2, "note": "kept"})
    frame.to_csv(path, index=False)
    return path


def run(labelled_csv, output, model, saes, *more):
    arguments = ["--input", labelled_csv, "--output", output, "--model", model, "--device", "cpu"]
    arguments += ["--config", saes / "configurations.json", "--sae-release", saes]
    return main([str(a) for a in [*arguments, *more]])


@pytest.fixture(scope="module")
def extracted(labelled_csv, tiny_gemma2, tiny_saes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "honesty_features"
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--batch-tokens", "64") == 0
    return folder


@pytest.fixture(scope="module")
def model_and_tokenizer(tiny_gemma2):
    return load_model(str(tiny_gemma2), dtype=torch.float32, device=torch.device("cpu"))


def one_by_one(model, tokenizer):
    """The oracle: each sentence alone, block outputs by plain hooks, BOS cut off; [T, d_model] per layer."""
    outputs = {layer: [] for layer in range(len(model.model.layers))}
    embeddings = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out, layer=layer: outputs[layer].append(out[0, 1:]))
        for layer, block in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for sentence in SENTENCES:
            ids = [tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False).input_ids]
            model.model(input_ids=torch.tensor([ids]))
            embeddings.append(model.model.embed_tokens(torch.tensor(ids[1:])))
    for handle in handles:
        handle.remove()
    return {layer: torch.cat(states) for layer, states in outputs.items()}, torch.cat(embeddings)


def test_hidden_states_equal_single_sentences_before_the_final_norm(extracted, model_and_tokenizer):
    states, _ = one_by_one(*model_and_tokenizer)
    for layer, expected in states.items():
        got = np.load(extracted / f"hidden_states/layer_{layer}.npz")["hidden_states"]
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_activations_equal_sae_lens_encode_for_every_sae(extracted, model_and_tokenizer, tiny_saes):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    states, _ = one_by_one(*model_and_tokenizer)
    for entry in json.loads((extracted / "run.json").read_text())["saes"]:
        params = np.load(tiny_saes / entry["sae_id"] / "params.npz")
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=32, d_sae=128, apply_b_dec_to_input=False))
        sae.load_state_dict({name: torch.from_numpy(params[name]) for name in params})
        expected = sae.encode(states[entry["layer"]]).detach().numpy()  # [T, d_sae]
        got = scipy.sparse.load_npz(extracted / entry["file"])
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.toarray() > 0, expected > 0)
        np.testing.assert_allclose(got.toarray(), expected, rtol=1e-5, atol=1e-5)
        assert entry["measured_l0"] == pytest.approx((expected > 0).sum() / len(expected), abs=1e-3)
        assert entry["share_of_features_firing"] == pytest.approx((expected > 0).any(axis=0).mean(), abs=1e-5)


def test_embeddings_are_what_enters_block_0(extracted, model_and_tokenizer):
    model, _ = model_and_tokenizer
    _, table = one_by_one(*model_and_tokenizer)
    got = np.load(extracted / "embeddings.npz")["embeddings"].astype(np.float32)
    # Whether embed_tokens already multiplies by sqrt(d_model) depends on the transformers version.
    raw = model.model.embed_tokens.weight[np.load(extracted / "tokens.npz")["token_ids"].astype(int)]
    np.testing.assert_allclose(got, raw.detach() * np.sqrt(32), rtol=2e-3, atol=2e-3)
    assert table.shape == got.shape


def test_tokens_have_no_special_token_and_join_to_the_sentences(extracted, model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    tokens = np.load(extracted / "tokens.npz", allow_pickle=False)
    assert not set(tokens["token_ids"]) & {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    }
    assert tokens["token_ids"].dtype == np.int32
    assert tokens["sentence_offsets"].dtype == np.int64
    for index, sentence in enumerate(SENTENCES):
        start, stop = tokens["sentence_offsets"][index : index + 2]
        texts = [t for t in tokens["tokens"][start:stop] if not t.startswith("<0x")]
        assert "".join(texts) == sentence
    table = pd.read_csv(extracted / "sentences.csv")
    assert list(table.columns) == [
        "sentence_index",
        "sentence",
        "concept_strength_label",
        "n_tokens",
        "note",
        "group",
    ]
    np.testing.assert_array_equal(table["n_tokens"], np.diff(tokens["sentence_offsets"]))


def test_batch_size_does_not_change_the_support(labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path):
    assert run(labelled_csv, tmp_path / "big", tiny_gemma2, tiny_saes, "--batch-tokens", "5000") == 0
    for file in (extracted / "sae_activations").iterdir():
        small, big = (scipy.sparse.load_npz(f) for f in (file, tmp_path / "big/sae_activations" / file.name))
        np.testing.assert_array_equal(small.indices, big.indices)
        np.testing.assert_allclose(small.data, big.data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "lost", ["sae_activations", "hidden_states/layer_1.npz", "run.json", "embeddings.npz"]
)
def test_an_interrupted_run_ends_with_the_same_bytes(
    lost, labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path
):
    folder = tmp_path / "again"
    shutil.copytree(extracted, folder)
    lost_path = folder / lost
    shutil.rmtree(lost_path) if lost_path.is_dir() else lost_path.unlink()
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--batch-tokens", "64") == 0
    for file in extracted.rglob("*.npz"):
        assert (folder / file.relative_to(extracted)).read_bytes() == file.read_bytes(), file
    assert not (folder / "scratch").exists()
    saes = [json.loads((where / "run.json").read_text())["saes"] for where in (extracted, folder)]
    assert saes[0] == saes[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed_after",
    [
        "sae_activations/layer_0_l0_5.npz",
        "scratch/layer_3_l0_4.json",
        "hidden_states/layer_1.npz",
        "residual_stream/layer_3.npy",
        "residual_stream/embeddings.npy",
        "tokens.npz",
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    killed_after, labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path
):
    folder = tmp_path / "killed"
    more = ("--batch-tokens", "64")
    arguments = [
        "--input",
        labelled_csv,
        "--output",
        folder,
        "--model",
        tiny_gemma2,
        "--device",
        "cpu",
        *more,
    ]
    arguments += ["--config", tiny_saes / "configurations.json", "--sae-release", tiny_saes]
    # Writing `killed_after` kills the process as `kill -9` would: no handler runs, no buffer is flushed.
    script = f"""
import os, sys
replace = os.replace
def replace_then_die(source, target):
    replace(source, target)
    if str(target).endswith({killed_after!r}):
        os.kill(os.getpid(), 9)
os.replace = replace_then_die
import extract_sae_features
sys.exit(extract_sae_features.main({[str(a) for a in arguments]!r}))
"""
    stage = Path(main.__globals__["__file__"]).parent
    killed = subprocess.run([sys.executable, "-c", script], cwd=stage, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert (folder / killed_after).exists()
    assert not (folder / "run.json").exists()
    written = (folder / killed_after).stat().st_mtime_ns if killed_after.startswith("sae") else None
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, *more) == 0
    for file in extracted.rglob("*.npz"):
        assert (folder / file.relative_to(extracted)).read_bytes() == file.read_bytes(), file
    if written:
        assert (folder / killed_after).stat().st_mtime_ns == written, "a finished SAE was encoded again"


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path):
    folder = tmp_path / "two"
    stage = Path(main.__globals__["__file__"]).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "extract_sae_features.py",
        "--input",
        labelled_csv,
        "--output",
        folder,
        "--model",
        tiny_gemma2,
    ]
    command += [
        "--config",
        tiny_saes / "configurations.json",
        "--sae-release",
        tiny_saes,
        "--batch-tokens",
        "64",
    ]
    done = subprocess.run(
        [str(part) for part in [*command, "--device", "cpu"]], cwd=stage, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 sentences") == 1
    files = {file.relative_to(extracted) for file in extracted.rglob("*.npz")}
    assert files == {file.relative_to(folder) for file in folder.rglob("*.npz")}
    for file in files:
        assert (folder / file).read_bytes() == (extracted / file).read_bytes(), file
    assert json.loads((folder / "run.json").read_text())["runs"][0]["processes"] == 2


def test_a_folder_grows_by_the_missing_sae_only(labelled_csv, tiny_gemma2, tiny_saes, tmp_path):
    folder = tmp_path / "grow"
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--layers", "0") == 0
    first = folder / "sae_activations/layer_0_l0_5.npz"
    written = first.stat().st_mtime_ns
    assert not (folder / "hidden_states/layer_3.npz").exists()
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes) == 0
    assert first.stat().st_mtime_ns == written
    record = json.loads((folder / "run.json").read_text())
    assert [(s["layer"], s["average_l0"]) for s in record["saes"]] == [(0, 5), (3, 4), (3, 9)]
    assert record["layers"] == [0, 1, 2, 3]
    assert [r["new_saes"] for r in record["runs"]] == [1, 2]


def forbid_the_model(monkeypatch):
    def load_weights(*_args, **_kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(ModelSource, "load_weights", load_weights)


def test_more_saes_are_encoded_without_the_model(
    labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path, monkeypatch
):
    configurations = json.loads((tiny_saes / "configurations.json").read_text())
    one_sae = tmp_path / "one.json"
    one_sae.write_text(json.dumps(configurations | {"saes": configurations["saes"][:1]}))
    folder = tmp_path / "grow"
    small = ("--batch-tokens", "64")
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, *small, "--config", one_sae) == 0
    forbid_the_model(monkeypatch)
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, *small) == 0
    for file in extracted.rglob("*.np[yz]"):
        assert (folder / file.relative_to(extracted)).read_bytes() == file.read_bytes(), file
    runs = json.loads((folder / "run.json").read_text())["runs"]
    assert "model" in runs[0]["seconds_by_phase"]
    assert set(runs[1]["seconds_by_phase"]) == {"hidden states", "SAEs"}


def test_a_finished_folder_is_left_alone(
    labelled_csv, tiny_gemma2, tiny_saes, extracted, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(extracted, tmp_path / "done")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    forbid_the_model(monkeypatch)
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--batch-tokens", "64") == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before
    assert "0 layers and 0 SAEs new" in capsys.readouterr().out


def test_without_its_residual_stream_a_folder_grows_by_a_second_pass(
    labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path
):
    folder = tmp_path / "lean"
    small = ("--batch-tokens", "64", "--discard-residual-stream")
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, *small, "--layers", "0") == 0
    assert not (folder / "residual_stream").exists()
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, *small) == 0
    assert not (folder / "residual_stream").exists()
    for file in extracted.rglob("*.npz"):
        assert (folder / file.relative_to(extracted)).read_bytes() == file.read_bytes(), file


def test_blocks_above_the_last_wanted_layer_are_not_computed(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    _, blocks = decoder_and_blocks(model)
    seen = []
    handles = [block.register_forward_hook(lambda *_, k=k: seen.append(k)) for k, block in enumerate(blocks)]
    tokenized = tokenize(SENTENCES[:1], tokenizer, 256)
    with torch.inference_mode():
        [(_, states)] = residual_stream_batches(model, tokenized, [1], [np.array([0])])
    for handle in handles:
        handle.remove()
    assert seen == [0, 1]
    assert set(states) == {EMBEDDINGS, 1}


def scarce_memory(monkeypatch, most_tokens):
    """Let encoding more than `most_tokens` at once fail as a full device does."""
    activations = JumpReluEncoder.activations

    def activations_if_they_fit(self, x, memory):
        if len(x) > most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return activations(self, x, memory)

    monkeypatch.setattr(JumpReluEncoder, "activations", activations_if_they_fit)


def test_chunks_are_halved_until_they_fit_the_device(
    labelled_csv, tiny_gemma2, tiny_saes, tmp_path, monkeypatch
):
    assert run(labelled_csv, tmp_path / "small", tiny_gemma2, tiny_saes, "--chunk-tokens", "4") == 0
    scarce_memory(monkeypatch, 7)
    assert run(labelled_csv, tmp_path / "halved", tiny_gemma2, tiny_saes, "--chunk-tokens", "64") == 0
    for file in (tmp_path / "small/sae_activations").iterdir():
        assert (tmp_path / "halved/sae_activations" / file.name).read_bytes() == file.read_bytes()


def test_a_device_too_small_for_one_token_is_named(
    labelled_csv, tiny_gemma2, tiny_saes, tmp_path, monkeypatch, capsys
):
    scarce_memory(monkeypatch, 0)
    code = run(labelled_csv, tmp_path / "out", tiny_gemma2, tiny_saes)
    failure(capsys, code, "cpu: not enough memory", "what is finished is kept")
    assert (tmp_path / "out/hidden_states/layer_3.npz").exists()


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            "cpu: not enough memory (CUDA out of memory.)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "main memory: not enough"),
        (MemoryError(), "main memory: not enough memory (MemoryError)"),
    ],
)
def test_a_model_that_does_not_fit_is_named(
    error, named, labelled_csv, tiny_gemma2, tiny_saes, tmp_path, monkeypatch, capsys
):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(ModelSource, "load_weights", full)
    failure(capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, tiny_saes), named)


def test_a_layer_held_on_the_device_gives_the_same_tokens(extracted):
    file = extracted / "residual_stream/layer_3.npy"
    cpu = torch.device("cpu")
    held, read = (LayerTokens(cpu, torch.float32, most).of(file) for most in (10**9, 0))
    assert torch.equal(held(5, 40), read(5, 40))
    assert torch.equal(held(0, 40), torch.from_numpy(np.load(file)[:40]))


def test_one_encoder_and_one_layer_are_on_the_device_at_a_time(
    labelled_csv, tiny_gemma2, tiny_saes, tmp_path, monkeypatch
):
    placed, rows_read = [], []
    to, read_rows = JumpReluEncoder.to, sae_pass.read_rows

    def alive(references) -> int:
        return sum(reference() is not None for reference in references)

    def to_after_the_one_before_has_gone(self, device, dtype):
        assert alive(placed) == 0
        on_device = to(self, device, dtype)
        placed.append(weakref.ref(on_device))
        return on_device

    def read_after_the_layer_before_has_gone(*args):
        assert alive(rows_read) == 0
        rows = read_rows(*args)
        rows_read.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(JumpReluEncoder, "to", to_after_the_one_before_has_gone)
    assert run(labelled_csv, tmp_path / "out", tiny_gemma2, tiny_saes) == 0
    assert len(placed) == 3
    monkeypatch.setattr(sae_pass, "read_rows", read_after_the_layer_before_has_gone)
    layer = LayerTokens(torch.device("cpu"), torch.float32, most_bytes=10**9)
    for name in ("layer_0", "layer_3", "layer_3"):
        assert layer.of(tmp_path / f"out/residual_stream/{name}.npy")(0, 2).shape == (2, 32)
    assert len(rows_read) == 2


def test_an_sae_of_another_release_is_not_taken_for_this_one(
    labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path, capsys
):
    folder = tmp_path / "copy"
    shutil.copytree(extracted, folder)
    other = shutil.copytree(tiny_saes, tmp_path / "other_release")
    for file in other.rglob("params.npz"):
        np.savez(file, **(dict(np.load(file)) | {"b_enc": np.zeros(128, np.float32)}))
    failure(
        capsys, run(labelled_csv, folder, tiny_gemma2, other), "layer_0_l0_5.npz", str(tiny_saes), str(other)
    )


def test_duplicated_encoders_are_named(labelled_csv, tiny_gemma2, tmp_path):
    saes = write_tiny_saes(tmp_path / "saes", layers=((3, 4), (3, 5)), d_model=32)
    shutil.copy(
        saes / "layer_3/width_128/average_l0_4/params.npz", saes / "layer_3/width_128/average_l0_5/params.npz"
    )
    assert run(labelled_csv, tmp_path / "out", tiny_gemma2, saes) == 0
    first, second = json.loads((tmp_path / "out/run.json").read_text())["saes"]
    assert "duplicate_of" not in first
    assert second["duplicate_of"] == first["sae_id"]


def failure(capsys, code, *expected):
    """Assert exit status 2 and one line on stderr that names each of `expected`."""
    assert code == 2
    # tqdm's bars end in a carriage return or a line of their own
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line and not re.match(r"(residual|SAEs)", line)
    ]
    assert len(lines) == 1, lines
    for text in expected:
        assert text in lines[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,concept_strength_label\na,1\n", ["line 1", "'sentence'"]),
        ("sentence,concept_strength_label\na,1\n ,2\n", ["line 3", "empty sentence"]),
        ("sentence,concept_strength_label\na,4\n", ["line 2", "'4'"]),
        ("sentence,concept_strength_label\na,1.5\n", ["line 2", "'1.5'"]),
        ("sentence,concept_strength_label\na,1\nb,2\na,1\n", ["line 4", "line 2"]),
        ("sentence,concept_strength_label\na, b,1\n", ["line 2", "quote"]),
        ("sentence,concept_strength_label\n", ["no sentence"]),
    ],
)
def test_bad_csv(content, expected, tmp_path, tiny_gemma2, tiny_saes, capsys):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    failure(capsys, run(path, tmp_path / "out", tiny_gemma2, tiny_saes), str(path), *expected)
    assert not (tmp_path / "out").exists()


def test_csv_that_is_not_utf8(tmp_path, tiny_gemma2, tiny_saes, capsys):
    path = tmp_path / "latin.csv"
    path.write_bytes("sentence,concept_strength_label\ncafé,1\n".encode("latin-1"))
    failure(capsys, run(path, tmp_path / "out", tiny_gemma2, tiny_saes), "UTF-8")


def test_sentence_longer_than_the_context(tmp_path, tiny_gemma2, tiny_saes, capsys):
    path = tmp_path / "long.csv"
    path.write_text("sentence,concept_strength_label\n" + "zq " * 300 + ",1\n")
    failure(capsys, run(path, tmp_path / "out", tiny_gemma2, tiny_saes), "255", "sentence 0")


def test_sae_of_another_model(labelled_csv, tmp_path, tiny_gemma2, capsys):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4),), d_model=48)
    failure(capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, saes), "(48, 128)", "(32, 128)")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_truncated_params_name_the_file_and_lose_nothing(labelled_csv, tmp_path, tiny_gemma2, capsys):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4), (2, 4)), d_model=32)
    broken = saes / "layer_2/width_128/average_l0_4/params.npz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    failure(capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, saes), str(broken), "truncated")
    assert (tmp_path / "out/sae_activations/layer_1_l0_4.npz").exists()
    broken.write_bytes(whole)
    assert run(labelled_csv, tmp_path / "out", tiny_gemma2, saes) == 0
    assert len(json.loads((tmp_path / "out/run.json").read_text())["saes"]) == 2


def test_params_without_threshold(labelled_csv, tmp_path, tiny_gemma2, capsys):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4),), d_model=32)
    file = saes / "layer_1/width_128/average_l0_4/params.npz"
    np.savez(file, W_enc=np.zeros((32, 128), np.float32), b_enc=np.zeros(128, np.float32))
    failure(capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, saes), str(file), "threshold")


def test_unknown_layer(labelled_csv, tmp_path, tiny_gemma2, tiny_saes, capsys):
    failure(
        capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, tiny_saes, "--layers", "2-9"), "0 to 3", "9"
    )


def test_folder_of_other_inputs_is_refused_then_overwritten(
    labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path, capsys
):
    folder = tmp_path / "copy"
    shutil.copytree(extracted, folder)
    other = tmp_path / "other.csv"
    other.write_text("sentence,concept_strength_label\nSomething else.,1\nAnd this.,3\n")
    failure(capsys, run(other, folder, tiny_gemma2, tiny_saes), "input_sha256", "--overwrite")
    failure(
        capsys, run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--dtype", "bfloat16"), "dtype", "float32"
    )
    assert run(other, folder, tiny_gemma2, tiny_saes, "--overwrite") == 0
    assert json.loads((folder / "run.json").read_text())["n_sentences"] == 2


def test_foreign_folder_is_not_touched(labelled_csv, tiny_gemma2, tiny_saes, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    code = run(labelled_csv, tmp_path / "mine", tiny_gemma2, tiny_saes, "--overwrite")
    failure(capsys, code, "not a feature folder")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_output_that_cannot_be_written(labelled_csv, tiny_gemma2, tiny_saes, tmp_path, capsys):
    (tmp_path / "file").write_text("a file where a folder is wanted")
    failure(
        capsys, run(labelled_csv, tmp_path / "file" / "out", tiny_gemma2, tiny_saes), str(tmp_path / "file")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("most_bytes", "named"), [(20_000, "residual_stream/embeddings.npy"), (90_000, "sae_activations/layer_0")]
)
def test_a_full_disk_names_the_file_and_loses_nothing(
    most_bytes, named, labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path
):
    """A limit on the size of files, as full a disk as a test can have."""
    folder = tmp_path / "full"
    arguments = ["--input", labelled_csv, "--output", folder, "--model", tiny_gemma2, "--device", "cpu"]
    arguments += ["--config", tiny_saes / "configurations.json", "--sae-release", tiny_saes]
    script = f"""
import resource, sys
import extract_sae_features
resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))
sys.exit(extract_sae_features.main({[str(a) for a in [*arguments, "--batch-tokens", "64"]]!r}))
"""
    stage = Path(main.__globals__["__file__"]).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=stage, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(rf"error: .*File too large: '{folder / named}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--batch-tokens", "64") == 0
    for file in extracted.rglob("*.npz"):
        assert (folder / file.relative_to(extracted)).read_bytes() == file.read_bytes(), file


def test_missing_model_folder_and_unknown_model(labelled_csv, tmp_path, capsys):
    code = main(
        [
            "--input",
            str(labelled_csv),
            "--output",
            str(tmp_path / "o"),
            "--model",
            "./nowhere",
            "--config",
            "x.json",
        ]
    )
    failure(capsys, code, "x.json")
    code = main(["--input", str(labelled_csv), "--output", str(tmp_path / "o"), "--model", "someone/unknown"])
    failure(capsys, code, "--config")


def test_gemma_offline_names_the_demo(labelled_csv, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    code = main(["--input", str(labelled_csv), "--output", str(tmp_path / "o"), "--local-files-only"])
    failure(capsys, code, "google/gemma-2-2b", "--local-files-only", "--demo")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 700))
def test_batches_hold_every_sentence_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    batches = pack_batches(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
        min_size=1,
        max_size=5,
    )
)
def test_any_unicode_gives_one_row_per_token(model_and_tokenizer, sentences):
    model, tokenizer = model_and_tokenizer
    tokenized = tokenize(sentences, tokenizer, 4000)
    seen = np.zeros(len(tokenized.token_ids), dtype=int)
    for rows, states in residual_stream_batches(
        model, tokenized, [3], pack_batches(tokenized.n_positions, 64)
    ):
        seen[rows] += 1
        assert states[3].shape == states[EMBEDDINGS].shape == (len(rows), 32)
        assert torch.isfinite(states[3]).all()
    assert (seen == 1).all()


def test_block_list_of_other_families():
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    for config in (
        LlamaConfig(num_hidden_layers=3, **sizes),
        Qwen2Config(num_hidden_layers=3, **sizes),
        GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2),
    ):
        model = AutoModelForCausalLM.from_config(config)
        decoder, blocks = decoder_and_blocks(model)
        assert len(blocks) == 3
        assert decoder is model.base_model


def test_no_block_list_names_what_was_found():
    from transformers import AutoModelForCausalLM, LlamaConfig

    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            num_hidden_layers=3, vocab_size=50, hidden_size=16, intermediate_size=32, num_attention_heads=2
        )
    )
    model.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match=r"list of 7 blocks.*model\.layers\[3\]"):
        decoder_and_blocks(model)


@pytest.mark.parametrize(("largest", "dtype"), [(65504.0, np.float16), (70000.0, np.float32)])
def test_hidden_states_are_float16_only_where_all_is_finite_in_it(largest, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 32)  # four rows of two at a time
    values = np.arange(22, dtype=np.float32).reshape(11, 2)
    values[10, 1] = largest
    np.save(tmp_path / "source.npy", values)
    write_half_if_finite(tmp_path / "half.npz", "hidden_states", tmp_path / "source.npy")
    written = np.load(tmp_path / "half.npz")["hidden_states"]
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, values.astype(dtype))
    np.savez(tmp_path / "numpy.npz", hidden_states=values.astype(dtype))
    assert (tmp_path / "half.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()


def test_rows_are_filled_in_any_order(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    path = tmp_path / "rows.npy"
    create_rows(path, values.shape)
    for rows in ([6, 7, 8, 0, 1], [4, 5], [2, 3]):
        write_rows(path, np.array(rows), values[rows])
    assert not path.exists()
    finish_rows(path)
    np.testing.assert_array_equal(np.load(path), values)
    np.testing.assert_array_equal(np.concatenate(list(row_chunks(path, 4))), values)


@pytest.mark.parametrize("spool_bytes", [1 << 20, 16])
def test_csr_writer_gives_what_scipy_reads(spool_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "SPOOL_BYTES", spool_bytes)
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(50, 30)) * (rng.random((50, 30)) < 0.2)
    dense[7:11] = 0
    matrix = scipy.sparse.csr_matrix(dense.astype(np.float32))
    writer = CsrWriter(30, tmp_path)
    for start in range(0, 50, 8):
        part = matrix[start : start + 8]
        writer.append(np.diff(part.indptr), part.indices, part.data)
    writer.write(tmp_path / "matrix.npz")
    written = scipy.sparse.load_npz(tmp_path / "matrix.npz")
    np.testing.assert_array_equal(written.toarray(), matrix.toarray())
    assert (written.indices.dtype, written.indptr.dtype, written.data.dtype) == (
        np.int32,
        np.int32,
        np.float32,
    )
    np.testing.assert_array_equal(writer.fires, matrix.toarray().any(axis=0))


def test_groups_join_scenarios_and_near_duplicates(tmp_path):
    path = tmp_path / "g.csv"
    path.write_text(
        "sentence,concept_strength_label,group\n"
        "The ferry left the harbour at nine in the morning.,0,ferry\n"
        "She sold the last ticket twice.,3,ferry\n"
        "The ferry left the harbour at nine in the morning!,1,other\n"
        "Rain.,0,rain\n"
    )
    groups = sentence_groups(read_input_sentences(path).table)
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] != groups[0]
    without = sentence_groups(read_input_sentences(path).table.drop(columns="group"))
    assert without[0] == without[2]
    assert len(set(without)) == 3


def test_only_encoder_arrays_are_read(tiny_saes, tmp_path):
    """A params.npz whose decoder is garbage is as good as a whole one."""
    source = tiny_saes / "layer_0/width_128/average_l0_5/params.npz"
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(tmp_path / "params.npz", "w") as part:
        for name in whole.namelist():
            part.writestr(name, b"garbage" if name == "W_dec.npy" else whole.read(name))
    entry = SaeEntry(0, 5, "", 128, None)
    np.testing.assert_array_equal(
        read_encoder(tmp_path / "params.npz", entry, 32).w_enc, np.load(source)["W_enc"]
    )
