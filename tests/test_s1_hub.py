"""s1 against a hub on loopback: encoder-only files, caches, and each failure's cause and remedy."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders.params_file import ENCODER, params_digest, read_arrays
from extract_sae_features import main
from hub import encoder_cache, partial_files
from hub.encoder_cache import sae_repository
from hub.failures import named_failures
from hub.model_files import require_hub_file
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HTTPError
from language_model.model_source import ModelSource
from loopback_hub import READER, STRANGER, Fault, LoopbackHub, Repository, talking_to_loopback
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file
from tiny_models import write_tiny_saes
from transformers import AutoConfig

PARAMS = "layer_1/width_128/average_l0_6/params.npz"
MEMBERS = ("W_enc", "b_enc", "threshold")
STAGE = Path(encoder_cache.__file__).parents[1]
BACKOFF = [1, 2, 4, 8, 8]


@pytest.fixture
def waits(monkeypatch):
    """The seconds slept between attempts, which pass at once."""
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(tmp_path, monkeypatch, waits):
    """A hub with `tiny/scope`, to which huggingface_hub talks in this process: empty caches, no token."""
    scope = write_tiny_saes(tmp_path / "scope", layers=((1, 6), (2, 6)), d_model=32, d_sae=2048)
    with talking_to_loopback(monkeypatch, tmp_path) as hub:
        hub.repositories["tiny/scope"] = Repository(scope)
        yield hub


def encoder_file(filename=PARAMS, *, revision=None, offline=False) -> Path:
    """What a process that has just started gets."""
    sae_repository.cache_clear()
    return sae_repository("tiny/scope", revision, offline).encoder_file(filename)


def source(hub, filename=PARAMS) -> Path:
    return hub.repositories["tiny/scope"].folder / filename


def assert_same_encoder(file: Path, original: Path):
    with np.load(file, allow_pickle=False) as got, np.load(original, allow_pickle=False) as expected:
        for name in MEMBERS:
            np.testing.assert_array_equal(got[name], expected[name])


def gets(hub) -> list:
    return [request for request in hub.requests if request.method == "GET"]


def test_only_the_encoder_is_fetched_and_the_token_stays_on_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READER)
    file = encoder_file()
    assert_same_encoder(file, source(hub))
    assert set(np.load(file).files) == set(MEMBERS)
    assert hub.bytes_sent(".npz") < 0.6 * source(hub).stat().st_size
    assert {request.authorized for request in hub.requests if request.host == "hub"} == {True}
    assert {request.authorized for request in hub.requests if request.host == "storage"} == {False}


@pytest.fixture
def safetensors(hub) -> str:
    """One of the SAEs in Gemma Scope 2's layout, in which the decoder lies before the encoder; its name."""
    arrays = dict(np.load(source(hub)))
    order = ("W_dec", "b_enc", "b_dec", "W_enc", "threshold")
    save_file({name.lower(): arrays[name] for name in order}, source(hub).with_suffix(".safetensors"))
    return PARAMS.replace(".npz", ".safetensors")


def repository(offline=False):
    sae_repository.cache_clear()
    return sae_repository("tiny/scope", None, offline)


def test_of_a_safetensors_file_too_only_a_half_is_fetched(hub, safetensors):
    whole = load_file(source(hub, safetensors))
    size = source(hub, safetensors).stat().st_size
    encoder = repository().encoder_file(safetensors)
    assert hub.bytes_sent(".safetensors") < 0.6 * size
    decoder = repository().decoder_file(safetensors)
    assert hub.bytes_sent(".safetensors") < 1.1 * size
    found = load_file(encoder), load_file(decoder)
    assert [set(arrays) for arrays in found] == [{"w_enc", "b_enc", "threshold"}, {"w_dec"}]
    for arrays in found:
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, whole[name])
    hub.requests.clear()
    offline = repository(offline=True)
    assert (offline.encoder_file(safetensors), offline.decoder_file(safetensors)) == (encoder, decoder)
    assert not hub.requests


def test_a_connection_that_is_cut_within_a_tensor_is_resumed(hub, safetensors, waits):
    hub.faults.append(Fault(safetensors, host="storage", cut_after=30_000, times=3))
    encoder = load_file(repository().encoder_file(safetensors))
    np.testing.assert_array_equal(encoder["w_enc"], load_file(source(hub, safetensors))["w_enc"])


def test_a_long_header_is_read_to_its_end(hub, safetensors):
    arrays = load_file(source(hub, safetensors))
    save_file(arrays, source(hub, safetensors), metadata={"trained": "on much text " * 2000})
    assert set(load_file(repository().encoder_file(safetensors))) == {"w_enc", "b_enc", "threshold"}


@pytest.mark.parametrize("damage", ["a tensor is missing", "no header"])
def test_a_file_of_another_kind_is_fetched_whole_and_refused_by_its_reader(hub, safetensors, damage):
    file = source(hub, safetensors)
    if damage == "no header":
        file.write_bytes(b"\xff" * 100_000)
    else:
        arrays = load_file(file)
        del arrays["threshold"]
        save_file(arrays, file)
    with pytest.raises(ValueError, match="threshold is not a tensor" if "missing" in damage else "damaged"):
        read_arrays(repository().encoder_file(safetensors), ENCODER)
    assert {left.suffix for left in (repository().folder / "encoders").iterdir()} == {".lock"}


def test_bfloat16_tensors_become_float32_without_loss(tmp_path):
    file = tmp_path / "params.safetensors"
    arrays = {"w_enc": torch.randn(3, 4), "b_enc": torch.randn(4), "threshold": torch.rand(4)}
    save_torch_file({name: array.bfloat16() for name, array in arrays.items()}, file)
    for name, array in zip(ENCODER, read_arrays(file, ENCODER)):
        assert array.dtype == torch.float32
        assert torch.equal(array, arrays[name.lower()].bfloat16().float())
    before = params_digest(file)
    save_torch_file(arrays | {"b_enc": arrays["b_enc"] + 1}, file)
    assert params_digest(file) != before


def test_a_warm_cache_asks_once_for_the_commit_and_offline_for_nothing(hub):
    other = PARAMS.replace("layer_1", "layer_2")
    cold = [encoder_file(), encoder_file(other)]
    hub.requests.clear()
    sae_repository.cache_clear()
    repository = sae_repository("tiny/scope", None, False)
    assert [repository.encoder_file(name) for name in (PARAMS, other)] == cold
    assert [(request.method, request.status) for request in hub.requests] == [("HEAD", 302)]
    hub.requests.clear()
    assert [encoder_file(name, offline=True) for name in (PARAMS, other)] == cold
    commit = hub.repositories["tiny/scope"].commit
    assert [encoder_file(revision=commit, offline=offline) for offline in (True, False)] == cold[:1] * 2
    assert not hub.requests


def test_a_hub_that_fails_is_no_trouble_with_a_warm_cache(hub):
    cold = encoder_file()
    hub.faults.append(Fault(PARAMS, method="HEAD", status=503))
    assert encoder_file() == cold


def test_a_commit_that_leaves_the_weights_alone_fetches_nothing(hub):
    cold = encoder_file()
    hub.repositories["tiny/scope"].commit = "d" * 40
    hub.requests.clear()
    assert encoder_file() == cold
    assert not gets(hub)


def test_changed_weights_are_fetched_again(hub):
    encoder_file()
    hub.repositories["tiny/scope"].commit = "d" * 40
    arrays = dict(np.load(source(hub)))
    np.savez(source(hub), **(arrays | {"threshold": arrays["threshold"] + 1}))
    assert_same_encoder(encoder_file(), source(hub))


@pytest.mark.parametrize("offline", [False, True])
def test_a_whole_file_in_the_hugging_face_cache_is_used(hub, offline):
    whole = Path(hf_hub_download("tiny/scope", PARAMS))
    hub.requests.clear()
    assert encoder_file(offline=offline) == whole
    assert not gets(hub)
    if not offline:  # also under another commit, where the Hugging Face cache only links it anew
        hub.repositories["tiny/scope"].commit = "d" * 40
        assert encoder_file().resolve() == whole.resolve()
        assert not gets(hub)


def test_a_server_without_ranges_gives_the_whole_file(hub):
    hub.ignores_ranges = True
    file = encoder_file()
    assert file.read_bytes() == source(hub).read_bytes()
    assert file.is_relative_to(constants.HF_HUB_CACHE)


def test_a_compressed_file_is_fetched_whole(hub):
    np.savez_compressed(source(hub), **np.load(source(hub)))
    assert encoder_file().read_bytes() == source(hub).read_bytes()


def test_bytes_that_fail_their_checksum_are_not_kept_as_an_encoder(hub, tmp_path):
    content = bytearray(source(hub).read_bytes())
    content[5000] ^= 1  # within W_enc
    source(hub).write_bytes(content)
    assert encoder_file().is_relative_to(constants.HF_HUB_CACHE)
    assert not list((tmp_path / "ours").rglob("*.npz"))


def test_a_connection_cut_within_a_range_is_resumed_where_it_broke(hub, waits):
    undisturbed = encoder_file()
    ranges = [r.range for r in gets(hub) if r.host == "storage"]
    sent = hub.bytes_sent(".npz")
    undisturbed.unlink()
    hub.requests.clear()
    hub.faults.append(Fault(f"{PARAMS}", host="storage", cut_after=10_000, times=4))
    assert_same_encoder(encoder_file(), source(hub))
    assert waits == [1, 1, 1]  # there was progress each time, so the wait does not grow
    assert hub.bytes_sent(".npz") == sent  # and nothing twice
    again = [r.range for r in gets(hub) if r.host == "storage"]
    (directory, _), (w_enc, w_enc_end) = (r.removeprefix("bytes=").split("-") for r in ranges[:2])
    assert again[1].startswith(f"bytes={int(directory) + 10_000}-")
    assert again[2:5] == [f"bytes={int(w_enc) + skipped}-{w_enc_end}" for skipped in (0, 10_000, 20_000)]


def test_a_connection_that_never_holds_is_given_up_and_leaves_nothing(hub, waits, tmp_path):
    hub.faults.append(Fault("params.npz", host="storage", cut_after=0))
    with pytest.raises(FileNotFoundError, match=rf"tiny/scope/{PARAMS}: the connection to .*check network"):
        encoder_file()
    assert waits == BACKOFF
    assert not [p for p in (tmp_path / "ours").rglob("*") if p.suffix in (".npz", ".part")]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_passing_server_errors_are_retried_with_growing_waits(hub, waits, method):
    hub.faults.append(Fault(PARAMS, method=method, status=503, times=3))
    assert_same_encoder(encoder_file(), source(hub))
    assert waits == [1, 2, 4]


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry-After": "7"}, 7), ({"RateLimit": '"resolvers";r=0;t=41'}, 42)]
)
def test_the_wait_that_a_rate_limit_asks_for_is_kept(hub, waits, headers, seconds):
    hub.faults.append(Fault(PARAMS, status=429, headers=headers, times=2))
    assert_same_encoder(encoder_file(), source(hub))
    assert waits == [seconds, seconds]


def a_private_repository(hub):
    hub.repositories["tiny/scope"].access = "private"


def a_gated_repository(hub):
    hub.repositories["tiny/scope"].access = "gated"


def no_repository(hub):
    hub.repositories.clear()


def no_file(hub):
    source(hub).unlink()


def always(status, **headers):
    def order(hub):
        hub.faults.append(Fault("params.npz", method="HEAD", status=status, headers=headers))

    return order


def nothing(hub):
    pass


LASTING = [
    (a_gated_repository, None, None, ["is gated", "hf auth login", "licence at {endpoint}/tiny/scope"]),
    (a_gated_repository, STRANGER, None, ["is gated", "your account", "licence at {endpoint}/tiny/scope"]),
    (a_private_repository, None, None, ["not on the hub, or it is private", "hf auth login"]),
    (a_private_repository, STRANGER, None, ["not on the hub, or your token may not read it"]),
    (no_repository, STRANGER, None, ["not on the hub, or your token may not read it", "--sae-release"]),
    (nothing, "hf_expired", None, ["refuses your token", "hf auth login"]),
    (no_file, None, None, ["has no file layer_1", "at main", "--sae-release"]),
    (nothing, None, "v9", ["no revision 'v9'", "{endpoint}/tiny/scope", "--sae-release"]),
    (always(403), None, None, ["forbids reading", "(403)", "token"]),
    (always(429, **{"Retry-After": "4000"}), None, None, ["rate limit", "wait 4000 s"]),
    (always(200), None, None, ["does not answer as the hub does", "HF_ENDPOINT"]),
]
PASSING = [
    (always(429, **{"Retry-After": "20"}), None, None, ["rate limit", "(429)", "wait 20 s", "login"]),
    (always(502), None, None, ["answers 502", "5 retries", "later"]),
]


@pytest.mark.parametrize(("order", "token", "revision", "expected"), LASTING + PASSING)
def test_each_failure_of_an_sae_names_cause_and_remedy(
    hub, waits, order, token, revision, expected, monkeypatch
):
    order(hub)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(FileNotFoundError) as raised:
        encoder_file(revision=revision)
    message = str(raised.value)
    assert "\n" not in message
    for text in ["tiny/scope", *expected]:
        assert text.format(endpoint=hub.endpoint) in message
    tried_again = 5 if (order, token, revision, expected) in PASSING else 0
    assert len(waits) == tried_again
    sae_repository.cache_clear()
    repository = sae_repository("tiny/scope", revision, False)
    with pytest.raises(FileNotFoundError) as early:
        repository.require([PARAMS])
    assert str(early.value) == message  # known before the forward pass, not hours later


def test_every_sae_is_checked_before_the_run(hub):
    others = [PARAMS.replace("layer_1", f"layer_{layer}") for layer in (2, 3, 4)]
    sae_repository("tiny/scope", None, False).require([PARAMS, *others[:1]])
    assert [request.method for request in hub.requests] == ["HEAD", "HEAD"]
    with pytest.raises(FileNotFoundError, match=r"tiny/scope has no file layer_3"):
        sae_repository("tiny/scope", None, False).require([PARAMS, *others])


def test_offline_names_the_first_file_that_no_cache_has(hub):
    encoder_file()
    sae_repository.cache_clear()
    repository = sae_repository("tiny/scope", None, True)
    with pytest.raises(FileNotFoundError, match=r"layer_2.*not in the local cache.*--local-files-only"):
        repository.require([PARAMS, PARAMS.replace("layer_1", "layer_2")])


def test_no_network_is_said_after_the_retries(hub, waits, monkeypatch):
    with LoopbackHub() as gone:
        closed = gone.endpoint
    template = closed + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(FileNotFoundError, match=r"the connection to .* fails .*check network, proxy"):
        encoder_file()
    assert waits == BACKOFF


def test_a_full_disk_names_the_file_and_is_no_fault_of_the_hub(hub, monkeypatch, tmp_path):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial_files.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/ours/.*\.npz'"):
        encoder_file()


@pytest.mark.parametrize(
    ("access", "token", "revision", "fault", "expected"),
    [
        ("gated", None, None, None, ["tiny/model is gated", "hf auth login", "{endpoint}/tiny/model"]),
        ("gated", STRANGER, None, None, ["tiny/model is gated", "your account", "{endpoint}/tiny/model"]),
        ("private", None, None, None, ["tiny/model is not on the hub", "--model"]),
        ("open", None, "v9", None, ["no revision 'v9'", "--revision"]),
        ("open", None, None, Fault("config.json", method="HEAD", status=429), ["(429)", "login"]),
        ("open", None, None, Fault("config.json", method="HEAD", status=500), ["answers 500", "later"]),
        ("open", None, None, Fault("config.json", cut_after=3), ["connection", "check network"]),
    ],
)
def test_each_failure_of_a_model_names_cause_remedy_and_the_demo(
    hub, tmp_path, monkeypatch, access, token, revision, fault, expected
):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{" + 100 * " " + "}")
    hub.repositories["tiny/model"] = Repository(folder, access=access)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if fault:
        hub.ignores_ranges = True  # a resumed download starts anew, and is cut again
        hub.faults.append(fault)
    with pytest.raises(FileNotFoundError) as raised:
        require_hub_file("tiny/model", "config.json", revision, False)
    message = str(raised.value)
    assert "\n" not in message
    for text in [*expected, "--demo"]:
        assert text.format(endpoint=hub.endpoint) in message


def test_weights_that_are_not_cached_are_not_said_to_be_missing_on_the_hub(hub, tiny_gemma2):
    hub.repositories["tiny/model"] = Repository(tiny_gemma2)
    require_hub_file("tiny/model", "config.json", None, False)
    config = AutoConfig.from_pretrained("tiny/model", local_files_only=True)
    cached = ModelSource("tiny/model", "tiny/model", local_files_only=True)
    placed = {"dtype": torch.float32, "device": torch.device("cpu")}
    with pytest.raises(FileNotFoundError, match=r"its weights are not in the local cache.*run once online"):
        cached.load_weights(config, **placed)
    online = ModelSource("tiny/model", "tiny/model").load_weights(config, **placed)
    offline = cached.load_weights(config, **placed)
    assert torch.equal(online.lm_head.weight, offline.lm_head.weight)


def test_a_cut_connection_is_found_below_what_transformers_makes_of_it():
    misleading = OSError("Can't load the model. Make sure there is no folder of that name.")
    misleading.__cause__ = HTTPError("peer closed")

    def load():
        with named_failures("tiny/model", None, None, option="--model"):
            raise misleading

    with pytest.raises(FileNotFoundError, match=r"^tiny/model: the connection to .* \(peer closed\): check"):
        load()


@pytest.fixture
def extraction(hub, tmp_path, tiny_gemma2, capsys):
    """`run(*more)`: exit status, output and error of a run into one folder, its SAEs from `tiny/scope`."""
    configurations = json.loads((tmp_path / "scope/configurations.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(configurations | {"repo_id": "tiny/scope"}))
    csv = tmp_path / "s.csv"
    csv.write_text("sentence,concept_strength_label\nThe shop was closed.,0\nShe had never gone there.,3\n")

    def run(*more):
        sae_repository.cache_clear()
        given = ["--input", csv, "--output", tmp_path / "out", "--model", tiny_gemma2, "--device", "cpu"]
        code = main([str(argument) for argument in [*given, "--config", tmp_path / "c.json", *more]])
        return code, *capsys.readouterr()

    return run


def test_naming_the_repository_that_is_the_default_changes_nothing(hub, extraction):
    assert "2 SAEs new" in extraction()[1]
    hub.requests.clear()
    code, out, _ = extraction("--sae-release", "tiny/scope")
    assert code == 0
    assert "0 SAEs new" in out
    assert not gets(hub)


def test_another_revision_with_the_same_weights_is_accepted_with_others_refused(hub, extraction):
    assert extraction()[0] == 0
    for commit in ("d" * 40, "e" * 40):
        hub.repositories["tiny/scope"].commit = commit
        code, out, err = extraction("--sae-revision", commit)
        if commit == "d" * 40:
            assert (code, err) == (0, "")
            arrays = dict(np.load(source(hub)))
            np.savez(source(hub), **(arrays | {"threshold": arrays["threshold"] + 1}))
    assert (code, out) == (2, "")
    assert "layer_1_l0_6.npz" in err
    assert "with other weights" in err


def test_the_decoder_is_fetched_where_effects_are_asked_for_and_only_then(hub, extraction, tmp_path):
    half = 4 * 2 * 32 * 2048  # of the arrays of two SAEs
    assert extraction()[0] == 0
    assert hub.bytes_sent(".npz") < 1.2 * half
    hub.requests.clear()
    code, _, err = extraction("--gradients", "--local-files-only")
    assert code == 2
    assert "not in the local cache" in err
    assert not (tmp_path / "out/gradients").exists()  # said before the pass
    code, _, err = extraction("--gradients")
    assert (code, err) == (0, "")
    assert half <= hub.bytes_sent(".npz") < 1.2 * half  # and the encoders not again
    decoders = sorted(tmp_path.rglob("decoders/*.npz"))
    assert [np.load(file).files for file in decoders] == [["W_dec"]] * 2
    rows = {np.load(file)["W_dec"].tobytes() for file in decoders}
    assert rows == {
        np.load(source(hub, name))["W_dec"].tobytes() for name in (PARAMS, PARAMS.replace("_1", "_2", 1))
    }
    for file in (tmp_path / "out/sae_effects").iterdir():
        file.unlink()
    assert extraction("--gradients", "--local-files-only")[0] == 0


WORKER = """
import contextlib, io, json, sys
from extract_sae_features import main
from hub.encoder_cache import sae_repository
from huggingface_hub import constants
for line in sys.stdin:
    order = json.loads(line)
    constants.HF_HUB_OFFLINE = order["offline"]
    sae_repository.cache_clear()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(order["argv"])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory, tiny_gemma2):
    """`(hub, run, environment)`: run gives arguments to the real command, in one process of that kind."""
    folder = tmp_path_factory.mktemp("hub")
    scope = write_tiny_saes(folder / "scope", layers=((0, 5), (3, 4)), d_model=32, d_sae=2048)
    configurations = json.loads((scope / "configurations.json").read_text()) | {"repo_id": "tiny/scope"}
    (folder / "configurations.json").write_text(json.dumps(configurations))
    csv = folder / "honesty.csv"
    csv.write_text("sentence,concept_strength_label\nThe shop was closed.,0\nShe had never gone there.,3\n")
    with LoopbackHub() as hub:
        hub.repositories["tiny/gemma-2"] = Repository(tiny_gemma2)
        hub.repositories["tiny/scope"] = Repository(scope)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "TRAIT_TRACING_CACHE": str(folder / "ours"),
            "PYTHONPATH": str(STAGE),
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        with subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        ) as worker:

            def run(output, *more, offline=False):
                argv = ["--input", csv, "--output", folder / output, "--model", "tiny/gemma-2"]
                argv += ["--config", folder / "configurations.json", "--device", "cpu", *more]
                worker.stdin.write(json.dumps({"argv": [str(a) for a in argv], "offline": offline}) + "\n")
                worker.stdin.flush()
                return *json.loads(worker.stdout.readline()), folder / output

            yield hub, run, environment
            worker.stdin.close()


@pytest.mark.slow
def test_the_command_runs_from_an_empty_cache_a_warm_one_and_offline(command):
    hub, run, environment = command
    saes = hub.repositories["tiny/scope"].folder
    code, _, err, cold = run("cold")
    assert code == 0, err
    whole = sum(file.stat().st_size for file in saes.rglob("params.npz"))
    assert 0 < hub.bytes_sent(".npz") < 0.6 * whole
    for sae in json.loads((cold / "run.json").read_text())["saes"]:
        digest = hashlib.sha256()
        with np.load(saes / sae["sae_id"] / "params.npz") as params:
            for name in MEMBERS:
                digest.update(params[name].tobytes())
        assert sae["encoder_sha256"] == digest.hexdigest()

    hub.requests.clear()
    code, _, err, _ = run("warm")
    assert code == 0, err
    assert hub.bytes_sent(".npz", ".safetensors") == 0
    hub.requests.clear()
    for name, more, offline in (
        ("offline", [], True),
        ("local", ["--local-files-only"], False),
    ):
        code, _, err, output = run(name, *more, offline=offline)
        assert code == 0, err
        assert not hub.requests
        for file in cold.rglob("*.npz"):
            assert (output / file.relative_to(cold)).read_bytes() == file.read_bytes(), file

    # A process that has just started, to which the library's own questions are new.
    arguments = json.loads((cold / "run.json").read_text())["arguments"]
    command_line = [sys.executable, STAGE / "extract_sae_features.py", "--local-files-only"]
    for option in ("input", "model", "config", "device"):
        command_line += [f"--{option}", arguments[option]]
    done = subprocess.run(
        [*command_line, "--output", cold.parent / "new"], env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert not hub.requests

    code, out, err, _ = run("never", "--revision", "v9")
    assert (code, out) == (2, "")
    assert err.startswith("error: tiny/gemma-2 has no revision 'v9'")
    assert err.count("\n") == 1

    configurations = json.loads((cold.parent / "configurations.json").read_text())
    configurations["saes"][1]["path"] = "layer_3/none"
    (cold.parent / "other.json").write_text(json.dumps(configurations))
    code, out, err, output = run("missing", "--config", cold.parent / "other.json")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: tiny/scope has no file layer_3/none/params.npz at main")
    assert "Traceback" not in err
    assert not list(output.rglob("*.part"))
