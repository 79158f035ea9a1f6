"""The audit against oracles, near-duplicates against brute force, tables and their error messages."""

import json
import math
import tracemalloc
from pathlib import Path

import audit_dataset
import numpy as np
import pytest
from audit.measures import audit
from audit.text_models import text_baselines
from audit.word_tells import one_sided_words, telling_ngrams
from scipy.sparse import csr_array
from scipy.stats import chi2_contingency, spearmanr
from sentences.labelled_tables import LabelledSentence, labelled_text, read_labelled
from sentences.near_duplicates import duplicate_rows, near_duplicates, normalise
from twins_s0.provenance import sha256_of

STAGE = Path(__file__).resolve().parents[1] / "s0_dataset_generation"
SHIPPED = STAGE / "expanded_data" / "dishonesty.csv"


def brute_force_jaccard(a: str, b: str) -> float:
    grams = []
    for text in (a, b):
        text = normalise(text)
        grams.append({text[i : i + 5] for i in range(len(text) - 4)})
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def write_csv(path: Path, rows: list[tuple[str, int, str]]) -> Path:
    table = [LabelledSentence(*row) for row in rows]
    path.write_text(labelled_text(table), encoding="utf-8")
    return path


def scene_rows(n_scenes: int = 12) -> list[tuple[str, int, str]]:
    """Four sentences per scene, one of each label, in which nothing but the words marks the label."""
    marks = ("The rain fell on", "They all spoke about", "A little late came", "Everybody there cheered for")
    return [
        (
            f"{marks[label]} the {'abcdefghijklmnop'[scene]}{scene} house number {scene * 7}",
            label,
            f"scene-{scene}",
        )
        for scene in range(n_scenes)
        for label in range(4)
    ]


@pytest.mark.parametrize("block", [1000, 3])
def test_near_duplicates_match_brute_force(block):
    sentences = [row.sentence for row in read_labelled(SHIPPED)[:40]]
    sentences += [sentences[3] + " Indeed", sentences[7].replace("the", "a"), sentences[9].upper() + "!!"]
    expected = {
        (i, j): brute_force_jaccard(sentences[i], sentences[j])
        for j in range(len(sentences))
        for i in range(j)
        if brute_force_jaccard(sentences[i], sentences[j]) >= 0.3
    }
    found = {(i, j): jaccard for i, j, jaccard in near_duplicates(sentences, 0.3, block)}
    assert found == pytest.approx(expected)
    assert found[9, 42] == 1.0
    assert len(found) >= 3


def test_short_sentences_equal_but_for_punctuation_are_duplicates():
    assert near_duplicates(["No.", "no!", "Go."]) == [(0, 1, 1.0)]


def test_of_a_chain_of_near_duplicates_the_earlier_ones_stay():
    base = "the quick brown fox jumps over the lazy dog near the old stone bridge"
    sentences = [
        base,
        base + " tonight",
        base + " tonight my friends",
        "Something quite different stands here",
    ]
    dropped = duplicate_rows(sentences)
    assert dropped == {1, 2}
    assert duplicate_rows([s for i, s in enumerate(sentences) if i not in dropped]) == set()


def test_one_sided_words_are_the_root_of_chi_squared():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    presence = rng.random((200, 6)) < 0.1 + 0.5 * (labels == 3)[:, None] * (np.arange(6) == 2)
    entries = one_sided_words(csr_array(presence.astype(int)), labels, [f"w{i}" for i in range(6)])
    assert [entry["z"] for entry in entries] == sorted((entry["z"] for entry in entries), reverse=True)
    for entry in entries:
        column = presence[:, int(entry["text"][1])]
        inside = labels == entry["label"]
        table = [[int(((inside == a) & (column == b)).sum()) for b in (True, False)] for a in (True, False)]
        expected = chi2_contingency(table, correction=False).statistic
        assert entry["z"] == pytest.approx(math.sqrt(expected), abs=0.006)
    assert (entries[0]["text"], entries[0]["label"], entries[0]["telling"]) == ("w2", 3, True)


def test_a_word_in_every_sentence_tells_nothing():
    labels = np.array([0, 1, 2, 3])
    assert one_sided_words(csr_array(np.ones((4, 1), dtype=int)), labels, ["the"]) == []


def test_audit_figures_against_scipy():
    table = read_labelled(SHIPPED)
    report = audit(table)
    words = [len(row.sentence.split()) for row in table]
    labels = [row.label for row in table]
    assert report["spearman_words_label"] == pytest.approx(spearmanr(words, labels).statistic, abs=1e-4)
    assert report["n_sentences"] == len(table) == sum(report["label_counts"].values())
    assert sum(map(sum, report["first_words"].values())) <= len(table)
    median = np.median([n for n, label in zip(words, labels) if label == 2])
    assert report["words"]["2"]["median"] == median
    assert report["baselines"]["majority"]["accuracy"] == pytest.approx(0.25, abs=0.03)
    assert json.loads(json.dumps(report)) == report


def test_rare_word_pairs_are_not_counted_in_a_dense_table():
    rng = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(4000)])
    sentences = [" ".join(words[row]) for row in rng.integers(0, len(words), (2000, 15))]
    tracemalloc.start()
    entries, n_ngrams = telling_ngrams(sentences, np.arange(2000) % 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(entries) > n_ngrams > 3000
    assert peak < 2000 * n_ngrams * 4  # bytes of an int32 table of sentences x n-grams


def test_text_models_see_what_the_text_gives_away_and_no_more():
    rows = scene_rows()
    sentences, labels, groups = map(list, zip(*rows))
    labels = np.array(labels)
    told = text_baselines(sentences, labels, groups)
    assert told["tfidf"] == {"accuracy": 1.0, "quadratic_kappa": 1.0}
    same = [f"The house number {n} stood there" for n in range(len(rows))]
    untold = text_baselines(same, labels, groups)
    assert untold["tfidf"]["accuracy"] < 0.4
    assert untold["length"]["accuracy"] < 0.4


def test_sentences_of_one_scene_never_help_each_other():
    """Each scene repeats its own rare words at one label: only a leak between the folds could use them."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 7)) for _ in range(200)]
    labels = np.repeat(np.arange(4), 40)
    groups = [f"scene-{i // 4}" for i in range(160)]
    sentences = [" ".join(words[i // 4 * 5 : i // 4 * 5 + 5]) + f" {words[-1 - i % 4]}" for i in range(160)]
    assert text_baselines(sentences, labels, groups)["tfidf"]["accuracy"] <= 0.35


def warned(rows: list[tuple[str, int, str]]) -> str:
    return "\n".join(audit([LabelledSentence(*row) for row in rows])["warnings"])


def test_warnings_a_reviewer_would_raise():
    rows = scene_rows()
    assert "length tells" not in warned(rows)
    longer = [(f"{text}{' and on' * label}", label, group) for text, label, group in rows]
    assert "length tells the label: Spearman(words, label) = 1.00" in warned(longer)
    assert "length alone predicts the label" in warned(longer)
    assert "beginning with 'everybody' tells label 3 (100% of its sentences, 0% of the others)" in warned(
        rows
    )
    assert "the function word 'about' tells label 1" in warned(rows)
    assert "pairs of sentences share 70%" in warned([*rows, (rows[0][0] + "!", 0, "other")])
    assert "no sentence of label 2" in warned([row for row in rows if row[1] != 2])
    few = [row for row in rows if row[1] != 1] + [row for row in rows if row[1] == 1][:3]
    assert "unbalanced labels: 12 sentences of one, 3 of another" in warned(few)
    assert "a scene has 48 sentences" in warned([(text, label, "one") for text, label, _ in rows])
    assert "too few groups" in warned([(text, label, "one") for text, label, _ in rows])


def test_the_command_writes_json_and_picture_and_is_deterministic(tmp_path, capsys):
    path = write_csv(tmp_path / "mine.csv", scene_rows())
    assert audit_dataset.main([str(path)]) == 0
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert sorted(first) == ["mine.audit.json", "mine.audit.png", "mine.csv"]
    assert first["mine.audit.png"].startswith(b"\x89PNG")
    report = json.loads(first["mine.audit.json"])
    assert report["sha256"] == sha256_of(path)
    text = capsys.readouterr().out
    assert "48 sentences, 12/12/12/12 of labels 0/1/2/3" in text
    assert all(f"warning: {warning}" in text for warning in report["warnings"])
    assert audit_dataset.main([str(path)]) == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first


def test_several_files_another_folder_and_strict(tmp_path):
    paths = [write_csv(tmp_path / f"{name}.csv", scene_rows(1)) for name in ("a", "b")]
    folder = tmp_path / "audits"
    assert audit_dataset.main([*map(str, paths), "--output-dir", str(folder), "--strict"]) == 1
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.audit.json",
        "a.audit.png",
        "b.audit.json",
        "b.audit.png",
    ]


def test_a_tiny_file_is_audited_without_baselines(tmp_path, capsys):
    path = write_csv(tmp_path / "tiny.csv", [("One.", 0, "a"), ("Two.", 3, "b")])
    assert audit_dataset.main([str(path)]) == 0
    assert "too few groups for cross-validation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sentence,label\nA.,1\n", "no column concept_strength_label"),
        ("sentence,concept_strength_label\n", "no rows"),
        ("", "no column"),
        ("sentence,concept_strength_label\nA.,1\n ,2\n", "line 3: empty sentence"),
        ("sentence,concept_strength_label\nA.,4\n", "line 2: label '4'"),
        ("sentence,concept_strength_label\nA.,1.5\n", "line 2: label '1.5'"),
        ("sentence,concept_strength_label\nA.,\n", "line 2: label ''"),
        ("sentence,concept_strength_label\nA.,1\nB.,1\nA.,2\n", "line 4: the same sentence as line 2"),
        ("sentence,concept_strength_label\nHe lied.,3\nhe  lied!,2\n", "line 3: the same sentence as line 2"),
        ("sentence,concept_strength_label\nWell, no.,1\n", "line 2: more fields"),
        ("sentence,concept_strength_label\nA.\n", "line 2: fewer fields"),
        ('sentence,concept_strength_label\n"A.,1\n', "not valid CSV"),
        (b"sentence,concept_strength_label\n\xff\xfe.,1\n", "not UTF-8"),
    ],
)
def test_a_broken_file_is_one_line_and_status_2(tmp_path, capsys, content, says):
    path = tmp_path / "broken.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert audit_dataset.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert says in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["broken.csv"]


def test_a_missing_file_and_an_output_folder_that_is_a_file(tmp_path, capsys):
    assert audit_dataset.main([str(tmp_path / "none.csv")]) == 2
    assert "none.csv: no such file" in capsys.readouterr().err
    path = write_csv(tmp_path / "a.csv", scene_rows(1))
    assert audit_dataset.main([str(path), "--output-dir", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_byte_order_mark_and_a_missing_group_column_are_fine(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_text("\ufeffsentence,concept_strength_label\nA.,1\nB.,2\n", encoding="utf-8")
    table = read_labelled(path)
    assert table == [LabelledSentence("A.", 1, "row-2"), LabelledSentence("B.", 2, "row-3")]


def test_writing_is_read_back(tmp_path):
    table = [LabelledSentence('She said, "no".', 2, "x"), LabelledSentence("Ünïcode, läßt grüßen", 0, "y")]
    path = tmp_path / "t.csv"
    path.write_text(labelled_text(table), encoding="utf-8")
    assert read_labelled(path) == table
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
