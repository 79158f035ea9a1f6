"""Twins: helpers that several stages need, each stage its own copy, all the same source to the letter.

Stages never import each other, so that each folder can be copied and run alone. What they share lies in
`twins_s0` to `twins_s5`; a change is made in one copy and copied to the others.
"""

import argparse
import io
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from twins_s1 import progress as progress_module
from twins_s1.folder_lock import only_writer
from twins_s3.feature_folder import read_table
from twins_s5.atomic_files import replaced_together, write_atomically, write_json
from twins_s5.group_statistics import group_bootstrap, simultaneous_band, weighted_auroc
from twins_s5.option_types import layer_list, real_number, whole_number

ROOT = Path(__file__).resolve().parents[1]
COPIES = defaultdict(list)
for folder in sorted(ROOT.glob("s[0-5]_*/**/twins_s[0-5]")):
    for path in sorted(folder.glob("*.py")):
        COPIES[path.name].append(path)


def test_every_stage_has_its_twins():
    owners = sorted({path.relative_to(ROOT).parts[0][:2] for copies in COPIES.values() for path in copies})
    assert owners == ["s0", "s1", "s2", "s3", "s4", "s5"]


@pytest.mark.parametrize("name", sorted(COPIES))
def test_copies_are_the_same_to_the_letter(name):
    first, *others = COPIES[name]
    assert others, f"{first.relative_to(ROOT)} has no twin: it belongs among the stage's own modules"
    for other in others:
        assert other.read_bytes() == first.read_bytes(), f"{other.relative_to(ROOT)} differs"


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    target = tmp_path / "result.json"
    write_json(target, {"old": np.float64("nan"), "path": Path("a")})
    assert target.read_text(encoding="utf-8") == '{\n  "old": null,\n  "path": "a"\n}\n'

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert "old" in target.read_text(encoding="utf-8")


def test_files_replaced_together_never_stand_beside_an_old_record(tmp_path, monkeypatch):
    for name in ("a.csv", "b.csv", "run.json"):
        (tmp_path / name).write_text("old")
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((Path(target).name, (tmp_path / "run.json").exists()))
        replace(source, target)

    monkeypatch.setattr("os.replace", watched)
    with replaced_together(tmp_path, last="run.json") as fresh:
        for name in ("a.csv", "b.csv", "run.json"):
            (fresh / name).write_text("new")
        assert (tmp_path / "run.json").read_text() == "old"
    assert seen == [("a.csv", False), ("b.csv", False), ("run.json", False)]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}


def test_a_second_writer_is_refused_and_the_first_one_releases(tmp_path):
    lock = tmp_path / "folder" / ".lock"
    script = (
        "from pathlib import Path; from twins_s1.folder_lock import only_writer\n"
        f"with only_writer(Path({str(lock)!r}), 'folder'): print('in')"
    )

    def second():
        stage = ROOT / "s1_compute_all_features"
        return subprocess.run([sys.executable, "-c", script], cwd=stage, capture_output=True, text=True)

    with only_writer(lock, "folder"):
        refused = second()
    assert refused.returncode == 1
    assert "folder is being written by another process" in refused.stderr
    assert second().stdout == "in\n"


def test_a_log_file_gets_a_plain_line_while_nothing_moves(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress_module, "PLAIN_SECONDS", 0.05)
    with progress_module.progress(total=10, unit="sentence", description="judging") as bar:
        bar.update(3)
        time.sleep(0.4)
    lines = log.getvalue().splitlines()
    assert lines
    assert all(line.startswith("judging: 3 of 10 sentences after ") for line in lines)


def test_bootstrap_weights_are_whole_groups():
    groups = np.array([4, 4, 9, 9, 9, 2])
    weights = group_bootstrap(groups, 200, np.random.default_rng(0))
    assert weights.shape == (200, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 5]].sum(axis=1) == 3).all()


def test_weighted_auroc_equals_that_of_repeated_rows():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, 40).astype(float)
    positive = rng.random(40) < 0.4
    weights = rng.integers(0, 3, (20, 40)).astype(float)
    for row, value in zip(weights, weighted_auroc(scores, positive, weights)):
        repeated = np.repeat(np.arange(40), row.astype(int))
        assert value == pytest.approx(roc_auc_score(positive[repeated], scores[repeated]))
    assert np.isnan(weighted_auroc(scores, positive, np.where(positive, weights, 0))).all()


def test_simultaneous_band_of_a_curve_without_spread_is_the_curve():
    estimate = np.array([1.0, 0.5, 1.0])
    low, high = simultaneous_band(estimate, np.tile(estimate, (50, 1)))
    assert (low == estimate).all()
    assert (high == estimate).all()
    replicates = estimate + np.random.default_rng(2).normal(0, [[0.1, 0.0, 0.2]], (500, 3))
    replicates[3, 0] = np.nan
    low, high = simultaneous_band(estimate, replicates)
    assert np.isfinite(low).all()
    inside = ((replicates >= low - 1e-12) & (replicates <= high + 1e-12)).all(axis=1)
    assert np.delete(inside, 3).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (whole_number(1), {"1": 1, "20": 20}, ("0", "-1", "1.5", "x", "²")),
        (whole_number(0, 3), {"3": 3}, ("4",)),
        (real_number(0, 1), {"0.5": 0.5, "1": 1.0}, ("nan", "inf", "1.1", "-0.1", "x")),
        (real_number(0, 1, below_highest=True), {"0.99": 0.99}, ("1",)),
        (layer_list, {"0-2,12": [0, 1, 2, 12], "3,3": [3], "all": None}, ("5-2", "a", "1,", "-1")),
    ],
)
def test_option_types(parse, good, bad):
    assert {text: parse(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


@pytest.mark.parametrize("content", [b"", b'a,b\n"1', b"a,b\n1,2\n1,2,3\n", b"\xff\xfe"])
def test_a_table_that_is_no_csv_is_named(tmp_path, content):
    path = tmp_path / "split.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"split\.csv is no readable CSV .*run it again"):
        read_table(path, "run it again")
