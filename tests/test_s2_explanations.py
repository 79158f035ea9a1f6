"""`explain_features.py` against a model on loopback: what it is shown, what it scores, and what is kept."""

import json
import re
import shutil

import analyze_features
import explain_features
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from feature_explanations import shown_sentences
from feature_explanations.detection_score import detection_score
from feature_explanations.explanation_prompts import parse_detections, parse_explanation
from loopback_llm import KEY, loopback_llm, user_text
from ranking_results.feature_notes import add_notes
from sklearn.metrics import balanced_accuracy_score

PLACES = [(1, 8, 5), (1, 16, 7)]  # the planted features, both ranked
EXPLANATIONS = {(1, 8, 5): "feature <five> & its like", (1, 16, 7): "feature seven"}


class Oracle:
    """Answers as a model that knows where each feature fires, and errs on every fifth sentence."""

    def __init__(self, folder) -> None:
        self.sentences = pd.read_csv(folder / "sentences.csv")["sentence"].tolist()
        offsets = np.load(folder / "tokens.npz")["sentence_offsets"]
        self.peaks = {}
        for layer, l0, feature_id in PLACES:
            acts = scipy.sparse.load_npz(folder / f"sae_activations/layer_{layer}_l0_{l0}.npz").toarray()
            peaks = np.maximum.reduceat(acts[:, feature_id], offsets[:-1])
            self.peaks[layer, l0, feature_id] = peaks

    def __call__(self, body: dict) -> dict:
        text = user_text(body)
        if '{"explanation"' in text:
            first = re.search(r"^\[10\] (.*)$", text, re.MULTILINE)[1]
            return {"explanation": EXPLANATIONS[self.feature_of(first.replace("<<", "").replace(">>", ""))]}
        place = next(place for place, said in EXPLANATIONS.items() if f"Explanation: {said}\n" in text)
        asked = json.loads(text.splitlines()[-1])
        return {
            "detections": [
                {
                    "id": entry["id"],
                    "fires": bool(self.judged(place, self.sentences.index(entry["sentence"]))),
                }
                for entry in asked
            ]
        }

    def feature_of(self, sentence: str) -> tuple[int, int, int]:
        """The feature whose discovery maximum lies in this sentence (tokens end before its number)."""
        row = next(i for i, text in enumerate(self.sentences) if text.startswith(sentence + " #"))
        return max(PLACES, key=lambda place: self.peaks[place][row] / self.peaks[place].max())

    def judged(self, place, row: int) -> bool:
        return (self.peaks[place][row] > 0) != (row % 5 == 0)


@pytest.fixture(scope="module")
def finished(feature_folder, tmp_path_factory):
    results = tmp_path_factory.mktemp("s2") / "planted_results"
    quick = ["--permutations", "50", "--bootstrap", "20", "--jobs", "2"]
    assert analyze_features.main(["--input", str(feature_folder), "--output", str(results), *quick]) == 0
    return results


@pytest.fixture
def results(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "planted_results")


@pytest.fixture
def server(feature_folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with loopback_llm() as server:
        server.answer_to = Oracle(feature_folder)
        yield server


def explain(feature_folder, results, server, *options) -> int:
    folders = ["--input", str(feature_folder), "--results", str(results)]
    return explain_features.main([*folders, "--base-url", server.url, "--max-retries", "1", *options])


def content_of(results) -> dict:
    return json.loads((results / "explanations.json").read_text(encoding="utf-8"))


def report_of(results) -> str:
    return (results / "report.html").read_text(encoding="utf-8")


def test_explanations_are_scored_on_held_out_sentences(feature_folder, results, server, capsys):
    assert explain(feature_folder, results, server) == 0
    oracle = server.answer_to
    parts = pd.read_csv(results / "split.csv")["part"].to_numpy()
    entries = content_of(results)["explanations"]
    assert [(e["layer"], e["average_l0"], e["feature_id"]) for e in entries] == PLACES
    for place, entry in zip(PLACES, entries):
        assert entry["explanation"] == EXPLANATIONS[place]
        rows = np.array([tested["sentence_index"] for tested in entry["tested"]])
        assert (parts[rows] == "confirmation").all()
        assert len(set(rows)) == len(rows)
        fires = oracle.peaks[place][rows] > 0
        judged = [oracle.judged(place, row) for row in rows]
        assert [tested["fires"] for tested in entry["tested"]] == fires.tolist()
        assert [tested["judged"] for tested in entry["tested"]] == judged
        score = entry["score"]
        assert score["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(fires, judged))
        assert 0 < score["low"] <= score["balanced_accuracy"] <= score["high"] <= 1
        assert (score["n_firing"], score["n_silent"]) == (fires.sum(), (~fires).sum())
    report = report_of(results)
    assert "<blockquote><p>feature &lt;five&gt; &amp; its like</p></blockquote>" in report
    assert f"balanced accuracy of <strong>{entries[0]['score']['balanced_accuracy']:.2f}</strong>" in report
    out = capsys.readouterr().out
    assert "2 of 2 features explained, 2 scored" in out
    assert out.rstrip().endswith(f"open {results / 'report.html'}")


def test_the_model_sees_discovery_sentences_to_explain_and_bare_held_out_ones_to_judge(
    feature_folder, results, server
):
    assert explain(feature_folder, results, server) == 0
    table = pd.read_csv(results / "split.csv").assign(sentence=server.answer_to.sentences)
    discovery, held_out = (
        set(table.loc[table["part"] == part, "sentence"]) for part in ("discovery", "confirmation")
    )
    beginnings = {sentence.rpartition(" #")[0] for sentence in discovery}
    for body in server.bodies:
        system, user = (message["content"] for message in body["messages"])
        if '{"explanation"' in user:
            strongest = re.findall(r"^\[(\d+)\] (.*)$", user, re.MULTILINE)
            assert [int(strength) for strength, _ in strongest] == sorted(
                (int(strength) for strength, _ in strongest), reverse=True
            )
            assert len(strongest) == 20
            for _, marked in strongest:
                assert re.search(r"<<\S", marked)
                assert marked.replace("<<", "").replace(">>", "") in beginnings
            misses = re.findall(r"^- (.*)$", user, re.MULTILINE)
            assert len(misses) == 10
            assert set(misses) <= discovery
            assert not any(sentence in user for sentence in held_out)
        else:
            asked = json.loads(user.splitlines()[-1])
            assert {entry["sentence"] for entry in asked} <= held_out
            assert len(asked) <= 10
            assert set(asked[0]) == {"id", "sentence"}
            assert "<<" not in system + user
        assert "planted" not in system + user  # the trait's name


def test_near_misses_do_not_fire(feature_folder, results, server):
    assert explain(feature_folder, results, server, "--top-n", "1") == 0
    user = next(user_text(body) for body in server.bodies if '{"explanation"' in user_text(body))
    misses = re.findall(r"^- (.*)$", user, re.MULTILINE)
    oracle = server.answer_to
    assert {oracle.peaks[1, 8, 5][oracle.sentences.index(miss)] for miss in misses} == {0}


def test_a_second_run_pays_for_nothing_and_writes_the_same(feature_folder, results, server, capsys):
    assert explain(feature_folder, results, server) == 0
    first, n_asked = (results / "explanations.json").read_bytes(), len(server.bodies)
    assert explain(feature_folder, results, server) == 0
    assert len(server.bodies) == n_asked
    assert (results / "explanations.json").read_bytes() == first
    assert f"0 answers of the endpoint, {n_asked} from the journal" in capsys.readouterr().out


def test_a_run_that_was_stopped_asks_only_for_the_rest(feature_folder, results, server, capsys):
    server.fault = lambda number, body: "401" if number > 3 else None
    assert explain(feature_folder, results, server, "--concurrency", "1") == 2
    out, err = capsys.readouterr()
    error = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "HTTP 401" in error[0]
    assert "3 answers are kept, the same command continues" in error[0]
    assert KEY not in out + err
    assert not (results / "explanations.json").exists()
    journal = results / "explanations.journal.jsonl"
    with journal.open("a") as handle:
        handle.write('{"key": "cut o')  # as a crash leaves it
    server.fault = lambda number, body: None
    n_asked = len(server.bodies)
    assert explain(feature_folder, results, server, "--dry-run") == 0
    total = int(re.search(r"(\d+) requests such as these", capsys.readouterr().out)[1])
    assert explain(feature_folder, results, server) == 0
    assert len(server.bodies) - n_asked == total - 3
    assert len(content_of(results)["explanations"]) == 2
    assert all(json.loads(line)["content"] for line in journal.read_text().splitlines())


def test_a_dry_run_sends_nothing_and_says_what_it_would_cost(feature_folder, results, server, capsys):
    prices = ["--price-in", "2", "--price-out", "8"]
    before = sorted(path.name for path in results.iterdir())
    assert explain(feature_folder, results, server, "--dry-run", *prices) == 0
    assert server.bodies == []
    assert sorted(path.name for path in results.iterdir()) == before
    out = capsys.readouterr().out
    n, tokens_in, tokens_out, cost = re.search(
        r"2 features, (\d+) requests such as these, about ([\d,]+) tokens in, ([\d,]+) out, "
        r"cost about ([\d.]+)",
        out,
    ).groups()
    tokens_in, tokens_out = int(tokens_in.replace(",", "")), int(tokens_out.replace(",", ""))
    assert float(cost) == pytest.approx((2 * tokens_in + 8 * tokens_out) / 1e6, abs=1e-4)
    assert "It fires in:" in out
    assert explain(feature_folder, results, server, *prices) == 0
    assert len(server.bodies) == int(n)
    characters = sum(len(m["content"]) for body in server.bodies for m in body["messages"])
    assert tokens_in == pytest.approx(characters / 4, rel=0.05)
    assert content_of(results)["usage"]["cost"] == pytest.approx((200 + 80) * int(n) / 1e6)


def test_an_unusable_answer_is_asked_for_again(feature_folder, results, server):
    server.fault = lambda number, body: "malformed" if number == 1 else "fenced"
    assert explain(feature_folder, results, server, "--concurrency", "1") == 0
    assert server.bodies[0] == server.bodies[1]
    assert all(entry["score"] for entry in content_of(results)["explanations"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [("malformed", "no usable answer in 2 tries"), ("400 no", "the server refused a question")],
)
def test_a_feature_without_an_answer_is_named_and_the_others_are_kept(
    feature_folder, results, server, capsys, fault, said
):
    five = EXPLANATIONS[1, 8, 5]
    server.fault = lambda number, body: fault if f"Explanation: {five}" in user_text(body) else None
    assert explain(feature_folder, results, server) == 1
    assert f"note: layer 1, L0 8, feature 5: {said}" in capsys.readouterr().err
    first, second = content_of(results)["explanations"]
    assert (first["explanation"], first["score"]) == (five, None)
    assert second["score"] is not None
    assert f"No score: {said}" in report_of(results)


def test_the_key_is_in_no_file_and_no_message(feature_folder, results, server, capfd):
    server.fault = lambda number, body: "echo"
    assert explain(feature_folder, results, server) == 0
    server.fault = lambda number, body: "400 no"
    assert explain(feature_folder, results, server, "--examples", "5") == 1
    server.fault = lambda number, body: "403 no"
    assert explain(feature_folder, results, server, "--examples", "6") == 2
    files = "".join(path.read_text() for path in results.iterdir() if path.is_file())
    assert KEY not in files + "".join(capfd.readouterr())
    assert "[key]" in files


def test_without_held_out_sentences_there_is_no_score_but_an_explanation(feature_folder, tmp_path, server):
    results = tmp_path / "planted_results"
    quick = ["--permutations", "20", "--bootstrap", "10", "--confirm-share", "0", "--top-n", "1"]
    assert analyze_features.main(["--input", str(feature_folder), "--output", str(results), *quick]) == 0
    assert explain(feature_folder, results, server) == 0
    (entry,) = content_of(results)["explanations"]
    assert entry["explanation"]
    assert (entry["score"], entry["problem"]) == (None, "no sentences were held out")
    assert "No score: no sentences were held out." in report_of(results)


@pytest.mark.slow
def test_explanations_of_another_split_are_not_shown(feature_folder, results, server):
    assert explain(feature_folder, results, server) == 0
    quick = ["--input", str(feature_folder), "--permutations", "20", "--bootstrap", "10", "--seed", "1"]
    assert analyze_features.main(["--output", str(results), *quick]) == 0
    assert "explanations.json is of other results" in report_of(results)
    assert "blockquote><p>" not in report_of(results)
    assert explain(feature_folder, results, server) == 0
    assert "blockquote><p>" in report_of(results)


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1}'])
def test_explanations_that_are_none_of_ours_are_named(results, text):
    (results / "explanations.json").write_text(text)
    with pytest.raises(ValueError, match=r"explanations\.json is not of format 1; delete it"):
        add_notes(results)


def test_features_that_neuronpedia_explains_are_left_out(feature_folder, results, server, capsys):
    page = {"url": "https://a/tiny/1-res/5", "fetched": "2026-01-01", "activations": []}
    page["explanations"] = [{"description": "known", "author_model": None, "method": None}]
    cache = {"format_version": 1, "address": "https://a", "features": {"tiny/1-res/5": page}}
    cache |= {"own_list": None, "not_found": [], "failure": None, "quick_lists": []}
    (results / "neuronpedia.json").write_text(json.dumps(cache))
    assert explain(feature_folder, results, server) == 0
    assert [entry["feature_id"] for entry in content_of(results)["explanations"]] == [7]
    assert (
        "1 ranked features to explain; left out, because explained on Neuronpedia: 1"
        in capsys.readouterr().out
    )
    assert "<blockquote><p>known</p>" in report_of(results)


def test_results_of_another_run_are_refused(feature_folder, results, server, capsys):
    run = json.loads((results / "run.json").read_text())
    run["features_run"]["input_sha256"] = "1" * 64
    (results / "run.json").write_text(json.dumps(run))
    assert explain(feature_folder, results, server) == 2
    assert "was computed from another run than" in capsys.readouterr().err
    assert server.bodies == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--base-url", "https://api.openai.com/v1"], "no API key: set OPENAI_API_KEY"),
        (["--base-url", "localhost:8000"], "expected a URL such as"),
        (["--price-in", "1"], "--price-in and --price-out go together"),
    ],
)
def test_bad_settings_are_named_in_one_line(
    feature_folder, results, server, capsys, monkeypatch, options, message
):
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert explain(feature_folder, results, server, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# The parts


@pytest.mark.parametrize(
    ("firing", "text"),
    [
        ([1, 2, 4], "She <<lied again>>, <<twice>>"),
        ([0], "<<She>> lied again, twice"),
        ([], "She lied again, twice"),
    ],
)
def test_runs_of_firing_tokens_are_marked(firing, text):
    tokens = ["She", " lied", " again", ",", " twice", "\n"]
    assert shown_sentences.marked_text(tokens, [i in firing for i in range(6)]) == text


def test_near_misses_are_those_of_like_words():
    sentences = [
        "the baker lied to him",
        "trains run on rails",
        "the baker told him the truth",
        "the baker lies",
    ]
    words = shown_sentences.word_vectors(sentences)
    assert shown_sentences.nearest(np.array([1, 2]), np.array([0, 3]), words).tolist() == [2, 1]
    assert shown_sentences.nearest(np.array([1]), np.array([], dtype=int), words).tolist() == []


def test_tested_sentences_spread_from_strong_to_weak():
    firing, silent = np.arange(100), np.arange(100, 300)
    tested, fires = shown_sentences.tested_sentences(firing, silent, 5, [0])
    assert sorted(tested[fires]) == [0, 25, 50, 74, 99]
    assert fires.sum() == (~fires).sum() == 5
    assert (tested[~fires] >= 100).all()
    few, fires = shown_sentences.tested_sentences(firing[:2], silent[:0], 5, [0])
    assert sorted(few) == [0, 1]
    assert fires.all()


def test_the_interval_resamples_groups():
    rng = np.random.default_rng(0)
    fires = np.arange(200) % 2 == 0
    right = rng.random(200) < 0.8
    judged = np.where(right, fires, ~fires)
    single = detection_score(fires, judged, np.arange(200), 0)
    assert single.balanced_accuracy == pytest.approx(balanced_accuracy_score(fires, judged))
    width = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 200)
    assert single.high - single.low == pytest.approx(width, rel=0.2)
    # Ten copies of each sentence in one group say no more than one.
    copies = detection_score(*(np.repeat(a[:20], 10) for a in (fires, judged, np.arange(20))), 0)
    once = detection_score(fires[:20], judged[:20], np.arange(20), 0)
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high), abs=0.03)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        '{"detections": [{"id": "s01", "fires": true}]}',
        '{"detections": [{"id": "s01", "fires": true}, {"id": "s01", "fires": false}]}',
        '{"detections": [{"id": "s01", "fires": true}, {"id": "s03", "fires": false}]}',
        '{"detections": [{"id": "s01", "fires": "perhaps"}, {"id": "s02", "fires": false}]}',
        '{"detections": [{"id": "s01", "fires": tr',
    ],
)
def test_judgements_must_cover_every_sentence_once(content):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_detections(content, 2)
    good = 'Well.\n```json\n{ "detections": [{"id": "s02", "fires": 0}, {"id": "s01", "fires": true}]}\n```'
    assert parse_detections(good, 2) == [True, False]


def test_an_explanation_is_one_line():
    assert parse_explanation('```{"explanation": " lies\\n to  friends "}```') == "lies to friends"
    with pytest.raises(ValueError, match="empty"):
        parse_explanation('{"explanation": " "}')
