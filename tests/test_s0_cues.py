"""Surface cues, registers and difficulties: counted by hand, tested by formula, kept by every writer."""

import csv
import json
import math
import re
from pathlib import Path

import audit_dataset
import expand_dataset
import label_sentences
import numpy as np
import pytest
from audit.label_tests import adjusted, counts_by_label, independence_p
from audit.measures import audit
from audit.surface_cues import CUES, cue_table, presence
from audit.text_models import text_baselines
from scipy.stats import spearmanr
from sentences.labelled_tables import LabelledSentence, labelled_text, read_labelled
from test_s0_endpoint import expand_arguments, read, server  # noqa: F401

STAGE = Path(__file__).resolve().parents[1] / "s0_dataset_generation"
NAMES = [cue.name for cue in CUES]


def chi_squared_p(statistic: float, freedom: int) -> float:
    """The upper tail of the chi-squared distribution with 1 or 3 degrees of freedom, in closed form."""
    tail = math.erfc(math.sqrt(statistic / 2))
    return tail if freedom == 1 else tail + math.sqrt(2 * statistic / math.pi) * math.exp(-statistic / 2)


@pytest.mark.parametrize(
    ("sentence", "cues"),
    [
        ("Anna paints walls.", set()),
        ("She tends to hum slightly off key.", {"softener"}),
        ("The council keeps a Queue.", {"procedure"}),
        ("Bees sleep, mostly.", {"softener", "animal_or_food"}),  # one word after the comma is no clause
        ("They paint fences, and nobody minds that at all.", {"trailing_clause", "negation"}),
        ("Anna hums and paints two walls.", {"trailing_clause", "numeral"}),
        ("Room 7 is free.", {"numeral"}),
        ("One wall is blue.", set()),  # one is no number here, as in `one of them`
        ("Cattle graze.", set()),  # cat only as a whole word
        ("“Hello there.”", {"quotation_mark"}),
        ("“Hello,” says Anna.", {"quotation_mark", "trailing_clause"}),  # who says it is a clause here
        ("Anna's wall is blue.", set()),  # an apostrophe is no quotation mark
        ("'Hello' says Anna.", {"quotation_mark"}),
        ("She'll paint; he can’t.", {"modal", "negation"}),
        ("He won't paint.", {"modal", "negation", "past_tense"}),  # `won` stands in it
        ("He dont paint walls.", {"negation"}),
        ("Anna walked home.", {"past_tense"}),
        ("WE paint walls.", {"first_person"}),
        ("im late for school.", {"first_person"}),
    ],
)
def test_which_cues_a_sentence_has(sentence, cues):
    assert {cue.name for cue in CUES if presence(cue, [sentence])[0]} == cues


def test_cues_by_label_counted_by_hand():
    """Ten sentences a label; softeners in all of label 2 and nowhere else, a numeral in half of each."""
    sentences = [
        f"Anna paints walls{' slightly' if label == 2 else ''}{' twice' if n % 2 else ''}."
        for label in range(4)
        for n in range(10)
    ]
    rows = {entry["cue"]: entry for entry in cue_table(sentences, np.repeat(np.arange(4), 10))}
    assert list(rows) == NAMES
    assert rows["softener"]["sentences"] == [0, 0, 10, 0]
    # Expected 2.5 with and 7.5 without the cue: (7.5² + 3 · 2.5²) / 2.5 + (7.5² + 3 · 2.5²) / 7.5 = 40.
    assert rows["softener"]["p"] == pytest.approx(chi_squared_p(40, 3), rel=0.005)
    assert rows["softener"]["p_adjusted"] == pytest.approx(10 * chi_squared_p(40, 3), rel=0.005)
    assert rows["numeral"]["sentences"] == [5, 5, 5, 5]
    assert all(rows[name]["p"] == 1.0 for name in NAMES if name != "softener")
    assert rows["modal"]["sentences"] == [0, 0, 0, 0]
    assert rows["modal"]["p_adjusted"] == 1.0


def test_chi_squared_and_holm_by_hand():
    # 2 x 2: 8 of 10 against 2 of 10; expected 5: 4 · 9/5 = 7.2 with one degree of freedom.
    table = np.array([[8, 0, 0, 2], [2, 0, 0, 8]])  # labels 1 and 2 are absent
    assert independence_p(table) == pytest.approx(chi_squared_p(7.2, 1))
    assert independence_p(np.array([[3, 1, 0, 2], [0, 0, 0, 0]])) == 1.0
    assert adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert counts_by_label(np.array([True, True, False]), np.array([3, 3, 0])).tolist() == [0, 0, 0, 2]


def table_of(n_scenes: int = 20) -> list[LabelledSentence]:
    """Label 3 told by its words in the plain half only; chats are twice as long at label 3; no cue uneven."""
    rows = []
    for scene in range(n_scenes):
        difficulty = "plain" if scene % 2 else "hard"
        register = "chat" if scene % 4 < 2 else "story"
        for label in range(4):
            word = f"mark{label}" if difficulty == "plain" else f"thing{scene * 7 % 5}"
            tail = " so and on" * (label * (register == "chat"))
            text = f"{word} {'abcdefghijklmnopqrst'[scene] * 3} is {scene}{label}x here{tail}"
            rows.append(LabelledSentence(text, label, f"scene-{scene}", register, difficulty))
    return rows


def test_registers_and_difficulties_are_audited():
    table = table_of()
    report = audit(table)
    assert report["registers"]["sentences"] == {"chat": [10] * 4, "story": [10] * 4}
    assert report["registers"]["chi_squared_p"] == 1.0
    assert report["difficulties"]["sentences"] == {"hard": [10] * 4, "plain": [10] * 4}
    chats = [row for row in table if row.register == "chat"]
    rho = spearmanr([len(row.sentence.split()) for row in chats], [row.label for row in chats]).statistic
    assert report["registers"]["spearman_words_label"]["chat"] == pytest.approx(rho, abs=1e-4)
    assert report["registers"]["spearman_words_label"]["story"] is None
    assert any("in the register 'chat': Spearman(words, label) = 1.00" in w for w in report["warnings"])
    assert not any("the register goes with the label" in w for w in report["warnings"])

    scores = report["baselines"]
    assert scores["register"]["accuracy"] == pytest.approx(0.25, abs=0.1)
    assert scores["tfidf_plain"]["accuracy"] == 1.0
    assert scores["tfidf_hard"]["accuracy"] < 0.6
    together = (scores["tfidf_plain"]["accuracy"] + scores["tfidf_hard"]["accuracy"]) / 2
    assert scores["tfidf"]["accuracy"] == pytest.approx(together, abs=1e-4)
    assert json.loads(json.dumps(report)) == report


def test_a_register_that_goes_with_the_label_is_warned_of():
    registers = ["chat", "chat", "story", "story"]
    table = [
        LabelledSentence(
            row.sentence, row.label, row.group, registers[row.label], "plain" if row.label else ""
        )
        for row in table_of()
    ]
    report = audit(table)
    warned = "\n".join(report["warnings"])
    assert report["registers"]["sentences"] == {"chat": [20, 20, 0, 0], "story": [0, 0, 20, 20]}
    assert report["difficulties"]["sentences"] == {"none": [20, 0, 0, 0], "plain": [0, 20, 20, 20]}
    assert "the register goes with the label (chi-squared p" in warned
    assert "the difficulty goes with the label (chi-squared p" in warned
    assert "register alone predicts the label" in warned


def test_a_cue_that_tells_labels_apart_is_warned_of():
    table = [
        LabelledSentence(f"Anna paints {'a bit' if row.label == 2 else 'walls'} {n}", row.label, row.group)
        for n, row in enumerate(table_of())
    ]
    warned = "\n".join(audit(table)["warnings"])
    assert "the surface cue 'softener' tells labels apart: in 0/0/20/0 sentences of labels 0/1/2/3" in warned
    assert "'numeral'" not in warned


def test_without_the_columns_there_is_nothing_of_them():
    table = [LabelledSentence(row.sentence, row.label, row.group) for row in table_of()]
    report = audit(table)
    assert (report["registers"], report["difficulties"]) == (None, None)
    assert list(report["baselines"]) == ["majority", "length", "stop_words", "tfidf"]
    labels = np.array([row.label for row in table])
    assert text_baselines([row.sentence for row in table], labels, ["one"] * len(table)) is None


def test_the_command_draws_them(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text(labelled_text(table_of()), encoding="utf-8")
    assert audit_dataset.main([str(path)]) == 0
    assert (tmp_path / "mine.audit.png").read_bytes().startswith(b"\x89PNG")
    assert "register 0." in capsys.readouterr().out


def test_the_documentation_names_every_cue():
    text = (STAGE / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in re.sub(r"\s+", " ", text)] == []


# The columns pass through


def test_the_columns_are_read_and_written_where_they_are(tmp_path):
    path = tmp_path / "t.csv"
    table = [LabelledSentence("One.", 0, "a", "chat", "plain"), LabelledSentence("Two.", 3, "b", "", "hard")]
    path.write_text(labelled_text(table), encoding="utf-8")
    assert path.read_text("utf-8").startswith("sentence,concept_strength_label,group,register,difficulty\n")
    assert read_labelled(path) == table
    assert labelled_text([LabelledSentence("One.", 0, "a")]).startswith(
        "sentence,concept_strength_label,group\n"
    )


def test_a_dataset_keeps_the_registers_of_its_seeds(server, tmp_path):  # noqa: F811
    seeds, output = tmp_path / "generosity.csv", tmp_path / "g.csv"
    table = [LabelledSentence(f"Seed {name}.", n, name, "diary", "hard") for n, name in enumerate("abcd")]
    seeds.write_text(labelled_text(table), encoding="utf-8")
    assert expand_dataset.main(expand_arguments(server, seeds, output, each=1)) == 0
    assert read_labelled(output)[:4] == table
    assert {(row["register"], row["difficulty"]) for row in read(output)[4:]} == {("", "")}


def test_labelling_keeps_the_columns(server, tmp_path):  # noqa: F811
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("sentence,register\nA plain one.,news\n", encoding="utf-8")
    arguments = ["--trait", "Generosity", "--input", str(path), "--output", str(output)]
    assert label_sentences.main([*arguments, "--base-url", server.url]) == 0
    with output.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["sentence", "concept_strength_label", "group", "intended_label", "register"]
    assert row["register"] == "news"
