"""The real client against a real server on loopback: faults, resume, concurrency, and no key anywhere."""

import asyncio
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import expand_dataset
import generate_sentences
import label_sentences
import numpy as np
import pytest
from audit import audit_files
from endpoint import llm_client
from endpoint.answer_journal import Journal
from endpoint.chat_request import Question
from endpoint.request_failures import retry_after_seconds
from endpoint.settings import Settings
from endpoint.usage import Usage
from loopback_llm import (
    KEY,
    LoopbackHandler,
    LoopbackLLM,
    invented_sentence,
    kind_of,
    loopback_llm,
    user_text,
)
from prompts.answer_forms import SENTENCES
from prompts.messages import sentence_messages
from prompts.rubric import Trait
from prompts.scene_plan import WORD_BANDS, Slot
from sentences.labelled_tables import LabelledSentence

STAGE = Path(__file__).resolve().parents[1] / "s0_dataset_generation"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(llm_client, "BACKOFF_SECONDS", 0.01)
    # The audit is the slowest part and has tests of its own; the first test below runs it.
    monkeypatch.setattr(expand_dataset, "write_audit", lambda *_: {})
    monkeypatch.setattr(expand_dataset, "summary", lambda _: "(not audited)")
    with loopback_llm() as server:
        yield server


@pytest.fixture
def seeds(tmp_path) -> Path:
    rows = [
        f'"Seed number {n}, of label {n % 4}: {invented_sentence(f"seed {n}", 9)}",{n % 4},seed-{n}'
        for n in range(8)
    ]
    path = tmp_path / "generosity.csv"
    path.write_text("sentence,concept_strength_label,group\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def expand_arguments(server: LoopbackLLM, seeds: Path, output: Path, *more: str, each: int = 10) -> list[str]:
    counts = [part for label in range(4) for part in (f"--label{label}-count", str(each))]
    return [
        "--trait", "Generosity", "--seed-file", str(seeds), *counts, "--output", str(output),
        "--base-url", server.url, *more,
    ]  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def label_counts(rows: list[dict[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(row["concept_strength_label"] for row in rows).items()))


def journal_records(output: Path) -> list[dict]:
    lines = output.with_suffix(".journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def settings_for(server: LoopbackLLM, **changes) -> Settings:
    values = {
        "concurrency": 4,
        "max_retries": 4,
        "timeout": 20.0,
        "seed": 0,
        "prices": None,
    }
    return Settings(api_key=KEY, base_url=server.url, **(values | changes))


def ask_one(server: LoopbackLLM, journal_path: Path, **changes) -> tuple[list, Usage]:
    """One question for five sentences of label 3, through the real client."""
    trait = Trait("Generosity", "Giving.")
    seed_rows = [LabelledSentence("I gave it all away.", 3, "seed")]
    slots = [Slot(f"scene-{n}", "A market.", 3, (6, 10), "first person") for n in range(5)]
    messages = sentence_messages(trait, seed_rows, slots, [])
    temperature = changes.pop("temperature", None)
    question = Question("tiny", messages, SENTENCES, "test", temperature)

    async def ask() -> tuple[list, Usage]:
        journal = Journal(journal_path, "Generosity")
        try:
            async with llm_client.LLMClient(settings_for(server, **changes), journal) as client:
                return (await client.ask_all([question], "test"))[0].items, client.usage
        finally:
            journal.close()

    return asyncio.run(ask())


# The whole command


def test_expand_gives_exactly_the_requested_counts(server, seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(expand_dataset, "write_audit", audit_files.write_audit)
    monkeypatch.setattr(expand_dataset, "summary", audit_files.summary)
    output = tmp_path / "out" / "generosity.csv"
    prices = ("--price-in", "2", "--price-out", "10")
    assert expand_dataset.main(expand_arguments(server, seeds, output, *prices)) == 0
    rows = read(output)
    assert list(rows[0]) == ["sentence", "concept_strength_label", "group"]
    assert label_counts(rows) == {"0": 12, "1": 12, "2": 12, "3": 12}
    assert rows[:8] == read(seeds)
    assert all(server.labels[row["sentence"]] == int(row["concept_strength_label"]) for row in rows[8:])
    groups = Counter(row["group"] for row in rows[8:])
    assert set(groups.values()) == {4}  # each scene at each label
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "generosity.audit.json",
        "generosity.audit.png",
        "generosity.csv",
        "generosity.journal.jsonl",
        "generosity.run.json",
    ]
    record = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    assert record["agreement"]["quadratic_kappa"] == 1.0
    assert record["agreement"]["confusion_intended_by_judged"] == np.diag([10] * 4).tolist()
    assert record["usage"]["requests"] == len(server.bodies)
    assert record["usage"]["cost"] == pytest.approx(len(server.bodies) * (100 * 2 + 10 * 10) / 1e6)
    assert record["missing"] == {"0": 0, "1": 0, "2": 0, "3": 0}
    text = capsys.readouterr().out
    assert "quadratic kappa 1.000, 100.0% equal of 40" in text
    assert f"{len(server.bodies)} requests sent" in text
    assert "generosity.csv: 48 sentences" in text


def test_the_judge_never_sees_an_intended_label_or_order(server, seeds, tmp_path):
    assert expand_dataset.main(expand_arguments(server, seeds, tmp_path / "g.csv")) == 0
    judged = [body for body in server.bodies if kind_of(body) == "judgements"]
    orders = []
    for body in judged:
        slots = json.loads(user_text(body).splitlines()[-1])
        assert [list(slot) for slot in slots] == [["sentence_id", "sentence"]] * len(slots)
        assert "intend" not in json.dumps(body["messages"])
        orders.append([server.labels[slot["sentence"]] for slot in slots])
    assert all(order != sorted(order) for order in orders)
    assert all(len(set(order)) > 1 for order in orders)


def test_length_and_voice_follow_the_scene_and_not_the_label(server, seeds, tmp_path):
    assert expand_dataset.main(expand_arguments(server, seeds, tmp_path / "g.csv")) == 0
    asked: dict[str, set[tuple[str, str]]] = {}
    for body in server.bodies:
        if kind_of(body) == "sentences":
            for slot in json.loads(user_text(body).splitlines()[-1]):
                asked.setdefault(slot["scenario_id"], set()).add((slot["words"], slot["voice"]))
    assert {len(forms) for forms in asked.values()} == {1}
    assert len({words for forms in asked.values() for words, _ in forms}) == len(WORD_BANDS)


def test_a_second_start_asks_nothing_and_writes_the_same(server, seeds, tmp_path, capsys):
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    first, asked = output.read_bytes(), len(server.bodies)
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    assert (output.read_bytes(), len(server.bodies)) == (first, asked)
    assert f"0 requests sent; {asked} answers from the journal" in capsys.readouterr().out

    edited = first + b"By hand.,0,mine\n"
    output.write_bytes(edited)
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
    assert output.read_bytes() == edited
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--overwrite" in error
    assert expand_dataset.main(expand_arguments(server, seeds, output, "--overwrite")) == 0
    assert (output.read_bytes(), len(server.bodies)) == (first, asked)


def test_an_output_of_somebody_else_is_not_touched(server, seeds, tmp_path, capsys):
    output = tmp_path / "g.csv"
    output.write_text("precious", encoding="utf-8")
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
    assert output.read_text(encoding="utf-8") == "precious"
    assert not output.with_suffix(".journal.jsonl").exists()
    assert server.bodies == []
    assert "--output" in capsys.readouterr().err


def test_the_definition_beside_the_seeds_reaches_writer_and_judge(server, seeds, tmp_path):
    seeds.with_name("generosity.definition.txt").write_text("Giving more than is asked.\n", encoding="utf-8")
    assert expand_dataset.main(expand_arguments(server, seeds, tmp_path / "g.csv", each=2)) == 0
    assert all("Giving more than is asked." in body["messages"][0]["content"] for body in server.bodies)
    server.bodies.clear()
    arguments = expand_arguments(server, seeds, tmp_path / "h.csv", "--definition", "Open hands.", each=2)
    assert expand_dataset.main(arguments) == 0
    assert all("Open hands." in body["messages"][0]["content"] for body in server.bodies)


def test_models_seed_and_temperature_are_sent_as_given(server, seeds, tmp_path):
    more = ("--model", "writer", "--judge-model", "judge", "--temperature", "0.7", "--seed", "11")
    assert expand_dataset.main(expand_arguments(server, seeds, tmp_path / "g.csv", *more, each=2)) == 0
    sent = {(kind_of(b), b["model"], b["seed"], b.get("temperature")) for b in server.bodies}
    assert sent == {
        ("scenes", "writer", 11, 0.7),
        ("sentences", "writer", 11, 0.7),
        ("judgements", "judge", 11, None),
    }


def test_sentences_the_judge_rejects_are_replaced(server, seeds, tmp_path, capsys):
    server.judged_label = lambda sentence, label, body: label if len(sentence) % 4 else (label + 1) % 4
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    rows = read(output)
    assert label_counts(rows) == {"0": 12, "1": 12, "2": 12, "3": 12}
    assert all(len(row["sentence"]) % 4 for row in rows[8:])
    record = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    off_diagonal = np.array(record["agreement"]["confusion_intended_by_judged"])
    np.fill_diagonal(off_diagonal, 0)
    assert off_diagonal.sum() == len(record["disagreements"]) > 0
    assert "round 2" in capsys.readouterr().out


def test_keep_all_keeps_every_row_under_the_judged_label(server, seeds, tmp_path):
    server.judged_label = lambda sentence, label, body: 3
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output, "--keep", "all")) == 0
    assert label_counts(read(output)[8:]) == {"3": 40}
    assert server.kinds()["judgements"] == 2


def test_a_shortfall_is_said_with_its_reason_and_keeps_the_rest(server, seeds, tmp_path, capsys):
    server.judged_label = lambda sentence, label, body: 1 if label == 2 else label
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output, "--max-rounds", "2")) == 1
    assert label_counts(read(output)) == {"0": 12, "1": 12, "2": 2, "3": 12}
    text = capsys.readouterr().out
    assert re.search(r"label 2: 10 of 10 missing \(judge disagreed: \d+\)", text)
    record = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    assert record["missing"] == {"0": 0, "1": 0, "2": 10, "3": 0}
    kept = [r for r in journal_records(output) if r.get("form") == "sentences"]
    assert sum(r["content"].count("scenario_id") for r in kept) == 40 + 4 * 10


def test_the_median_of_three_votes_overrules_one(server, seeds, tmp_path):
    calls: Counter = Counter()

    def judged(sentence: str, label: int, body: dict) -> int:
        with server.lock:
            calls[sentence] += 1
            return (label + 2) % 4 if calls[sentence] == 1 else label

    server.judged_label = judged
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output, "--judge-votes", "3")) == 0
    assert set(calls.values()) == {3}
    assert (
        json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))["agreement"]["equal"] == 1.0
    )


def test_a_judge_that_never_answers_for_a_sentence_leaves_it_out(server, seeds, tmp_path, capsys):
    server.judged_label = lambda sentence, label, body: "three" if len(sentence) % 3 == 0 else label
    output = tmp_path / "g.csv"
    arguments = expand_arguments(server, seeds, output, "--max-rounds", "1", "--max-retries", "1")
    assert expand_dataset.main(arguments) == 1
    rows = read(output)[8:]
    assert rows
    assert all(len(row["sentence"]) % 3 for row in rows)
    assert all(server.labels[row["sentence"]] == int(row["concept_strength_label"]) for row in rows)
    assert "no valid label from the judge" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fault", ["too few", "too many", "duplicates", "repeated", "wrong ids", "wrong types"]
)
def test_answers_with_wrong_entries_end_in_exact_counts(server, seeds, tmp_path, fault):
    rng = random.Random(2)
    server.fault = lambda number, body: fault if kind_of(body) != "scenes" and rng.random() < 0.4 else None
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    rows = read(output)
    assert label_counts(rows) == {"0": 12, "1": 12, "2": 12, "3": 12}
    assert len({row["sentence"] for row in rows}) == len(rows)
    assert all(server.labels[row["sentence"]] == int(row["concept_strength_label"]) for row in rows[8:])


@pytest.mark.slow
def test_a_thousand_sentences_at_concurrency_16_without_loss(server, seeds, tmp_path):
    server.delay = 0.02
    output = tmp_path / "g.csv"
    more = ("--concurrency", "16", "--batch-size", "5", "--judge-batch-size", "10")
    assert expand_dataset.main(expand_arguments(server, seeds, output, *more, each=250)) == 0
    assert label_counts(read(output)) == {"0": 252, "1": 252, "2": 252, "3": 252}
    assert 8 < server.most_in_flight <= 16
    answers = [record for record in journal_records(output) if "key" in record]
    assert len(answers) == len(server.bodies) == len({record["key"] for record in answers})


@pytest.mark.slow
def test_a_full_run_with_every_tenth_request_at_fault_loses_nothing(server, seeds, tmp_path):
    faults = (
        "429 wait=0.05", "500", "503", "cut", "truncated", "malformed", "broken body", "html",
        "refusal", "length", "too few", "too many", "duplicates", "wrong ids", "wrong types",
    )  # fmt: skip
    rng = random.Random(1)
    server.fault = lambda number, body: rng.choice(faults) if rng.random() < 0.1 else None
    output = tmp_path / "g.csv"
    counts = [
        "--label3-count",
        "300",
        "--label2-count",
        "250",
        "--label1-count",
        "150",
        "--label0-count",
        "100",
    ]
    arguments = [
        "--trait", "Generosity", "--seed-file", str(seeds), *counts, "--output", str(output), "--base-url",
        server.url, "--concurrency", "16", "--batch-size", "5", "--judge-batch-size", "8",
    ]  # fmt: skip
    assert expand_dataset.main(arguments) == 0
    assert label_counts(read(output)) == {"0": 102, "1": 152, "2": 252, "3": 302}
    record = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    assert record["usage"]["requests"] == len(server.bodies)
    assert sum(record["usage"]["retries"].values()) > 0
    assert sum(record["usage"]["answers_asked_again"].values()) > 0
    answered = [line for line in journal_records(output) if "key" in line]
    assert len(answered) + sum(record["usage"]["retries"].values()) == len(server.bodies)


# One request


@pytest.mark.parametrize(
    "fault", ["429", "429 wait=0.05", "500", "502", "408", "hang", "cut", "broken body", "html"]
)
def test_a_transport_fault_is_retried(server, tmp_path, fault):
    server.fault = lambda number, body: fault if number <= 2 else None
    server.hang_seconds = 1.0
    items, usage = ask_one(server, tmp_path / "x.journal.jsonl", timeout=0.5 if fault == "hang" else 20.0)
    assert [item.scenario_id for item in items] == [f"scene-{n}" for n in range(5)]
    assert (usage.requests, usage.retries.total()) == (3, 2)


@pytest.mark.parametrize("fault", ["truncated", "malformed", "refusal", "length", "other list"])
def test_an_unusable_answer_is_kept_and_asked_again_with_another_seed(server, tmp_path, fault):
    server.fault = lambda number, body: fault if number <= 2 else None
    path = tmp_path / "x.journal.jsonl"
    items, usage = ask_one(server, path)
    assert len(items) == 5
    assert (usage.requests, usage.bad_answers.total()) == (3, 2)
    assert [body["seed"] for body in server.bodies] == [0, 1, 2]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + 3

    again, usage = ask_one(server, path)  # from the journal: nothing asked, the same found
    assert (again, usage.requests, usage.from_journal) == (items, 0, 3)


def test_json_within_other_text_is_read(server, tmp_path):
    server.fault = lambda number, body: "fenced"
    assert len(ask_one(server, tmp_path / "x.journal.jsonl")[0]) == 5


def test_retry_after_is_waited_for(server, tmp_path):
    server.fault = lambda number, body: "429 wait=0.4" if number == 1 else None
    ask_one(server, tmp_path / "x.journal.jsonl")
    assert server.arrivals[1] - server.arrivals[0] >= 0.4


def test_retry_after_forms():
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2115 07:28:00 GMT"}) > 1e9
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({}) is None


@pytest.mark.parametrize("accepted", [{"json_object", "text"}, {"text"}])
def test_a_server_without_structured_outputs_gets_the_schema_in_the_prompt(server, tmp_path, accepted):
    server.accepted_formats = accepted
    items, _ = ask_one(server, tmp_path / "x.journal.jsonl")
    assert len(items) == 5
    assert len(server.bodies) == 4 - len(accepted)
    assert '"scenario_id"' in server.bodies[-1]["messages"][0]["content"]


def test_a_strict_schema_is_sent(server, tmp_path):
    ask_one(server, tmp_path / "x.journal.jsonl")
    sent = server.bodies[0]["response_format"]["json_schema"]
    assert sent["strict"] is True
    entry = sent["schema"]["properties"]["sentences"]["items"]
    assert sorted(entry["required"]) == sorted(entry["properties"])
    assert entry["additionalProperties"] is sent["schema"]["additionalProperties"] is False


def test_a_temperature_that_the_model_does_not_take_is_left_out(server, tmp_path):
    server.fault = lambda number, body: "no temperature"
    items, usage = ask_one(server, tmp_path / "x.journal.jsonl", temperature=0.3)
    assert len(items) == 5
    assert [body.get("temperature") for body in server.bodies] == [0.3, None]
    assert usage.retries.total() == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401 invalid_api_key", "refuses the key"),
        ("403", "refuses the key"),
        ("404 model_not_found", "does not know the model"),
        ("429 insufficient_quota", "quota is spent"),
        ("402", "quota is spent"),
        ("429 wait=600", "later"),
    ],
)
def test_what_retrying_cannot_mend_stops_at_once(server, seeds, tmp_path, capsys, fault, says):
    server.fault = lambda number, body: fault
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output, "--concurrency", "1")) == 2
    assert len(server.bodies) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert KEY not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generosity.csv"]  # nothing but the seeds


def test_a_stop_in_the_middle_keeps_what_came_before(server, seeds, tmp_path, capsys):
    server.fault = lambda number, body: "429 insufficient_quota" if number > 4 else None
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
    error = capsys.readouterr().err
    kept = len([record for record in journal_records(output) if "key" in record])
    assert f"{kept} answers are kept in {output.with_suffix('.journal.jsonl')}" in error
    assert not output.exists()
    server.fault = lambda number, body: None
    asked = len(server.bodies)
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    total = len([record for record in journal_records(output) if "key" in record])
    assert len(server.bodies) - asked == total - kept


def test_a_server_that_fails_for_good_is_given_up(server, seeds, tmp_path, capsys):
    server.fault = lambda number, body: "500"
    arguments = expand_arguments(
        server, seeds, tmp_path / "g.csv", "--max-retries", "2", "--concurrency", "1"
    )
    assert expand_dataset.main(arguments) == 2
    assert len(server.bodies) == 3
    assert "HTTP 500; 2 retries did not help" in capsys.readouterr().err


def test_nobody_listening(seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(llm_client, "BACKOFF_SECONDS", 0.01)
    with LoopbackLLM() as closed:
        url = closed.url
    closed.url = url
    assert expand_dataset.main(expand_arguments(closed, seeds, tmp_path / "g.csv")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "connection failed" in error


def test_the_key_is_nowhere(server, seeds, tmp_path, capsys):
    # The server puts the key into error messages (every fault does) and into an answer.
    server.fault = lambda number, body: {2: "500", 3: "echo", 4: "429 wait=0.01"}.get(number)
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    server.fault = lambda number, body: "400 some_reason"
    assert expand_dataset.main(expand_arguments(server, seeds, tmp_path / "h.csv")) == 2
    printed = capsys.readouterr()
    assert "some_reason" in printed.err
    assert "[key]" in printed.err
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"[key]" in text for text in texts)  # the echoed one, made unreadable
    for text in [printed.out.encode(), printed.err.encode(), *texts]:
        assert KEY.encode() not in text


def test_credentials_in_the_url_are_not_recorded(server, seeds, tmp_path, capsys):
    server.url = server.url.replace("http://", "http://user:hush@")
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output, each=1)) == 0
    assert b"hush" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "hush" not in "".join(capsys.readouterr())


# Killed and continued


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_a_second_start_asks_only_for_the_rest(server, seeds, tmp_path, how):
    server.answers_before_the_gate = 6  # so that it cannot have finished, however slow this process is
    output = tmp_path / "killed.csv"
    arguments = expand_arguments(server, seeds, output, "--concurrency", "3")
    command = [sys.executable, str(STAGE / "expand_dataset.py"), *arguments]
    journal = output.with_suffix(".journal.jsonl")
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # A shell that runs the tests in the background has them, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 5):
        time.sleep(0.02)
    process.send_signal(how)
    server.gate.set()
    error = process.communicate()[1]
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert error.count("\n") == 1
        assert "the same command continues" in error
    else:
        assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    while server.in_flight:  # requests that were in flight arrive before they are counted
        time.sleep(0.02)
    before = {json.loads(line)["key"] for line in whole_lines(journal)[1:]}
    asked_before = len(server.bodies)
    assert 4 <= len(before) <= asked_before <= len(before) + 3  # lost: at most what was in flight

    assert expand_dataset.main(arguments) == 0
    after = [record["key"] for record in journal_records(output) if "key" in record]
    assert len(after) == len(set(after))  # nothing answered twice
    assert before < set(after)
    assert len(server.bodies) - asked_before == len(after) - len(before)  # only what was missing

    whole = tmp_path / "whole.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, whole, "--concurrency", "3")) == 0
    assert output.read_bytes() == whole.read_bytes()


def whole_lines(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].splitlines()


def test_a_journal_line_cut_by_a_crash_is_asked_again(server, tmp_path):
    path = tmp_path / "x.journal.jsonl"
    items, _ = ask_one(server, path)
    path.write_bytes(path.read_bytes()[:-20])
    again, usage = ask_one(server, path)
    assert (again, usage.requests) == (items, 1)
    assert len(whole_lines(path)) == 2
    assert ask_one(server, path)[1].requests == 0


def test_a_journal_of_another_trait_or_a_damaged_one_is_refused(server, seeds, tmp_path, capsys):
    output = tmp_path / "g.csv"
    journal = output.with_suffix(".journal.jsonl")
    ask_one(server, journal)
    content = journal.read_text(encoding="utf-8")
    journal.write_text(content.replace("Generosity", "Envy", 1), encoding="utf-8")
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
    assert "another trait (Envy" in capsys.readouterr().err
    journal.write_text(content.replace('{"key"', '"key"', 1), encoding="utf-8")
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
    assert "line 2: not a journal line" in capsys.readouterr().err


# The two halves by themselves


def test_generate_then_label(server, seeds, tmp_path, capsys):
    drafts, labelled = tmp_path / "drafts.csv", tmp_path / "labelled.csv"
    counts = ["--label3-count", "6", "--label0-count", "4"]
    common = ["--trait", "Generosity", "--base-url", server.url]
    arguments = [*common, "--seed-file", str(seeds), *counts, "--output", str(drafts)]
    assert generate_sentences.main(arguments) == 0
    assert Counter(row["intended_label"] for row in read(drafts)) == {"3": 6, "0": 4}
    assert server.kinds()["judgements"] == 0

    wrong = read(drafts)[0]["sentence"]
    server.judged_label = lambda sentence, label, body: 1 if sentence == wrong else label
    arguments = [*common, "--input", str(drafts), "--output", str(labelled)]
    assert label_sentences.main(arguments) == 0
    rows = read(labelled)
    assert len(rows) == 9
    assert all(row["concept_strength_label"] == row["intended_label"] for row in rows)
    assert re.search("intended [03], judged 1: ", capsys.readouterr().out)

    everything = tmp_path / "everything.csv"
    arguments = [*common, "--input", str(drafts), "--output", str(everything), "--keep", "all"]
    assert label_sentences.main(arguments) == 0
    assert {row["sentence"]: row["concept_strength_label"] for row in read(everything)}[wrong] == "1"


def test_labelling_without_intentions_and_with_a_sentence_nobody_answers(server, tmp_path, capsys):
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("sentence\nA plain one.\nA silent one.\nAnother plain one.\n", encoding="utf-8")
    server.judged_label = lambda sentence, label, body: None if "silent" in sentence else 2
    arguments = ["--trait", "Generosity", "--input", str(path), "--output", str(output)]
    more = ["--base-url", server.url, "--max-retries", "1"]
    assert label_sentences.main(arguments + more) == 1
    assert [row["sentence"] for row in read(output)] == ["A plain one.", "Another plain one."]
    assert label_counts(read(output)) == {"2": 2}
    assert "not labelled, no valid answer: A silent one." in capsys.readouterr().out


def test_scenes_that_repeat_are_asked_again_until_there_are_enough(server, seeds, tmp_path):
    # Every scene request after the first answers with the same scenes as the first, once.
    original = LoopbackHandler.content
    first_scenes: list[dict] = []

    def content(handler, body, fault):
        answer = original(handler, body, fault)
        if kind_of(body) == "scenes":
            with server.lock:
                if not first_scenes:
                    first_scenes.append(answer)
                elif len(first_scenes) == 1:
                    first_scenes.append(answer)
                    return first_scenes[0]
        return answer

    server.RequestHandlerClass = type("Repeating", (LoopbackHandler,), {"content": content})
    output = tmp_path / "g.csv"
    arguments = expand_arguments(server, seeds, output, "--concurrency", "1", each=30)
    assert expand_dataset.main(arguments) == 0
    assert len({row["group"] for row in read(output)[8:]}) == 30
    assert server.kinds()["scenes"] == 3
