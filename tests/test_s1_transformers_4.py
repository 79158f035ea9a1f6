"""What s1 records on transformers 4.57, in an environment of its own: tuples, an unscaled lookup."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PINNED = ("torch", "numpy", "tqdm")  # as installed here, so that nothing large is fetched


@pytest.mark.slow
def test_embeddings_and_residual_stream_are_as_defined_on_transformers_4():
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in PINNED] + ["transformers==4.57.6"]
    command = [os.environ.get("UV", "uv"), "run", "--quiet", "--isolated", "--no-project"]
    command += ["--python", sys.executable, "--exclude-newer", project["tool"]["uv"]["exclude-newer"]]
    command += [part for package in packages for part in ("--with", package)]
    paths = [str(TESTS), str(TESTS.parent / "s1_compute_all_features")]
    done = subprocess.run(
        [*command, "python", str(TESTS / "transformers_4_check.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["transformers"] == "4.57.6"
    # The differences to transformers 5 that the hooks have to bridge are really there:
    assert result["block_output"] == "tuple"
    assert result["embed_tokens_over_weight"] == 1
    # What enters block 0 is scaled by the square root of d_model all the same.
    assert result["embedding_over_weight"] == pytest.approx(32**0.5, rel=1e-5)
    assert result["largest_difference"] < 1e-5
