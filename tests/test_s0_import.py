"""Seed import from small files in the published ETHICS format, by hand and by a judge on loopback."""

import csv
from collections import Counter
from pathlib import Path

import import_hendrycks
import pytest
from endpoint import settings
from loopback_llm import KEY
from test_s0_endpoint import server  # noqa: F401

VIRTUE = """label,scenario
1,Mara told her tutor that the dog had eaten the essay she never wrote. [SEP] deceitful
0,Mara told her tutor that the dog had eaten the essay she never wrote. [SEP] brave
0,Mara told her tutor that the dog had eaten the essay she never wrote. [SEP] honest
1,"Tom, asked who broke the vase, said at once that it had been him. [SEP] honest"
0,"Tom, asked who broke the vase, said at once that it had been him. [SEP] deceitful"
1,Ines swam out to the boy although the current had taken her once. [SEP] brave
1,The cook pretended the fish was fresh and served it to the judge. [SEP] boastful
1,Raj sold the old fiddle as a master's work and kept the receipt hidden. [SEP] dishonest
"""
COMMONSENSE = """label,input,is_short,edited
1,I pretended to be ill so that my sister would do the dishes.,True,False
0,I told my coach the truth about the missed training.,True,False
0,I watered the tomatoes before the sun came up.,True,True
1,I kicked the fence of my neighbour until it fell.,True,False
1,"A long story about a lie, in many paragraphs.",False,False
"""


@pytest.fixture
def ethics(tmp_path) -> Path:
    folder = tmp_path / "ethics"
    for name, text in (("virtue/virtue_train.csv", VIRTUE), ("commonsense/cm_test.csv", COMMONSENSE)):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def without_endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(settings, "load_environment", lambda: None)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def arguments_for(ethics: Path, output: Path, *more: str) -> list[str]:
    return ["--ethics-dir", str(ethics), "--trait", "Dishonesty", "--output", str(output), *more]


def test_candidates_are_proposed_from_annotations_and_words(ethics, tmp_path):
    output = tmp_path / "dishonesty.csv"
    assert import_hendrycks.main(arguments_for(ethics, output)) == 0
    assert not output.exists()
    rows = read(tmp_path / "dishonesty.candidates.csv")
    proposed = {row["sentence"].split()[0] + " " + row["sentence"].split()[1]: row for row in rows}
    labels = {name: row["proposed_label"] for name, row in proposed.items()}
    assert labels == {
        "Mara told": "3",
        "Raj sold": "3",
        "Tom, asked": "1",
        "Ines swam": "0",
        "I pretended": "2",
        "I told": "1",
        "I watered": "0",
    }  # not: the cook, annotated as boastful; the fence, wrong but not dishonest; the long story
    assert {row["concept_strength_label"] for row in rows} == {""}
    assert proposed["Mara told"]["source"] == "virtue_train.csv 2"
    assert len({row["group"] for row in rows}) == len(rows)


def test_labels_filled_in_by_hand_become_seeds(ethics, tmp_path, capsys):
    output = tmp_path / "dishonesty.csv"
    assert import_hendrycks.main(arguments_for(ethics, output)) == 0
    path = tmp_path / "dishonesty.candidates.csv"
    rows = read(path)
    for row in rows:
        row["concept_strength_label"] = "" if row["sentence"].startswith("Ines") else row["proposed_label"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    arguments = ["--trait", "Dishonesty", "--labelled", str(path), "--output", str(output)]
    assert import_hendrycks.main([*arguments, "--per-label", "1"]) == 0
    assert Counter(row["concept_strength_label"] for row in read(output)) == dict.fromkeys("0123", 1)
    assert list(read(output)[0]) == ["sentence", "concept_strength_label", "group"]
    assert import_hendrycks.main([*arguments, "--per-label", "2", "--overwrite"]) == 1
    assert "label 0 has 1 of 2" in capsys.readouterr().out


def test_a_judge_labels_the_candidates(server, ethics, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judged = {"Mara": 3, "Raj": 2, "Tom,": 1, "Ines": 0}
    server.judged_label = lambda sentence, label, body: judged.get(sentence.split()[0], 0)
    output = tmp_path / "seeds" / "dishonesty.csv"
    arguments = arguments_for(ethics, output, "--base-url", server.url, "--per-label", "1")
    assert import_hendrycks.main(arguments) == 0
    seeds = {row["sentence"].split()[0]: row["concept_strength_label"] for row in read(output)}
    assert len(seeds) == 4
    assert (seeds["Mara"], seeds["Raj"], seeds["Tom,"]) == ("3", "2", "1")
    asked = len(server.bodies)
    assert import_hendrycks.main(arguments) == 0  # again: from the journal, over its own files
    assert len(server.bodies) == asked
    assert all("proposed" not in str(body["messages"]) for body in server.bodies)


def test_by_hand_asks_nobody(server, ethics, tmp_path):  # noqa: F811
    output = tmp_path / "dishonesty.csv"
    assert import_hendrycks.main(arguments_for(ethics, output, "--base-url", server.url, "--by-hand")) == 0
    assert server.bodies == []


def test_a_trait_of_ones_own(ethics, tmp_path):
    arguments = ["--ethics-dir", str(ethics), "--trait", "Courage", "--output", str(tmp_path / "courage.csv")]
    assert (
        import_hendrycks.main([*arguments, "--words", "Brave, daring", "--opposite-words", "deceitful"]) == 0
    )
    rows = {
        row["sentence"].split()[0]: row["proposed_label"] for row in read(tmp_path / "courage.candidates.csv")
    }
    assert (rows["Ines"], rows["Mara"], rows["Raj"]) == ("3", "1", "0")


def test_the_choice_depends_on_the_seed_only(ethics, tmp_path):
    texts = []
    for name in ("a", "b"):
        output = tmp_path / name / "dishonesty.csv"
        assert import_hendrycks.main(arguments_for(ethics, output, "--candidates-per-label", "1")) == 0
        texts.append(output.with_suffix(".candidates.csv").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 1 + 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda folder: (folder / "virtue/virtue_train.csv").write_text("label,scenario\n1,No trait\n"),
            "[SEP]",
        ),
        (
            lambda folder: (folder / "virtue/virtue_train.csv").write_text("label,text\n1,x\n"),
            "no column scenario",
        ),
        (
            lambda folder: (folder / "commonsense/cm_test.csv").write_text(
                "label,input,is_short\n2,x,True\n"
            ),
            "line 2",
        ),
        (lambda folder: [path.unlink() for path in folder.rglob("*.csv")], "none of virtue_train.csv"),
    ],
)
def test_files_in_another_format_are_named(ethics, tmp_path, capsys, change, says):
    change(ethics)
    assert import_hendrycks.main(arguments_for(ethics, tmp_path / "d.csv")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "d.candidates.csv").exists()


def test_nothing_is_overwritten_unasked(ethics, tmp_path, capsys):
    path = tmp_path / "d.candidates.csv"
    path.write_text("labels of an afternoon", encoding="utf-8")
    assert import_hendrycks.main(arguments_for(ethics, tmp_path / "d.csv")) == 2
    assert path.read_text(encoding="utf-8") == "labels of an afternoon"
    assert "--overwrite" in capsys.readouterr().err
    assert import_hendrycks.main(arguments_for(ethics, tmp_path / "d.csv", "--overwrite")) == 0
    assert import_hendrycks.main(["--trait", "Dishonesty", "--labelled", str(path)]) == 2
    assert "no label filled in" in capsys.readouterr().err


def test_a_trait_without_a_word_list(ethics, tmp_path, capsys):
    arguments = ["--ethics-dir", str(ethics), "--trait", "Punctuality", "--output", str(tmp_path / "p.csv")]
    assert import_hendrycks.main(arguments) == 2
    assert "give --words" in capsys.readouterr().err
    assert import_hendrycks.main([*arguments, "--words", " , "]) == 2
    assert "--words is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        import_hendrycks.main(arguments_for(ethics, tmp_path / "p.csv", "--per-label", "0"))
    assert "argument --per-label: '0' is not" in capsys.readouterr().err
