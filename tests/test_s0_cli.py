"""The commands of s0 without an endpoint: the missing key, dry runs, prompts, bad input in one line."""

import re
from pathlib import Path

import expand_dataset
import generate_sentences
import label_sentences
import numpy as np
import pytest
from endpoint import settings
from prompts.answer_forms import JUDGEMENTS, BadAnswerError
from prompts.messages import examples_for, sentence_messages
from prompts.rubric import DEFINITIONS, Trait, find_trait
from prompts.scene_plan import WORD_BANDS, Slot
from sentences.drafts import Draft
from sentences.labelled_tables import LabelledSentence
from sentences.sentence_judge import agreement, median_labels
from sklearn.metrics import cohen_kappa_score

STAGE = Path(__file__).resolve().parents[1] / "s0_dataset_generation"
README_COMMAND = ["--trait", "Dishonesty", "--seed-file", "initial_hendrycks_data/dishonesty.csv"]
for label, count in ((3, 300), (2, 250), (1, 150), (0, 100)):
    README_COMMAND += [f"--label{label}-count", str(count)]
KEY = "sk-unused-0123456789"


@pytest.fixture(autouse=True)
def without_endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(settings, "load_environment", lambda: None)
    monkeypatch.chdir(STAGE)


@pytest.fixture
def shipped_files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in STAGE.rglob("*.csv")}


def one_line(capsys) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_the_readme_command_without_a_key(capsys, shipped_files):
    assert expand_dataset.main(README_COMMAND) == 2
    error = one_line(capsys)
    for part in (
        "no API key",
        "OPENAI_API_KEY",
        ".env.example",
        "--base-url",
        "expanded_data/dishonesty.csv",
    ):
        assert part in error
    assert {path: path.read_bytes() for path in STAGE.rglob("*.csv")} == shipped_files


def test_a_trait_without_a_shipped_dataset_names_none(capsys, tmp_path):
    seeds = tmp_path / "seeds.csv"
    seeds.write_text("sentence,concept_strength_label\nI gave.,3\n", encoding="utf-8")
    arguments = ["--trait", "Generosity", "--seed-file", str(seeds), "--label3-count", "1"]
    assert expand_dataset.main(arguments) == 2
    assert "no dataset of this trait is shipped" in one_line(capsys)


def test_the_shipped_dataset_is_not_replaced_unasked(capsys, monkeypatch, shipped_files):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert expand_dataset.main(README_COMMAND) == 2
    error = one_line(capsys)
    assert error.startswith("error: expanded_data/dishonesty.csv exists")
    assert "--output" in error
    assert "--overwrite" in error
    assert {path: path.read_bytes() for path in STAGE.rglob("*.csv")} == shipped_files
    assert not (STAGE / "expanded_data" / "dishonesty.journal.jsonl").exists()


def test_the_key_is_read_from_dotenv_and_the_environment_has_precedence(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(settings, "STAGE", tmp_path)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\nOPENAI_BASE_URL=http://localhost:1/v1\n", "utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:2/v1")
    arguments = expand_dataset.build_parser().parse_args(README_COMMAND)
    found = settings.settings_from(arguments, Trait("Dishonesty", ""))
    assert (found.api_key, found.base_url) == (KEY, "http://localhost:2/v1")
    assert KEY not in repr(found)


def test_a_local_server_needs_no_key():
    command = [*README_COMMAND, "--base-url", "http://localhost:8000/v1"]
    found = settings.settings_from(expand_dataset.build_parser().parse_args(command), Trait("Dishonesty", ""))
    assert (found.api_key, found.base_url) == ("no-key-needed", "http://localhost:8000/v1")


@pytest.mark.parametrize("script", [expand_dataset, generate_sentences])
def test_a_dry_run_shows_prompts_and_an_estimate_without_a_key(script, capsys, tmp_path):
    arguments = [*README_COMMAND, "--output", str(tmp_path / "x.csv"), "--dry-run"]
    assert script.main([*arguments, "--price-in", "2", "--price-out", "10"]) == 0
    text = capsys.readouterr().out
    seeds = (STAGE / "initial_hendrycks_data" / "dishonesty.csv").read_text(encoding="utf-8").splitlines()
    assert seeds[-1].split(",3,")[0].strip('"').replace('""', '"') in text
    assert DEFINITIONS["dishonesty"] in text
    requests = 15 + 80 + (40 if script is expand_dataset else 0)
    assert re.search(
        rf"nothing sent: about {requests} requests, [\d,]+ tokens in, [\d,]+ out, cost about \d", text
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_labelling(capsys, tmp_path):
    arguments = ["--trait", "Dishonesty", "--input", "expanded_data/dishonesty.csv", "--dry-run"]
    assert label_sentences.main([*arguments, "--output", str(tmp_path / "x.csv"), "--judge-votes", "3"]) == 0
    assert "nothing sent: about 153 requests" in capsys.readouterr().out


SEEDS = "initial_hendrycks_data/dishonesty.csv"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--label3-count", "0"], "nothing to write"),
        (["--price-in", "1"], "--price-in and --price-out go together"),
        (["--base-url", "localhost:8000"], "--base-url"),
        (["--base-url", "ftp://host/v1"], "--base-url"),
        (["--seed-file", "no/such.csv"], "no/such.csv: no such file"),
        (["--seed-file", "."], ".: no such file"),
        (["--trait", "!?"], "--trait '!?'"),
        (["--definition", " "], "--definition is empty"),
        (["--output", "expanded_data"], "expanded_data: a folder"),
        (["--output", "expanded_data/dishonesty.csv/x.csv"], "expanded_data/dishonesty.csv"),
        (["--output", "/proc/no-such-folder/x.csv"], "/proc/no-such-folder"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(capsys, monkeypatch, tmp_path, changes, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    base = ["--trait", "Dishonesty", "--seed-file", SEEDS, "--label3-count", "5"]
    base += ["--output", str(tmp_path / "new" / "x.csv")]
    assert expand_dataset.main(base + changes) == 2
    assert says in one_line(capsys)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--label3-count", ["many", "1.5", "", "-1"]),
        ("--batch-size", ["0"]),
        ("--max-rounds", ["0"]),
        ("--judge-votes", ["2", "-1"]),
        ("--judge-batch-size", ["0"]),
        ("--concurrency", ["0"]),
        ("--max-retries", ["-1"]),
        ("--timeout", ["0", "nan"]),
        ("--temperature", ["-1"]),
        ("--price-in", ["-1"]),
        ("--seed", ["-1"]),
    ],
)
def test_a_value_out_of_range_is_argparse_s_error(capsys, option, values):
    for value in values:
        with pytest.raises(SystemExit) as stopped:
            expand_dataset.main(["--trait", "X", "--seed-file", SEEDS, option, value])
        assert stopped.value.code == 2
        assert f"argument {option}: {value!r} is not" in capsys.readouterr().err


def test_an_unreadable_key_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-“quoted”")
    assert expand_dataset.main([*README_COMMAND, "--output", str(tmp_path / "x.csv")]) == 2
    error = one_line(capsys)
    assert "OPENAI_API_KEY holds characters" in error
    assert "quoted" not in error


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text\nA.\n", "no column sentence"),
        ("sentence\nA.\n\nA.\n", "the same sentence as line 2"),
        ("sentence,intended_label\n,2\n", "line 2: empty sentence"),
        ("sentence,intended_label\nA.,7\n", "line 2: label '7'"),
    ],
)
def test_bad_input_of_labelling(capsys, monkeypatch, tmp_path, content, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    path = tmp_path / "in.csv"
    path.write_text(content, encoding="utf-8")
    arguments = ["--trait", "X", "--input", str(path), "--output", str(tmp_path / "out.csv")]
    assert label_sentences.main(arguments) == 2
    assert says in one_line(capsys)


# Definitions and prompts


def test_where_a_definition_comes_from(tmp_path):
    seeds = tmp_path / "seeds.csv"
    assert find_trait("Dishonesty", None, seeds).definition == DEFINITIONS["dishonesty"]
    assert find_trait("Tidiness", None, seeds).definition == "Tidiness in the ordinary sense of the word."
    beside = tmp_path / "dishonesty.definition.txt"
    beside.write_text("Telling\n  untruths.\n", encoding="utf-8")
    assert find_trait("Dishonesty", None, seeds).definition == "Telling untruths."
    assert find_trait("Dishonesty", "Mine.", seeds).definition == "Mine."
    beside.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="empty"):
        find_trait("Dishonesty", None, seeds)


def test_every_shipped_trait_has_a_definition():
    shipped = {path.stem for path in (STAGE / "initial_hendrycks_data").glob("*.csv")}
    assert set(DEFINITIONS) <= shipped


def test_examples_fall_back_to_the_nearest_label():
    seeds = [LabelledSentence("one", 1, "a"), LabelledSentence("three", 3, "b")]
    assert examples_for(seeds, 3) == (3, ["three"])
    assert examples_for(seeds, 2) == (1, ["one"])
    assert examples_for(seeds, 0) == (1, ["one"])
    slots = [Slot("s", "A scene.", 0, (6, 10), "first person")]
    text = sentence_messages(Trait("T", "D."), seeds, slots, ["I was"])[1]["content"]
    assert "There is no example of label 0. For tone only, sentences of label 1:\n- one\n" in text
    assert "These openings are used up: I was." in text


def test_word_bands_are_balanced_over_the_scenes():
    """For any number of scenes the bands differ by at most one: fewer scenes for a label change nothing."""
    for n in range(1, 60):
        bands = [WORD_BANDS[i % len(WORD_BANDS)] for i in range(n)]
        counts = [bands.count(band) for band in WORD_BANDS]
        assert max(counts) - min(counts) <= 1


# Answers and votes


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no JSON"),
        ("Sorry.", "no JSON"),
        ('{"judgements": [{"sentence_id": "s1", "label": 1}', "malformed or truncated"),
        ('{"labels": []}', "no list 'judgements'"),
        ('{"judgements": {"s1": 1}}', "no list 'judgements'"),
        ('{"judgements": []}', "no valid entry"),
        ('{"judgements": [{"sentence_id": "s1", "label": 4}]}', "no valid entry"),
        ('{"judgements": [{"sentence_id": "s1", "label": "1"}]}', "no valid entry"),
        ('{"judgements": [{"sentence_id": "s1", "label": true}]}', "no valid entry"),
        ('{"judgements": [{"sentence_id": "s1", "label": 1.0}]}', "no valid entry"),
        ('{"judgements": [{"sentence_id": "s1", "label": 1.5}]}', "no valid entry"),
        ('{"judgements": [{"sentence_id": "s1"}]}', "no valid entry"),
    ],
)
def test_unusable_answers(content, problem):
    with pytest.raises(BadAnswerError, match=problem):
        JUDGEMENTS.parse(content)


def test_valid_entries_are_kept_beside_invalid_ones():
    content = 'Well: {"judgements": [{"sentence_id": "a", "label": 0, "why": "x"}, {"sentence_id": 3}, 5]} '
    "done"
    assert [(item.sentence_id, item.label) for item in JUDGEMENTS.parse(content)] == [("a", 0)]


def test_thoughts_and_drafts_before_the_answer_are_passed_over():
    draft = '{"judgements": [{"sentence_id": "a", "label": 0}]}'
    final = draft.replace("0", "3")
    items = JUDGEMENTS.parse(f"<think>{{a}} is hard; {draft}?</think> {final}")
    assert [item.label for item in items] == [3]
    items = JUDGEMENTS.parse(f'{{"why": "x", {final[1:]}')
    assert [item.label for item in items] == [3]


def test_median_labels_never_invent_one():
    votes = np.array([[0, 3, 3], [1, 1, 2], [np.nan, 2, 2], [np.nan] * 3])
    assert median_labels(votes) == [3, 1, None, None]


def drafts_judged(intended, judged) -> list[tuple[Draft, int]]:
    return [
        (Draft(f"Sentence {n}.", *pair, "g"), label) for n, (*pair, label) in enumerate(zip(intended, judged))
    ]


def test_agreement_against_scikit_learn():
    rng = np.random.default_rng(0)
    intended = rng.integers(0, 4, 100)
    judged = np.clip(intended + rng.integers(-1, 2, 100), 0, 3)
    result = agreement(drafts_judged(intended, judged))
    assert result["quadratic_kappa"] == pytest.approx(
        cohen_kappa_score(intended, judged, weights="quadratic"), abs=1e-4
    )
    matrix = np.array(result["confusion_intended_by_judged"])
    assert matrix[2, 3] == ((intended == 2) & (judged == 3)).sum()
    assert result["equal"] == matrix.trace() / 100
    assert agreement([])["quadratic_kappa"] is None
    assert agreement(drafts_judged([2, 2], [2, 2]))["quadratic_kappa"] is None
    assert agreement(drafts_judged([2, 2], [2, 2]))["equal"] == 1.0
    assert (
        agreement(drafts_judged([2, None], [2, 3]))["n_judged"] == 1
    )  # what nobody intended is not compared
