"""Refusals, failures and second starts: no request too many, the same result, and a record of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import expand_dataset
import import_hendrycks
import label_sentences
import openai
import pytest
from endpoint import settings
from endpoint.answer_journal import open_journal
from endpoint.request_failures import NoCompletionError, Remedy, failure_of
from loopback_llm import kind_of, user_text
from test_s0_endpoint import (  # noqa: F401
    ask_one,
    expand_arguments,
    journal_records,
    label_counts,
    read,
    seeds,
    server,
)
from twins_s0 import progress
from twins_s0.provenance import sha256_of


def record_of(output: Path) -> dict:
    return json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))


# The key


@pytest.mark.parametrize("key", ["ra", "sentence"])
def test_a_key_that_is_a_word_rewrites_no_answer(server, seeds, tmp_path, monkeypatch, key):  # noqa: F811
    monkeypatch.setenv("OPENAI_API_KEY", key)
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0
    written = [row["sentence"] for row in read(output)[8:]]
    assert all(sentence in server.labels for sentence in written)
    assert any(key in record["content"] for record in journal_records(output) if "key" in record)


# Refused and given up


def test_a_request_refused_before_the_first_answer_does_not_end_the_run(
    server,  # noqa: F811
    seeds,  # noqa: F811
    tmp_path,
    capsys,
):
    server.fault = lambda number, body: "400 content_policy" if number == 1 else None
    output = tmp_path / "g.csv"
    arguments = expand_arguments(server, seeds, output, "--concurrency", "1", each=30)
    assert expand_dataset.main(arguments) == 0
    assert label_counts(read(output)) == {str(label): 32 for label in range(4)}
    assert "1 requests given up (HTTP 400: went wrong" in capsys.readouterr().out


def test_where_every_request_is_refused_the_reason_is_said(server, seeds, tmp_path, capsys):  # noqa: F811
    server.fault = lambda number, body: "400 no_such_parameter"
    output = tmp_path / "g.csv"
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
    error = capsys.readouterr().err
    assert "no_such_parameter" in error
    assert "no request was answered" in error
    assert "retries did not help" not in error
    assert not output.with_suffix(".journal.jsonl").exists()


def test_a_restart_after_a_refused_sentence_ends_as_the_run_did(server, tmp_path, capsys):  # noqa: F811
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("sentence\nA plain one.\nA forbidden one.\nAnother plain one.\n", encoding="utf-8")
    server.fault = lambda number, body: "400 policy" if "forbidden" in user_text(body) else None
    arguments = ["--trait", "Generosity", "--input", str(path), "--output", str(output)]
    arguments += ["--base-url", server.url, "--judge-batch-size", "1", "--max-retries", "2"]
    assert label_sentences.main(arguments) == 1
    first, asked = output.read_bytes(), len(server.bodies)
    assert asked == 2 + 3  # the two that are answered, and the refused one as often as it may be tried
    assert label_sentences.main(arguments) == 1
    assert (output.read_bytes(), len(server.bodies)) == (first, asked)
    assert "not labelled, no valid answer: A forbidden one." in capsys.readouterr().out


def test_what_was_given_up_is_not_asked_again_by_a_second_start(server, seeds, tmp_path):  # noqa: F811
    asked_of_label_2 = []

    def fault(number: int, body: dict) -> str | None:
        if kind_of(body) == "sentences" and "sentence of label 2" in user_text(body):
            asked_of_label_2.append(number)
            return "500" if len(asked_of_label_2) <= 3 else None
        return None

    server.fault = fault
    output = tmp_path / "g.csv"
    arguments = expand_arguments(server, seeds, output, "--max-retries", "2", "--concurrency", "1")
    assert expand_dataset.main(arguments) == 0
    assert record_of(output)["usage"]["requests_given_up"] == {"HTTP 500": 1}
    first, asked = output.read_bytes(), len(server.bodies)
    assert expand_dataset.main(arguments) == 0
    assert (output.read_bytes(), len(server.bodies)) == (first, asked)

    arguments[arguments.index("--max-retries") + 1] = "3"  # allowed one try more, it is asked again
    assert expand_dataset.main(arguments) == 0
    assert len(server.bodies) > asked


def test_what_failed_before_the_run_was_stopped_is_asked_again(server, seeds, tmp_path, capsys):  # noqa: F811
    server.fault = lambda number, body: "503" if number > 4 else None
    output = tmp_path / "g.csv"
    arguments = expand_arguments(server, seeds, output, "--max-retries", "0", "--concurrency", "1", each=3)
    arguments += ["--batch-size", "1"]
    assert expand_dataset.main(arguments) == 2
    assert "HTTP 503; 0 retries did not help; 4 answers are kept" in capsys.readouterr().err
    server.fault = lambda number, body: None
    assert expand_dataset.main(arguments) == 0
    assert record_of(output)["usage"]["requests_given_up"] == {}


# No more requests than --max-retries allows


def test_a_stubborn_batch_of_the_judge_is_asked_as_often_as_may_be_retried(server, seeds, tmp_path):  # noqa: F811
    server.fault = lambda number, body: "malformed" if kind_of(body) == "judgements" else None
    arguments = expand_arguments(server, seeds, tmp_path / "g.csv", "--max-retries", "3", each=2)
    assert expand_dataset.main([*arguments, "--max-rounds", "1"]) == 1
    assert server.kinds()["judgements"] == 4
    sent = [body["seed"] for body in server.bodies if kind_of(body) == "judgements"]
    assert sorted(sent) == [0, 1, 2, 3]


def test_a_batch_of_the_judge_that_fails_is_not_asked_for_over_and_over(server, seeds, tmp_path):  # noqa: F811
    server.fault = lambda number, body: "500" if kind_of(body) == "judgements" else None
    arguments = expand_arguments(server, seeds, tmp_path / "g.csv", "--max-retries", "2", each=2)
    assert expand_dataset.main([*arguments, "--max-rounds", "1"]) == 1
    assert server.kinds()["judgements"] == 3


def test_failures_and_unusable_answers_share_the_retries(server, tmp_path):  # noqa: F811
    server.fault = lambda number, body: "malformed" if number % 2 else "500"
    path = tmp_path / "x.journal.jsonl"
    items, usage = ask_one(server, path)
    assert (items, usage.requests) == ([], 1 + 4)  # 4 retries
    assert usage.failed == {"no usable answer": 1}
    assert ask_one(server, path)[1].requests == 0


# One writer


def test_a_second_start_beside_the_first_is_refused(server, seeds, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "g.csv"
    with open_journal(output, "Generosity", overwrite=False) as journal:
        assert expand_dataset.main(expand_arguments(server, seeds, output)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {journal.path} is being written by another process")
        assert error.count("\n") == 1
        assert server.bodies == []
        assert journal.path.exists()
    assert expand_dataset.main(expand_arguments(server, seeds, output)) == 0


# What is said of a failure


def status_error(status: int, headers: dict | None = None, **body: object) -> openai.APIStatusError:
    response = SimpleNamespace(status_code=status, headers=headers or {}, request=None)
    return openai.APIStatusError("went wrong", response=response, body=body)


@pytest.mark.parametrize(
    ("error", "remedy", "problem", "wait"),
    [
        (status_error(400, message="too long"), Remedy.REFUSED, "HTTP 400", None),
        (status_error(422), Remedy.REFUSED, "HTTP 422", None),
        (status_error(401), Remedy.STOP, "URL refuses the key (HTTP 401)", None),
        (
            status_error(404),
            Remedy.STOP,
            "URL does not know the model 'tiny' or the address (HTTP 404)",
            None,
        ),
        (status_error(429), Remedy.RETRY, "HTTP 429", None),
        (status_error(429, {"retry-after": "7"}), Remedy.RETRY, "HTTP 429", 7.0),
        (status_error(503, {"retry-after": "soon"}), Remedy.RETRY, "HTTP 503", None),
        (
            status_error(429, code="insufficient_quota"),
            Remedy.STOP,
            "URL: the quota is spent (HTTP 429)",
            None,
        ),
        (TimeoutError(), Remedy.RETRY, "no answer within the time-out", None),
        (json.JSONDecodeError("x", "", 0), Remedy.RETRY, "an answer that is no JSON", None),
        (NoCompletionError(), Remedy.RETRY, "an answer that is no chat completion", None),
    ],
)
def test_failures_are_told_apart_by_the_error_alone(error, remedy, problem, wait):
    failure = failure_of(error, "URL", "tiny")
    assert (failure.remedy, failure.problem, failure.wait) == (remedy, problem, wait)


def test_a_wait_that_is_too_long_stops_the_run_and_other_errors_pass_through():
    failure = failure_of(status_error(429, {"retry-after": "600"}), "URL", "tiny")
    assert failure.remedy is Remedy.STOP
    assert "asks to wait 600 s" in failure.problem
    with pytest.raises(KeyError):
        failure_of(KeyError("x"), "URL", "tiny")


# Provenance and progress


def test_the_record_of_labelling_names_the_seeds_and_the_definition(server, seeds, tmp_path):  # noqa: F811
    path, output = tmp_path / "in" / "generosity.csv", tmp_path / "out.csv"
    path.parent.mkdir()
    path.write_text("sentence\nA plain one.\n", encoding="utf-8")
    arguments = ["--trait", "Generosity", "--input", str(path), "--seed-file", str(seeds)]
    arguments += ["--output", str(output), "--base-url", server.url, "--definition", "Open hands."]
    assert label_sentences.main(arguments) == 0
    record = record_of(output)
    assert record["definition"] == "Open hands."  # two files of one name are told apart by their folders
    assert record["input_sha256"] == {str(path): sha256_of(path), str(seeds): sha256_of(seeds)}


def test_the_record_of_an_import_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "load_environment", lambda: None)
    ethics = tmp_path / "ethics" / "virtue_train.csv"
    ethics.parent.mkdir()
    ethics.write_text("label,scenario\n1,Raj sold the fiddle as a master's work. [SEP] dishonest\n", "utf-8")
    output = tmp_path / "dishonesty.csv"
    common = ["--trait", "Dishonesty", "--output", str(output)]
    assert import_hendrycks.main([*common, "--ethics-dir", str(ethics.parent), "--by-hand"]) == 0
    candidates = tmp_path / "dishonesty.candidates.csv"
    assert record_of(candidates)["input_sha256"] == {"virtue_train.csv": sha256_of(ethics)}

    candidates.write_text(candidates.read_text("utf-8").replace("work.,", "work.,3"), "utf-8")
    assert import_hendrycks.main([*common, "--labelled", str(candidates), "--per-label", "1"]) == 1
    record = record_of(output)
    assert record["input_sha256"] == {candidates.name: sha256_of(candidates)}
    assert record["arguments"]["labelled"] == str(candidates)
    assert "usage" not in record
    assert len(read(output)) == 1


def test_a_definition_beside_the_default_output_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "load_environment", lambda: None)
    monkeypatch.setattr(import_hendrycks, "STAGE", tmp_path)
    folder = tmp_path / "initial_hendrycks_data"
    folder.mkdir()
    (folder / "dishonesty.definition.txt").write_text("Telling untruths.", encoding="utf-8")
    (folder / "virtue_test.csv").write_text("label,scenario\n1,I lied to him. [SEP] lying\n", "utf-8")
    assert import_hendrycks.main(["--trait", "Dishonesty", "--ethics-dir", str(folder), "--by-hand"]) == 0
    assert record_of(folder / "dishonesty.candidates.csv")["definition"] == "Telling untruths."


def test_a_log_says_what_is_waited_for(server, seeds, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.1)
    server.delay = 0.35
    assert expand_dataset.main(expand_arguments(server, seeds, tmp_path / "g.csv", each=2)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "scenes: 0 of 1 requests after 00:00" in lines
    assert any(line.startswith("round 1: judge: 0 of 1 requests after") for line in lines)
