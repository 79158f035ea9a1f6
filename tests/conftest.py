"""Fixtures shared by the stages' tests."""

import importlib.util
from pathlib import Path

import pytest
from synthetic_features import write_feature_folder
from tiny_models import write_tiny_gemma2, write_tiny_saes

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config, items):
    """Leave out what needs the dependency group `ethics` where it is not installed; `.ci/run` installs it."""
    if importlib.util.find_spec("sae_probes") is None:
        left_out = [item for item in items if item.get_closest_marker("ethics")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def feature_folder(tmp_path_factory) -> Path:
    """An s1 output of 80 sentences, 3 layers, 3 SAEs; features 5 and 7 (layer 1) planted. Do not modify."""
    return write_feature_folder(tmp_path_factory.mktemp("s1") / "planted_features")


@pytest.fixture(scope="session")
def tiny_gemma2(tmp_path_factory) -> Path:
    """Folder of a random Gemma 2 (4 blocks, d_model 32) with its tokenizer, for `from_pretrained`."""
    return write_tiny_gemma2(tmp_path_factory.mktemp("models") / "tiny-gemma-2")


@pytest.fixture(scope="session")
def tiny_saes(tmp_path_factory) -> Path:
    """Three random JumpReLU SAEs for `tiny_gemma2` in Gemma Scope's layout, with `configurations.json`."""
    return write_tiny_saes(tmp_path_factory.mktemp("saes"), layers=((0, 5), (3, 4), (3, 9)), d_model=32)
