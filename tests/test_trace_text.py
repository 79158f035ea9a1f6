"""`trace_text.sh`: the commands that it gives fit each other and the stages, and what is missing is named."""

import os
import shutil
import subprocess
from pathlib import Path

import extract_sae_features
import generate_datasets
import pytest
import visualize_activations

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "s5_classifier_training/d3_hidden_to_concept"
RESULTS = "s2_find_top_features/results/aggression_results/run.json"
EXAMPLE = "s4_classifier_data_prep/generated_datasets/aggression_h0-5_to_concept.npz"
MADE = (
    RESULTS,
    EXAMPLE,
    *(f"{EXPERIMENT}/{name}/version.json" for name in ("v2_aggression", "v10_aggression")),
)
OTHERS = ("v11_caring", "v12_more_aggression", "v13_aggression_gemma-2-2b")


@pytest.fixture
def clone(tmp_path) -> Path:
    """The script where run_pipeline.sh was run for aggression; `uv` writes down what it is asked for."""
    root = tmp_path / "a clone"
    for name in (*MADE, *(f"{EXPERIMENT}/{version}/version.json" for version in OTHERS)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    for stage in ("s1_compute_all_features", "s3_feature_activation_graphs"):
        (root / stage).mkdir()
    shutil.copy(ROOT / "trace_text.sh", root)
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text(
        '#!/bin/sh\nprintf "%s\\t" "$PWD" "$@" >>"$UV_LOG"; echo >>"$UV_LOG"\ntest "$4" != "$UV_FAILS"\n'
    )
    uv.chmod(0o755)
    (tmp_path / "my diary.txt").write_text("It rained.\n")
    return root


def trace(
    clone: Path, *arguments: str, fails: str = ""
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Run the script beside the clone; the folder and arguments of every call of uv."""
    log = clone.parent / "log"
    log.write_text("")
    environment = os.environ | {
        "PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}",
        "UV_LOG": str(log),
        "UV_FAILS": fails,
    }
    command = ["bash", str(clone / "trace_text.sh"), *arguments]
    run = subprocess.run(
        command, cwd=clone.parent, env=environment, capture_output=True, text=True, check=False
    )
    return run, [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]


def test_four_commands_hand_their_files_on(clone):
    run, calls = trace(clone, "aggression", "my diary.txt")
    assert run.returncode == 0, run.stderr
    assert [call[1:4] for call in calls] == [
        ["run", "python", script]
        for script in (
            "extract_sae_features.py",
            "visualize_activations.py",
            "generate_datasets.py",
            "framework/predict.py",
        )
    ]
    folders = [Path(call[0]) for call in calls]
    s1 = extract_sae_features.build_parser().parse_args(calls[0][4:])
    assert s1.input == clone.parent / "my diary.txt"
    assert s1.demo
    assert s1.overwrite
    features = (folders[0] / s1.output).resolve()
    s3 = visualize_activations.parse_args(calls[1][4:])
    assert s3.frozen
    assert (folders[1] / s3.s1_data).resolve() == features
    assert (folders[1] / s3.s2_results).resolve() == (clone / RESULTS).parent
    s4 = generate_datasets.parse_args(calls[2][4:])
    assert (folders[2] / s4.input).resolve() == features
    assert (folders[2] / s4.like).resolve() == clone / EXAMPLE
    experiment, version, option, dataset = calls[3][4:]
    assert (folders[3] / experiment).resolve() == clone / EXPERIMENT
    assert version == "v10_aggression"  # the newest of this trait
    assert option == "--dataset"
    assert (folders[3] / dataset).resolve() == (folders[2] / s4.output).resolve()
    assert f"{s3.output}/trajectories.html".removeprefix("./") in run.stdout


def test_it_stops_at_the_first_failure(clone):
    run, calls = trace(clone, "aggression", "my diary.txt", fails="--frozen")  # the first option of s3
    assert run.returncode == 1
    assert len(calls) == 2


@pytest.mark.parametrize("missing", MADE)
def test_what_the_pipeline_did_not_make_is_named(missing, clone):
    if missing.startswith(EXPERIMENT):
        for name in ("v2_aggression", "v10_aggression"):
            shutil.rmtree(clone / EXPERIMENT / name)
    else:
        (clone / missing).unlink()
    run, calls = trace(clone, "aggression", "my diary.txt")
    assert run.returncode == 2
    assert not calls
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: no s")
    assert line.endswith("run ./run_pipeline.sh aggression first")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected TRAIT and FILE"),
        (["aggression"], "expected TRAIT and FILE"),
        (["aggression", "gone.txt"], "no file gone.txt"),
        (["--fast", "aggression"], "unknown option --fast"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, expected, clone):
    run, calls = trace(clone, *arguments)
    assert run.returncode == 2
    assert not calls
    (line,) = run.stderr.splitlines()
    assert expected in line


def test_help_needs_nothing(clone):
    run, _ = trace(clone, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith("usage: ./trace_text.sh TRAIT FILE")
