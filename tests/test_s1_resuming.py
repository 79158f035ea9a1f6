"""s1 in a folder that is there: what belongs to it is kept, anything else is refused by name."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from extract_sae_features import main
from input_sentences.input_file import read_input_sentences
from input_sentences.sentence_groups import sentence_groups
from language_model import fingerprint
from safetensors.torch import load_file, save_file
from tiny_models import write_tiny_saes

STAGE = Path(main.__globals__["__file__"]).parent
PARAMS = "layer_0/width_128/average_l0_5/params.npz"


@pytest.fixture(scope="module")
def labelled_csv(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "honesty.csv"
    path.write_text("sentence,concept_strength_label\nThe shop was closed.,0\nShe had never gone there.,3\n")
    return path


def arguments(csv, output, model, saes, *more) -> list[str]:
    given = ["--input", csv, "--output", output, "--model", model, "--device", "cpu"]
    given += ["--config", saes / "configurations.json", "--sae-release", saes, *more]
    return [str(argument) for argument in given]


def run(*given) -> int:
    return main(arguments(*given))


@pytest.fixture(scope="module")
def extracted(labelled_csv, tiny_gemma2, tiny_saes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "honesty_features"
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes) == 0
    return folder


@pytest.fixture
def folder(extracted, tmp_path) -> Path:
    """A finished folder, free to be changed."""
    return shutil.copytree(extracted, tmp_path / "honesty_features")


@pytest.fixture
def saes(tiny_saes, tmp_path) -> Path:
    return shutil.copytree(tiny_saes, tmp_path / "saes")


@pytest.fixture
def model(tiny_gemma2, tmp_path) -> Path:
    return shutil.copytree(tiny_gemma2, tmp_path / "model")


def refused(capsys, code, *expected):
    """Assert exit status 2 and one line on standard error that holds each of `expected`."""
    assert code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1, message
    for text in expected:
        assert text in message


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_tokenisation_is_refused_and_nothing_is_lost(
    labelled_csv, folder, tiny_gemma2, tiny_saes, capsys
):
    """As a tokenizer of another library version makes it: one token less, so all rows after it shift."""
    tokens = dict(np.load(folder / "tokens.npz"))
    tokens["token_ids"], tokens["tokens"] = tokens["token_ids"][1:], tokens["tokens"][1:]
    tokens["sentence_offsets"] = tokens["sentence_offsets"] - (tokens["sentence_offsets"] > 0)
    np.savez(folder / "tokens.npz", **tokens)
    (folder / "sae_activations/layer_0_l0_5.npz").unlink()
    before = content_of(folder)
    code = run(labelled_csv, folder, tiny_gemma2, tiny_saes)
    refused(capsys, code, str(folder / "tokens.npz"), "tokenizer", "another --output", "--overwrite")
    assert content_of(folder) == before
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes, "--overwrite") == 0


def test_a_residual_stream_of_other_rows_is_refused(labelled_csv, folder, tiny_gemma2, tiny_saes, capsys):
    file = folder / "residual_stream/layer_0.npy"
    np.save(file, np.load(file)[:-3])
    (folder / "sae_activations/layer_0_l0_5.npz").unlink()
    refused(capsys, run(labelled_csv, folder, tiny_gemma2, tiny_saes), str(file), "delete it")


def replaced_weights(saes: Path, name: str) -> None:
    arrays = dict(np.load(saes / PARAMS))
    np.savez(saes / PARAMS, **(arrays | {name: arrays[name] + 1}))


def test_replaced_weights_are_refused(labelled_csv, folder, tiny_gemma2, saes, capsys):
    replaced_weights(saes, "threshold")
    code = run(labelled_csv, folder, tiny_gemma2, saes)
    refused(capsys, code, "layer_0_l0_5.npz", "other weights", "another --output", "--overwrite")


def test_the_same_weights_elsewhere_are_the_same_sae(labelled_csv, folder, tiny_gemma2, saes, capsys):
    assert run(labelled_csv, folder, tiny_gemma2, saes) == 0
    assert "0 SAEs new" in capsys.readouterr().out


def test_a_replaced_decoder_leaves_activations_as_they_are(labelled_csv, folder, tiny_gemma2, saes, capsys):
    replaced_weights(saes, "W_dec")
    assert run(labelled_csv, folder, tiny_gemma2, saes) == 0
    assert "0 SAEs new" in capsys.readouterr().out


def test_a_folder_that_does_not_say_which_files_it_was_made_of_is_compared_by_its_encoders(
    labelled_csv, folder, tiny_gemma2, saes, capsys
):
    record = json.loads((folder / "run.json").read_text())
    for sae in record["saes"]:
        del sae["weights_id"]
    (folder / "run.json").write_text(json.dumps(record))
    assert run(labelled_csv, folder, tiny_gemma2, saes) == 0
    replaced_weights(saes, "b_enc")
    capsys.readouterr()
    refused(capsys, run(labelled_csv, folder, tiny_gemma2, saes), "layer_0_l0_5.npz", "other weights")


def test_an_unfinished_folder_is_not_completed_with_other_weights(
    labelled_csv, tiny_gemma2, saes, tmp_path, capsys
):
    broken = saes / "layer_3/width_128/average_l0_9/params.npz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:5000])
    refused(capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, saes), "truncated")
    broken.write_bytes(whole)
    replaced_weights(saes, "W_enc")
    refused(capsys, run(labelled_csv, tmp_path / "out", tiny_gemma2, saes), "layer_0_l0_5", "other weights")


def test_a_local_model_with_other_weights_is_refused(labelled_csv, model, tiny_saes, tmp_path, capsys):
    assert run(labelled_csv, tmp_path / "out", model, tiny_saes, "--layers", "0") == 0
    (model / "README.md").write_text("a note is no weight")
    assert run(labelled_csv, tmp_path / "out", model, tiny_saes, "--layers", "0") == 0
    weights = load_file(model / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"] *= 1.5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    refused(capsys, run(labelled_csv, tmp_path / "out", model, tiny_saes), "model_fingerprint", "--overwrite")


def test_of_a_large_file_of_weights_samples_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 100)
    monkeypatch.setattr(fingerprint, "STRIDE", 100)
    monkeypatch.setattr(fingerprint, "SAMPLE", 10)
    content = bytearray(1005)

    def digest(changed: int | None = None, name="model.safetensors", size=1005) -> str:
        changed_content = content.copy()
        if changed is not None:
            changed_content[changed] = 1
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / name).write_bytes(changed_content[:size])
        (folder / "config.json").write_text(str(folder))
        return fingerprint.weights_fingerprint(folder)

    assert digest() == digest() == digest(50)
    others = [digest(5), digest(105), digest(1004), digest(size=1004), digest(name="model-1.safetensors")]
    assert len({digest(), *others}) == 6


def test_a_folder_has_one_writer(labelled_csv, folder, tiny_gemma2, tiny_saes, capsys):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from twins_s1.folder_lock import only_writer\n"
            f"with only_writer(Path({str(folder / '.lock')!r}), 'x'): print(flush=True); sys.stdin.read()",
        ],
        cwd=STAGE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    before = content_of(folder)
    for more in ([], ["--overwrite"]):
        code = run(labelled_csv, folder, tiny_gemma2, tiny_saes, *more)
        refused(capsys, code, str(folder), "is being written by another process")
    assert content_of(folder) == before
    holder.communicate()
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes) == 0


def test_what_a_killed_run_was_writing_is_removed(labelled_csv, folder, tiny_gemma2, tiny_saes):
    (folder / "sae_activations/.layer_0_l0_5.npz.4711.part").write_bytes(b"half")
    assert run(labelled_csv, folder, tiny_gemma2, tiny_saes) == 0
    assert not list(folder.rglob("*.part"))


def test_the_digest_is_of_the_bytes_that_were_read(labelled_csv, tmp_path):
    sentences = read_input_sentences(shutil.copy(labelled_csv, tmp_path / "c.csv"))
    (tmp_path / "c.csv").write_text("changed while the model runs")
    assert sentences.sha256 == read_input_sentences(labelled_csv).sha256


def test_the_table_of_a_folder_is_an_input(labelled_csv, extracted, tiny_gemma2, tiny_saes, tmp_path):
    """Another model on the very sentences of a folder: its own columns are written anew, groups are kept."""
    code = run(extracted / "sentences.csv", tmp_path / "again", tiny_gemma2, tiny_saes, "--layers", "0")
    assert code == 0
    assert (tmp_path / "again/sentences.csv").read_bytes() == (extracted / "sentences.csv").read_bytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("He lied.", "He lied!"),
        ("HE  LIED.", "he lied"),
        ("Don't go.", "Dont go"),
        ("A well-known liar.", "A well known liar"),
        ("Straße!", "STRASSE"),
    ],
)
def test_the_same_words_are_one_group(one, other):
    table = pd.DataFrame({"sentence": [one, "Rain.", other], "group": ["a", "b", "c"]})
    groups = sentence_groups(table)
    assert groups[0] == groups[2] != groups[1]


def test_sentences_of_no_words_are_one_group():
    """Stage 5 sees no difference between them, so they must not be split."""
    groups = sentence_groups(pd.DataFrame({"sentence": ["?!", "…", "x"]}))
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(value, labelled_csv, tiny_gemma2, tmp_path, capsys):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4),), d_model=32)
    file = saes / "layer_1/width_128/average_l0_4/params.npz"
    arrays = dict(np.load(file))
    arrays["b_enc"][7] = value
    np.savez(file, **arrays)
    code = run(labelled_csv, tmp_path / "out", tiny_gemma2, saes)
    refused(capsys, code, "layer_1/width_128/average_l0_4", "not finite", "--dtype float32")
    assert not list((tmp_path / "out/sae_activations").glob("*"))


def test_a_feature_far_below_its_threshold_is_silent_not_an_error(labelled_csv, tiny_gemma2, tmp_path):
    saes = write_tiny_saes(tmp_path / "saes", layers=((1, 4),), d_model=32)
    file = saes / "layer_1/width_128/average_l0_4/params.npz"
    arrays = dict(np.load(file))
    arrays["b_enc"][7] = -np.inf
    np.savez(file, **arrays)
    assert run(labelled_csv, tmp_path / "out", tiny_gemma2, saes) == 0
    written = scipy.sparse.load_npz(tmp_path / "out/sae_activations/layer_1_l0_4.npz")
    assert written[:, [7]].nnz == 0
