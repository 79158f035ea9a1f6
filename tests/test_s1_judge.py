"""A judge of continuations on a loopback server: ratings, what is asked again, no key anywhere."""

import csv
import json
import shutil

import pytest
import scipy.sparse
from continuation_judge import judged_continuations
from continuation_judge.judge_endpoint import Judge, JudgeError, read_judge
from continuation_judge.judged_continuations import with_ratings
from continuation_judge.rating_journal import read_journal
from continuation_judge.ratings import UnusableAnswerError, read_ratings, with_harmonic_mean
from extract_sae_features import main as extract
from language_model.model_source import ModelSource
from loopback_llm import KEY, loopback_llm
from steer_features import main

TEXTS = ("He shouted at them.", "shout shout shout", "She went home.", "", "He shouted at them.")


@pytest.fixture
def server():
    with loopback_llm() as running:
        running.judged_label = by_criterion
        yield running


def by_criterion(text, _label, body):
    """The server's judge: a concept is there where someone shouts, fluent is what does not repeat itself."""
    if "instruction" in body["messages"][0]["content"]:
        return 1
    if "concept" in body["messages"][0]["content"]:
        return 2 if "shout" in text else 0
    return 0 if text.split()[0] == text.split()[-1] else 1


def judge_at(server, **changes):
    given = {"model": "j", "concept": "aggression", "rates_instructions": False, "base_url": server.url}
    return Judge(**(given | {"api_key": KEY} | changes))


def continuations(texts=TEXTS):
    return [{"prompt": "Then", "alpha": float(i), "text": text} for i, text in enumerate(texts)]


def test_ratings_and_their_harmonic_mean(server, tmp_path):
    journal = tmp_path / "ratings.jsonl"
    rated = with_ratings(continuations(), judge_at(server), journal, seed=0)
    ratings = [entry["rating"] for entry in rated]
    assert ratings[0] == {"concept": 2, "fluency": 1, "harmonic_mean": pytest.approx(4 / 3)}
    assert ratings[1] == {"concept": 2, "fluency": 0, "harmonic_mean": 0}
    assert ratings[2] == {"concept": 0, "fluency": 1, "harmonic_mean": 0}
    assert ratings[3] is None  # nothing was written
    assert ratings[4] == ratings[0]
    assert [entry["alpha"] for entry in rated] == [0, 1, 2, 3, 4]
    asked = [json.loads(body["messages"][1]["content"].splitlines()[-1]) for body in server.bodies]
    assert sorted(len(entries) for entries in asked) == [3, 3]  # each text once, by each of two criteria
    assert "alpha" not in json.dumps(server.bodies)
    # The same again asks nothing; with instructions, only about them.
    assert with_ratings(continuations(), judge_at(server), journal, seed=1) == rated
    assert len(server.bodies) == 2
    more = with_ratings(continuations(), judge_at(server, rates_instructions=True), journal, seed=0)
    assert len(server.bodies) == 3
    assert more[0]["rating"] == {
        "concept": 2,
        "fluency": 1,
        "instruct": 1,
        "harmonic_mean": pytest.approx(3 / 2.5),
    }
    assert '"instruction": "Then"' in server.bodies[-1]["messages"][1]["content"]
    with_ratings(continuations(), judge_at(server, concept="bravery"), journal, seed=0)
    assert len(server.bodies) == 5


def test_harmonic_mean_by_hand():
    assert with_harmonic_mean({"concept": 1, "fluency": 2})["harmonic_mean"] == pytest.approx(4 / 3)
    assert with_harmonic_mean({"concept": 2, "fluency": 2, "instruct": 0})["harmonic_mean"] == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '{"judgements": [{"sentence_id": "1", "label": 2}, {"sentence_id": "2", "label": 0}]}',
            {0: 2, 1: 0},
        ),
        ('Sure: ```{ "judgements": [{"sentence_id": "2", "label": 1, "why": "x"}]}```', {1: 1}),
        ('{"judgements": [{"sentence_id": "1", "label": 3}, {"sentence_id": "2", "label": true}]}', {}),
        ('{"judgements": [{"sentence_id": "9", "label": 1}, {"sentence_id": 1, "label": 1}, "x"]}', {}),
        ('{"judgements": [{"sentence_id": "1", "label": 1}, {"sentence_id": "1", "label": 2}]}', {}),
        ('{"judgements": [{"sentence_id": "1", "label": 1}, {"sentence_id": "1", "label": 1}]}', {0: 1}),
    ],
)
def test_what_an_answer_says(content, expected):
    assert read_ratings(content, 2) == expected


@pytest.mark.parametrize("content", ["", "no", '{"judgements": [', '{"judgements": 3}', "[]"])
def test_what_is_no_answer(content):
    with pytest.raises(UnusableAnswerError):
        read_ratings(content, 2)


@pytest.mark.parametrize(
    "fault",
    ["malformed", "truncated", "too few", "wrong ids", "broken body", "html", "refusal", "400 filter"],
)
def test_what_an_answer_lacks_is_asked_again(server, tmp_path, fault):
    server.fault = lambda number, body: fault if number <= 2 else None
    rated = with_ratings(continuations(), judge_at(server), tmp_path / "ratings.jsonl", seed=0)
    assert [entry["rating"] is None for entry in rated] == [False, False, False, True, False]
    assert len(server.bodies) == 4


def test_what_the_judge_never_rates_has_no_rating_and_is_asked_by_the_next_start(server, tmp_path):
    server.fault = lambda number, body: "400 filter" if "shout shout" in json.dumps(body) else None
    kept = continuations(("shout shout shout",))
    assert with_ratings(kept, judge_at(server), tmp_path / "ratings.jsonl", seed=0)[0]["rating"] is None
    assert len(server.bodies) == 2 * judged_continuations.ROUNDS
    server.fault = lambda number, body: None
    assert with_ratings(kept, judge_at(server), tmp_path / "ratings.jsonl", seed=0)[0]["rating"] is not None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("401 invalid_api_key", "HTTP 401"), ("404 model_not_found", "HTTP 404"), ("402 quota", "HTTP 402")],
)
def test_an_endpoint_that_cannot_serve_ends_the_run_without_the_key(server, tmp_path, fault, expected):
    server.fault = lambda number, body: fault if number > 1 else None
    journal = tmp_path / "ratings.jsonl"
    with pytest.raises(JudgeError) as raised:
        with_ratings(continuations(), judge_at(server), journal, seed=0)
    assert expected in str(raised.value)
    assert KEY not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(read_journal(journal)) == 3  # of the request that was answered


def test_a_server_out_of_reach_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("continuation_judge.judge_endpoint.RETRIES", 0)
    with loopback_llm() as gone:
        judge = judge_at(gone, base_url=gone.url.replace("http://", "http://me:secret@"))
    gone.server_close()
    with pytest.raises(JudgeError, match="cannot be reached") as raised:
        with_ratings(continuations(), judge, tmp_path / "ratings.jsonl", seed=0)
    assert "secret" not in str(raised.value)


def test_a_journal_that_a_crash_cut_off_loses_its_last_line_alone(tmp_path):
    journal = tmp_path / "ratings.jsonl"
    journal.write_text('{"key": "a", "rating": 2}\n{"key": "b", "rat')
    assert read_journal(journal) == {"a": 2}
    assert journal.read_text() == '{"key": "a", "rating": 2}\n'
    journal.write_text('{"key": "a", "rating": 7}\n')
    with pytest.raises(ValueError, match=r"ratings\.jsonl, line 1: not a rating"):
        read_journal(journal)


def test_where_the_judge_is(monkeypatch):
    monkeypatch.setattr("continuation_judge.judge_endpoint.load_dotenv", lambda _: None)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert read_judge(None, "calm", False, None) is None
    with pytest.raises(ValueError, match="--judge needs a key"):
        read_judge("j", "calm", False, None)
    with pytest.raises(ValueError, match="expected a URL"):
        read_judge("j", "calm", False, "localhost")
    assert read_judge("j", "calm", False, "http://localhost:1/v1").url == "http://localhost:1/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:word@here/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = read_judge("j", "calm", False, None)
    assert judge.url == "http://here/v1"
    assert KEY not in repr(judge)


@pytest.fixture(scope="module")
def steered(tmp_path_factory, tiny_gemma2, tiny_saes):
    """A finished steering run of one feature, and the arguments that made it. Do not modify."""
    home = tmp_path_factory.mktemp("judged")
    with (home / "calm.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["sentence", "concept_strength_label"])
        rows.writerows([("The shop was closed.", 0), ("He shouted at the nurse.", 3), ("She told him.", 3)])
    (home / "openings.txt").write_text("The shop\n")
    model = ["--model", tiny_gemma2, "--config", tiny_saes / "configurations.json"]
    model += ["--sae-release", tiny_saes, "--device", "cpu"]
    folder = home / "calm_features"
    assert extract([str(a) for a in ["--input", home / "calm.csv", "--output", folder, *model]]) == 0
    (home / "hand.csv").write_text(f"layer,average_l0,feature_id\n3,9,{a_firing_feature(folder)}\n")
    arguments = ["--features", home / "hand.csv", "--input", folder, *model, "--nulls", 1, "--alphas=-1,1"]
    arguments += ["--bootstrap", 20, "--prompts", home / "openings.txt", "--continuation-tokens", 6]
    assert main([str(a) for a in [*arguments, "--output", home / "out"]]) == 0
    return home / "out", arguments


def a_firing_feature(folder):
    return int(scipy.sparse.load_npz(folder / "sae_activations/layer_3_l0_9.npz").indices[0])


def test_a_finished_run_gets_ratings_and_needs_no_model(steered, server, tmp_path, monkeypatch, capsys):
    finished, arguments = steered
    output = shutil.copytree(finished, tmp_path / "out")
    before = {name: (output / name).read_bytes() for name in ("dose_response.csv", "slopes.csv")}
    monkeypatch.setattr(ModelSource, "load_weights", None)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.fault = lambda number, body: "echo" if number == 1 else None
    given = [*arguments, "--output", output, "--judge", "j", "--concept", "shouting"]
    given += ["--base-url", server.url.replace("http://", "http://me:secret@")]
    assert main([str(a) for a in given]) == 0
    said = capsys.readouterr()
    written = json.loads((output / "continuations.json").read_text())
    assert all((entry["rating"] is None) == (not entry["text"].strip()) for entry in written)
    assert any(entry["rating"] for entry in written)
    judge = json.loads((output / "run.json").read_text())["judge"]
    assert judge == {"model": "j", "url": server.url, "concept": "shouting", "unrated": 0}
    assert {name: (output / name).read_bytes() for name in before} == before
    for content in (said.out, said.err, *(path.read_text() for path in output.rglob("*") if path.is_file())):
        assert KEY not in content
        assert "secret" not in content
    # A later start without a judge keeps the ratings.
    assert main([str(a) for a in [*arguments, "--output", output]]) == 0
    assert json.loads((output / "continuations.json").read_text()) == written


def test_a_judge_without_a_key_is_refused_before_anything_is_measured(steered, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("continuation_judge.judge_endpoint.load_dotenv", lambda _: None)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    capsys.readouterr()
    given = [*steered[1], "--output", tmp_path / "new", "--judge", "j"]
    assert main([str(a) for a in given]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --judge needs a key")
    assert not (tmp_path / "new").exists()
