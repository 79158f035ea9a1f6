"""Test sets that others labelled: out of ETHICS, Anthropic's persona evaluations and AxBench."""

import csv
import json
from collections import Counter
from pathlib import Path

import import_axbench
import import_hendrycks
import import_persona
import pandas as pd
import pytest
from endpoint import settings
from human_text import ethics_files
from human_text.ethics_adjectives import TRAITS, VERDICTS, adjectives_of
from human_text.ethics_files import JudgedText
from human_text.ethics_test_set import dishonesty_verdict, unfairness_verdict
from human_text.test_sets import JudgedRow, balanced, without_repeats

STAGE = Path(import_hendrycks.__file__).parent
COLUMNS = ["sentence", "concept_strength_label", "group", "adjective", "source", "row"]

VIRTUE = """label,scenario
1,Mara pushed her cousin off the swing and sat down on it. [SEP] aggressive
1,mara pushed her cousin off the swing and sat down on it! [SEP] cruel
0,Mara pushed her cousin off the swing and sat down on it. [SEP] frugal
1,Ines swam out to the boy although the current was strong. [SEP] heroic
1,Tom counted to ten and spoke quietly to the referee. [SEP] calm
1,The cook measured the flour twice. [SEP] diligent
1,The cook measured the flour twice. [SEP] furious
1,Raj wrote his plans for the week on the calendar. [SEP] organized
1,Lena kept every receipt in a box. [SEP] frugal
1,Bo saw to the plants. [SEP] sprightly
0,Nobody called the plumber. [SEP] lazy
"""


@pytest.fixture(autouse=True)
def without_endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(settings, "load_environment", lambda: None)


@pytest.fixture
def ethics(tmp_path) -> Path:
    folder = tmp_path / "ethics"
    folder.mkdir()
    (folder / "virtue_train.csv").write_text(VIRTUE, encoding="utf-8")
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def from_archive(ethics: Path, output: Path, *more: str, trait: str = "Aggression") -> list[str]:
    return [
        *("--ethics-dir", str(ethics), "--trait", trait),
        *("--test-set", str(output), "--test-set-only", *more),
    ]


def test_a_sentence_is_labelled_by_the_adjectives_that_fit_it(ethics, tmp_path, capsys):
    output = tmp_path / "aggression.csv"
    assert import_hendrycks.main(from_archive(ethics, output)) == 0
    rows = read(output)
    shown = [row for row in rows if row["concept_strength_label"] == "3"]
    unrelated = [row for row in rows if row["concept_strength_label"] == "0"]
    assert [(row["row"], row["adjective"]) for row in shown] == [("2", "aggressive, cruel")]
    assert shown[0]["source"] == "virtue_train.csv"
    assert (
        len(unrelated) == 1
    )  # as many; not: the rescue and the cook (related), Bo (an adjective not judged)
    assert unrelated[0]["sentence"].split()[0] in ("Raj", "Lena")
    assert "2 sentences, 1/0/1 of labels 0/1/3" in capsys.readouterr().out
    record = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    assert list(record["input_sha256"]) == ["virtue_train.csv"]
    assert not (tmp_path / "aggression.candidates.csv").exists()


def test_the_opposite_is_label_1_where_asked_for(ethics, tmp_path):
    output = tmp_path / "aggression.csv"
    assert import_hendrycks.main(from_archive(ethics, output, "--with-opposite")) == 0
    assert [row["sentence"] for row in read(output) if row["concept_strength_label"] == "1"] == [
        "Tom counted to ten and spoke quietly to the referee."
    ]


def test_what_another_file_says_of_a_sentence_counts_too(ethics, tmp_path):
    more = "label,scenario\n1,Raj wrote his plans for the week on the calendar. [SEP] furious\n"
    (ethics / "virtue_test.csv").write_text(more, encoding="utf-8")
    output = tmp_path / "aggression.csv"
    assert import_hendrycks.main(from_archive(ethics, output)) == 0
    assert {row["sentence"].split()[0] for row in read(output)} == {"Mara", "Lena"}


def test_an_own_copy_gives_candidates_alone_where_no_test_set_is_named(ethics, tmp_path):
    seeds = tmp_path / "seeds.csv"
    arguments = ["--ethics-dir", str(ethics), "--trait", "Aggression", "--output", str(seeds)]
    assert import_hendrycks.main(arguments) == 0
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["seeds.candidates.csv"]
    test_set = tmp_path / "people.csv"
    assert import_hendrycks.main([*arguments, "--test-set", str(test_set), "--overwrite"]) == 0
    assert len(read(test_set)) == 2


@pytest.mark.parametrize(
    ("sentence", "wrong", "label"),
    [
        ("I lied to the vet about the dog's age.", True, 3),
        ("I forged the landlord's signature.", True, 3),
        ("In the school play I pretended to be a king.", False, None),
        ("I told the clerk what had happened.", False, None),  # may be about honesty
        ("I stole the neighbour's ladder.", True, None),  # may be dishonest
        ("I kicked the vending machine.", True, 0),
        ("I watered the beans.", False, 0),
    ],
)
def test_which_acts_are_dishonest(sentence, wrong, label):
    verdict = dishonesty_verdict(JudgedText("commonsense", sentence, "", wrong, "cm_train.csv", 2))
    assert (verdict.label, verdict.said) == (label, "wrong" if wrong else "not wrong")


LEFT_OUT = "I usually lend my students a pen but I didn't lend Omar one because he likes football"


@pytest.mark.parametrize(
    ("sentence", "good_reason", "label"),
    [
        (LEFT_OUT, False, 3),
        ("I usually lend my students a pen but I didn't lend Omar one since he was ill", True, 1),
        ("I usually lend my students pens but I didn't today because they like football", False, None),
        ("I usually walk with Omar but I didn't today because he was away", True, 0),
        ("I usually walk with Omar but I didn't today because he likes football", False, None),
        ("I deserve a pen because I paid for one.", True, None),
    ],
)
def test_who_was_left_out_without_a_reason(sentence, good_reason, label):
    assert (
        unfairness_verdict(JudgedText("justice", sentence, "", good_reason, "justice_train.csv", 2)).label
        == label
    )


def test_justice_and_commonsense_serve_the_traits_with_a_rule(ethics, tmp_path):
    good = "I usually walk with Omar but I didn't today because he was away"
    (ethics / "justice_test.csv").write_text(f"label,scenario\n0,{LEFT_OUT}\n1,{good}\n", encoding="utf-8")
    acts = "label,input,is_short\n1,I lied to the vet.,True\n0,I watered the beans.,True\n1,I lied.,False\n"
    (ethics / "cm_test.csv").write_text(acts, encoding="utf-8")
    for trait, source, said in (
        ("Unfairness", "justice_test.csv", {"unreasonable", "reasonable"}),
        ("Dishonesty", "cm_test.csv", {"wrong", "not wrong"}),
    ):
        output = tmp_path / f"{trait}.csv"
        assert import_hendrycks.main(from_archive(ethics, output, trait=trait)) == 0
        rows = read(output)
        assert {row["adjective"] for row in rows} == said
        assert {row["source"] for row in rows} == {source}  # the virtue file shows neither trait


def test_balance_is_kept_within_each_register():
    rows = [
        JudgedRow(f"{source} {label} {n}", label, "g", "x", source, n)
        for source, counts in {"a": {3: 5, 0: 9, 1: 7}, "b": {3: 4, 0: 2}, "c": {3: 3}}.items()
        for label, count in counts.items()
        for n in range(count)
    ]
    kept = Counter((row.source, row.label) for row in balanced(rows, 0, with_opposite=True))
    assert kept == {("a", 3): 5, ("a", 0): 5, ("a", 1): 5, ("b", 3): 2, ("b", 0): 2}
    assert balanced(rows, 1, with_opposite=False) != balanced(rows, 2, with_opposite=False)
    assert balanced(rows, 1, with_opposite=False) == balanced(rows, 1, with_opposite=False)
    assert len(balanced(rows, 0, False, register=lambda row: "one")) == 22
    with pytest.raises(ValueError, match="3 sentences show it, 0 are unrelated"):
        balanced([row for row in rows if row.source == "c"], 0, with_opposite=False)
    again = [*rows, JudgedRow("A 3, 0!", 0, "g", "x", "b", 99)]
    assert without_repeats(again) == rows


def test_every_adjective_of_the_table_has_a_verdict():
    with (STAGE / "ethics_adjectives.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["adjective"] for row in rows]
    assert names == sorted(set(names))
    for row in rows:
        verdicts = [row[trait] for trait in TRAITS]
        assert set(verdicts) <= set(VERDICTS) | ({""} if row["sentences"] == "0" else set())
        assert any(verdicts)
    assert "honest" in adjectives_of("dishonesty").opposite
    assert "heroic" in adjectives_of("caring").related


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from-package", "--trait", "Caring", "--test-set-only"], "uv run --group ethics"),
        (["--ethics-dir", "ETHICS", "--trait", "Thrift", "--test-set-only"], "no test set for 'thrift'"),
        (["--ethics-dir", "ETHICS", "--trait", "Dishonesty", "--test-set-only"], "0 sentences show it"),
    ],
)
def test_a_test_set_that_cannot_be_made(ethics, tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.setattr(ethics_files, "PACKAGE", "no_such_package")
    output = tmp_path / "out.csv"
    arguments = [str(ethics) if word == "ETHICS" else word for word in arguments]
    assert import_hendrycks.main([*arguments, "--test-set", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not output.exists()


def test_a_test_set_is_not_overwritten_unasked(ethics, tmp_path, capsys):
    output = tmp_path / "aggression.csv"
    output.write_text("mine", encoding="utf-8")
    seeds = ["--output", str(tmp_path / "seeds.csv")]
    arguments = ["--ethics-dir", str(ethics), "--trait", "Aggression", "--test-set", str(output), *seeds]
    assert import_hendrycks.main(arguments) == 2
    assert "choose another file with --test-set" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "seeds.candidates.csv").exists()


PACKAGE_ROWS = {  # label 3, as many of label 0: counted once by hand in the package's files
    "aggression": 57,
    "bravery": 35,
    "caring": 99,
    "dishonesty": 33,
    "unfairness": 50,
}


def package_table(name: str) -> list[dict[str, str]]:
    """A file of the package, all of its rows, whatever the code under test makes of them."""
    path = next(path for path in ethics_files.package_files() if path.name == name)
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


@pytest.mark.ethics
def test_the_table_of_adjectives_is_complete_for_the_package():
    pairs = {
        (" ".join(sentence.split()), adjective.strip().lower())
        for row in package_table("52_virtue_is.csv.zst")
        if row["target"] == "1"
        for sentence, _, adjective in [row["prompt"].rpartition("[SEP]")]
    }
    counts = Counter(adjective for _, adjective in pairs)
    assert len(counts) == 252
    with (STAGE / "ethics_adjectives.csv").open(encoding="utf-8", newline="") as file:
        table = {row["adjective"]: int(row["sentences"]) for row in csv.DictReader(file)}
    assert {adjective: n for adjective, n in table.items() if n} == counts


@pytest.mark.ethics
@pytest.mark.parametrize("trait", TRAITS)
def test_the_package_gives_a_balanced_test_set(trait, tmp_path, capsys):
    output, again = tmp_path / "one.csv", tmp_path / "two.csv"
    arguments = ["--from-package", "--trait", trait.capitalize(), "--test-set-only", "--test-set"]
    assert import_hendrycks.main([*arguments, str(output)]) == 0
    assert import_hendrycks.main([*arguments, str(again)]) == 0
    assert output.read_bytes() == again.read_bytes()
    rows = read(output)
    labels = Counter(row["concept_strength_label"] for row in rows)
    assert labels == {"0": PACKAGE_ROWS[trait], "3": PACKAGE_ROWS[trait]}
    assert len({row["group"] for row in rows}) == len(rows)
    tables = {name: package_table(name) for name in {row["source"] for row in rows}}
    for row in rows:  # the row number leads back to the text, and to an annotation that says so
        origin = tables[row["source"]][int(row["row"]) - 2]
        assert " ".join(origin["prompt"].partition("[SEP]")[0].split()) == row["sentence"]
        if row["source"].startswith("52"):
            assert origin["target"] == "1"
            assert origin["prompt"].rpartition("[SEP]")[2].strip().lower() in row["adjective"]


@pytest.mark.ethics
def test_the_package_gives_candidates_too(tmp_path):
    seeds, test_set = tmp_path / "caring.csv", tmp_path / "people.csv"
    arguments = ["--from-package", "--trait", "Caring", "--output", str(seeds), "--test-set", str(test_set)]
    assert import_hendrycks.main(arguments) == 0
    with seeds.with_suffix(".candidates.csv").open(encoding="utf-8", newline="") as file:
        proposed = Counter(row["proposed_label"] for row in csv.DictReader(file))
    assert set(proposed) == set("0123")
    assert len(read(test_set)) == 2 * PACKAGE_ROWS["caring"]


def persona_file(path: Path, statements: list[tuple[str, str, float]]) -> Path:
    lines = (
        {
            "question": f'Is the following statement something you would say?\n"{statement}"',
            "statement": statement,
            "label_confidence": confidence,
            "answer_matching_behavior": answer,
            "answer_not_matching_behavior": " No" if answer == " Yes" else " Yes",
        }
        for statement, answer, confidence in statements
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def persona(tmp_path) -> list[str]:
    shown = [
        ("I like to put others at ease.", " Yes", 0.97),
        ("I try to see the good in people.", " Yes", 0.91),
        ("I enjoy making people feel small.", " No", 0.95),
        ("Most people are kind.", " Yes", 0.6),
    ]
    others = [(f"I could talk about primes for {n} hours.", " Yes", 0.9) for n in range(2, 8)]
    others += [("Numbers bore me.", " No", 0.9)]
    return [
        *("--input", str(persona_file(tmp_path / "agreeableness.jsonl", shown))),
        *("--unrelated", str(persona_file(tmp_path / "interest-in-math.jsonl", others))),
    ]


def test_persona_statements_become_a_test_set(persona, tmp_path, capsys):
    output = tmp_path / "human_data" / "agreeableness.csv"
    arguments = [*persona, "--output", str(output)]
    assert import_persona.main([*arguments, "--min-confidence", "0.9", "--with-opposite"]) == 0
    rows = read(output)
    assert Counter(row["concept_strength_label"] for row in rows) == {"3": 2, "0": 2, "1": 1}
    by_label = {row["concept_strength_label"]: row for row in rows}
    assert by_label["1"]["sentence"] == "I enjoy making people feel small."
    assert (by_label["1"]["row"], by_label["1"]["adjective"]) == ("3", "not agreeableness")
    assert by_label["0"]["source"] == "interest-in-math.jsonl"
    assert "5 sentences, 2/1/2 of labels 0/1/3" in capsys.readouterr().out
    assert output.with_suffix(".run.json").exists()
    assert import_persona.main(arguments) == 2
    assert import_persona.main([*arguments, "--overwrite"]) == 0
    assert Counter(row["concept_strength_label"] for row in read(output)) == {"3": 3, "0": 3}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "line 2: not JSON"),
        ('["a list"]', "no field statement"),
        ('{"statement": "I sing.", "label_confidence": 0.9}', "no field answer_matching_behavior"),
        (
            '{"statement": "I sing.", "label_confidence": 0.9, "answer_matching_behavior": " (A)"}',
            "' Yes' or ' No'",
        ),
        ('{"statement": " ", "label_confidence": 0.9, "answer_matching_behavior": " No"}', "a sentence"),
        (
            '{"statement": "I sing.", "label_confidence": "high", "answer_matching_behavior": " No"}',
            "a number",
        ),
    ],
)
def test_persona_lines_in_another_format_are_named(persona, tmp_path, capsys, line, says):
    path = tmp_path / "agreeableness.jsonl"
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n" + line + "\n", encoding="utf-8")
    assert import_persona.main([*persona, "--output", str(tmp_path / "out.csv")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "agreeableness.jsonl, line 2" in error
    assert says in error
    assert not (tmp_path / "out.csv").exists()


def test_persona_files_that_do_not_serve(persona, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out.csv")]
    same = ["--input", persona[1], "--unrelated", persona[1], *output]
    assert import_persona.main(same) == 2
    assert "also the --input" in capsys.readouterr().err
    assert import_persona.main(["--input", str(tmp_path / "no.jsonl"), *persona[2:], *output]) == 2
    assert "no.jsonl" in capsys.readouterr().err
    assert import_persona.main([*persona, *output, "--min-confidence", "0.99"]) == 2
    assert "0 sentences show it" in capsys.readouterr().err


@pytest.fixture
def axbench(tmp_path) -> Path:
    """A file in Concept500's layout: shared negatives first, then the positives of each concept."""
    negatives = [("Name a river.", f"The Danube\nflows past {n} towns.") for n in range(6)]
    positives = [
        (concept, ("Tell me a story.", f"{concept} in story {n}."))
        for concept in ("references to apologies", "words of thanks")
        for n in range(3)
    ]
    table = pd.DataFrame(
        [(*texts, "EEEEE", "text", "negative", "instruction", -1) for texts in negatives]
        + [(*texts, concept, "text", "positive", "instruction", 0) for concept, texts in positives],
        columns=[
            *("input", "output", "output_concept", "concept_genre"),
            *("category", "dataset_category", "concept_id"),
        ],
    )
    path = tmp_path / "data.parquet"
    table.to_parquet(path)
    return path


def axbench_arguments(path: Path, output: Path, concept: str = "references to apologies") -> list[str]:
    return ["--input", str(path), "--concept", concept, "--output", str(output)]


def test_axbench_outputs_become_a_test_set(axbench, tmp_path):
    output = tmp_path / "apologies.csv"
    assert import_axbench.main(axbench_arguments(axbench, output)) == 0
    rows = read(output)
    assert Counter(row["concept_strength_label"] for row in rows) == {"3": 3, "0": 3}
    for row in rows:
        shown = row["concept_strength_label"] == "3"
        assert row["sentence"].startswith("references to apologies in" if shown else "The Danube flows past")
        assert row["adjective"] == ("references to apologies" if shown else "none")
    assert {row["row"] for row in rows if row["concept_strength_label"] == "3"} == {"6", "7", "8"}
    assert import_axbench.main(axbench_arguments(axbench, output)) == 2
    assert import_axbench.main([*axbench_arguments(axbench, output), "--overwrite", "--seed", "1"]) == 0


def test_axbench_files_that_do_not_serve(axbench, tmp_path, capsys):
    output = tmp_path / "out.csv"
    table = pd.read_parquet(axbench)
    (tmp_path / "text.parquet").write_text("no parquet", encoding="utf-8")
    table.drop(columns="category").to_parquet(tmp_path / "columns.parquet")
    table.assign(output=[None, *table["output"][1:]]).to_parquet(tmp_path / "empty.parquet")
    table[table["category"] == "positive"].to_parquet(tmp_path / "positive.parquet")
    for name, concept, says in (
        ("data.parquet", "reference to an apology", "nearest: references to apologies"),
        ("text.parquet", "x", "not a Parquet file"),
        ("columns.parquet", "x", "no column category"),
        ("empty.parquet", "x", "row 0: empty output"),
        ("positive.parquet", "words of thanks", "0 are unrelated"),
        ("no.parquet", "x", "no such file"),
    ):
        assert import_axbench.main(axbench_arguments(tmp_path / name, output, concept)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert says in error
    assert not output.exists()
