"""Several processes of one run: an error in one ends all, is said once, and nothing waits for ever."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from extract_sae_features import main
from extraction.device_memory import named_memory_failure
from extraction.workers import LONGEST_WAIT, SharedError, Workers

CPU = torch.device("cpu")


def take_part(scenario, rank: int, meeting: Path, results):
    workers = Workers(rank, 2, store=torch.distributed.FileStore(str(meeting), 2))
    try:
        results.put((rank, scenario(workers), None))
    except SharedError as error:
        results.put((rank, str(error), error.is_mine))


@pytest.fixture
def in_two_processes(tmp_path):
    """`run(scenario)`: what the scenario returns in each process, or its error's text and who says it."""

    def run(scenario) -> list[tuple]:
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        meeting = tmp_path / "meeting"
        both = [context.Process(target=take_part, args=(scenario, rank, meeting, results)) for rank in (0, 1)]
        for process in both:
            process.start()
        outcomes = sorted(results.get(timeout=60) for _ in both)
        for process in both:
            process.join(timeout=60)
        return [outcome[1:] for outcome in outcomes]

    return run


def test_an_error_in_the_second_process_is_raised_in_both_and_said_by_the_second(in_two_processes):
    def scenario(workers):
        with workers.together():
            if workers.rank == 1:
                raise FileNotFoundError("no such file on this node")

    text = "no such file on this node"
    assert in_two_processes(scenario) == [(text, False), (text, True)]


def test_an_error_that_both_have_is_said_once(in_two_processes):
    def scenario(workers):
        with workers.together():
            raise ValueError("a bad CSV")

    assert in_two_processes(scenario) == [("a bad CSV", True), ("a bad CSV", False)]


def test_running_out_of_memory_is_shared(in_two_processes):
    def scenario(workers):
        with workers.together(), named_memory_failure(CPU):
            if workers.rank == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    (text, first_says), (_, second_says) = in_two_processes(scenario)
    assert text.startswith("cpu: not enough memory")
    assert (first_says, second_says) == (False, True)


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("where", ["before", "inside", "after"])
def test_an_error_around_an_exchange_within_another_ends_both(in_two_processes, failing, where):
    def scenario(workers):
        def fail_if_at(place):
            if workers.rank == failing and where == place:
                raise ValueError(place)

        with workers.together():
            fail_if_at("before")
            workers.first_then_others(lambda: fail_if_at("inside"))
            fail_if_at("after")

    assert in_two_processes(scenario) == [(where, failing == 0), (where, failing == 1)]


def test_the_first_process_works_before_the_others(in_two_processes, tmp_path):
    def scenario(workers):
        def fetch():
            there = (tmp_path / "cache").exists()
            (tmp_path / "cache").touch()
            return there

        return workers.first_then_others(fetch), workers.share(list(range(5)))

    assert in_two_processes(scenario) == [((False, [0, 2, 4]), None), ((True, [1, 3]), None)]


def test_waiting_for_a_slow_download_takes_longer_than_the_librarys_half_hour(monkeypatch):
    environment = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # any port
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    workers = Workers.from_environment()
    assert (workers.rank, workers.size, workers.local_rank) == (0, 1, 0)
    assert workers.store.timeout == LONGEST_WAIT
    assert LONGEST_WAIT.total_seconds() > 24 * 3600


def test_the_exchange_needs_no_process_group(in_two_processes):
    """A group's threads aborted a process at its exit, one run in many."""

    def scenario(workers):
        with workers.together():
            pass
        return torch.distributed.is_initialized(), workers.first_then_others(lambda: workers.rank)

    assert in_two_processes(scenario) == [((False, 0), None), ((False, 1), None)]


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tiny_gemma2, tiny_saes, tmp_path):
    csv = tmp_path / "s.csv"
    texts = (
        "The shop was closed.",
        "She had never gone there.",
        "He shouted.",
        "The nurse had gone home again.",
    )
    rows = [f"{text},{label}" for label, text in enumerate(texts)]
    csv.write_text("\n".join(["sentence,concept_strength_label", *rows]) + "\n")
    arguments = ["--input", csv, "--model", tiny_gemma2, "--device", "cpu", "--gradients"]
    arguments += ["--config", tiny_saes / "configurations.json", "--sae-release", tiny_saes]
    arguments += ["--batch-tokens", 12]  # several batches
    script = main.__globals__["__file__"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for output, start in (("one", [sys.executable, script]), ("two", command)):
        given = [*start, *arguments, "--output", tmp_path / output]
        done = subprocess.run([str(part) for part in given], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npz"))
    assert sum(path.parts[0] in ("gradients", "sae_effects") for path in files) == 2 + 1 + 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.slow
def test_the_command_under_torchrun_ends_when_its_second_process_fails(tiny_gemma2, tiny_saes, tmp_path):
    csv = tmp_path / "s.csv"
    csv.write_text("sentence,concept_strength_label\nThe shop was closed.,0\nShe had never gone there.,3\n")
    script = tmp_path / "second_fails.py"
    script.write_text(f"""
import os, sys
sys.path.insert(0, {str(Path(main.__globals__["__file__"]).parent)!r})
import torch
from extraction import residual_stream_pass
from extract_sae_features import main

def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory.")
    yield

if os.environ["RANK"] == "1":
    residual_stream_pass.residual_stream_batches = full
sys.exit(main(sys.argv[1:]))
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    command += ["--input", csv, "--output", tmp_path / "out", "--model", tiny_gemma2, "--device", "cpu"]
    command += ["--config", tiny_saes / "configurations.json", "--sae-release", tiny_saes]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, done.stderr
    assert "cpu: not enough memory (CUDA out of memory.)" in said[0]
    assert not (tmp_path / "out/run.json").exists()
