"""`visualize_activations.py` as a user runs it: what it writes, what it keeps, what it refuses."""

import argparse
import ast
import errno
import json
import multiprocessing
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawing_inputs.drawn_run import load_run
from drawings import sentence_drawing
from drawings.sentence_style import SentenceStyle
from drawings.typography import Typography
from PIL import Image
from test_s3_inputs import PLANTED, dense, write_run, write_s2_results
from twins_s3 import progress as progress_module
from visualize_activations import build_parser, main

QUICK = ["--dpi", "40", "--bootstrap", "100", "--jobs", "1"]


def arguments(s1: Path, s2: Path, output: Path, *more: str) -> list[str]:
    return ["--s1-data", str(s1), "--s2-results", str(s2), "--output", str(output), *QUICK, *more]


def files(folder: Path) -> dict[str, bytes]:
    """Every file but run.json, which holds the seconds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


@pytest.fixture(scope="module")
def s2_results(tmp_path_factory, feature_folder) -> Path:
    return write_s2_results(tmp_path_factory.mktemp("s2") / "results", feature_folder)


@pytest.fixture(scope="module")
def plots(tmp_path_factory, feature_folder, s2_results) -> Path:
    """24 of the 80 sentences, drawn by one process."""
    output = tmp_path_factory.mktemp("plots") / "plots"
    more = ("--save-data", "--max-sentences", "24")
    assert main(arguments(feature_folder, s2_results, output, *more)) == 0
    return output


def test_a_sentence_gets_a_picture_in_its_labels_folder(plots):
    expected = {f"label_{i % 4}/sentence_{i:06d}.png" for i in range(24)}
    assert {name for name in files(plots) if name.startswith("label_")} == expected
    with Image.open(plots / "label_2/sentence_000022.png") as image:
        assert image.size == (14 * 40, 7 * 40)


def test_pictures_of_different_sentences_differ(plots):
    contents = [content for name, content in files(plots).items() if name.startswith("label_")]
    assert len(set(contents)) == 24


def test_overviews_and_nothing_half_written(plots):
    overviews = {name for name in files(plots) if name.endswith(".png") and name.startswith("summary_")}
    assert overviews == {
        "summary_early_detection.png",
        "summary_features.png",
        "summary_first_firing.png",
        "summary_mean_trajectories.png",
        "summary_raster_01_layer_1_l0_8_feature_5.png",
        "summary_raster_02_layer_1_l0_16_feature_7.png",
    }
    assert not list(plots.rglob("*.part"))


def test_statistics_are_those_of_the_planted_feature(plots, feature_folder):
    table = pd.read_csv(plots / "summary_statistics.csv")
    assert list(table[["layer", "average_l0", "feature_id"]].itertuples(index=False, name=None)) == list(
        PLANTED
    )
    offsets = np.load(feature_folder / "tokens.npz")["sentence_offsets"]
    peaks = np.maximum.reduceat(dense(feature_folder, 1, 8)[:, 5], offsets[:-1])  # [80]
    labels = np.arange(80) % 4
    for label in range(4):
        of_label = peaks[labels == label]
        assert table["share_firing_label_" + str(label)][0] == pytest.approx((of_label > 0).mean())
        assert table["mean_peak_value_label_" + str(label)][0] == pytest.approx(of_label.mean(), rel=1e-6)
    assert table["share_firing_label_3"][0] == 1
    assert table["share_firing_label_0"][0] == 0
    assert table["auroc_full_sentence"][0] == 1
    # Of 80 sentences a quarter is 5 per label: too few to be read alone.
    assert set(table["auroc_sentences"]) == {"all"}
    text = (plots / "summary_statistics.txt").read_text(encoding="utf-8")
    assert "1. layer 1, L0 8, feature 5, score 0.900" in text
    assert "label 3: fires in 100% of 20" in text


def test_saved_arrays_are_those_behind_the_figures(plots, feature_folder):
    with np.load(plots / "data/trajectories.npz", allow_pickle=False) as arrays:
        expected = np.stack([dense(feature_folder, 1, 8)[:, 5], dense(feature_folder, 1, 16)[:, 7]], axis=1)
        np.testing.assert_array_equal(arrays["activations"], expected)
        np.testing.assert_array_equal(arrays["feature"], ["1:8:5", "1:16:7"])
        offsets = arrays["sentence_offsets"]
        np.testing.assert_array_equal(
            arrays["peak_values"], np.maximum.reduceat(expected, offsets[:-1], axis=0)
        )
        assert arrays["peak_positions"].shape == arrays["first_firing_positions"].shape == (80, 2)
    early = pd.read_csv(plots / "data/early_detection.csv")
    assert set(early["curve"]) == {"1:8:5", "1:16:7", "words (TF-IDF)"}
    assert (early["low"] <= early["auroc"]).all()
    assert early.query("curve == '1:8:5' and share_read == 1")["auroc"].item() == 1
    means = pd.read_csv(plots / "data/mean_trajectories.csv")
    assert len(means) == 2 * 4 * 20
    firing = pd.read_csv(plots / "data/first_firing.csv")
    assert firing.query("feature == '1:8:5' and label == 3 and share_read == 1")["share_fired"].item() == 1
    with np.load(plots / "data/raster_layer_1_l0_8_feature_5.npz") as raster:
        assert set(raster["sentence_index"][:20] % 4) == {3}
        assert (
            np.nanmax(raster["values"], axis=1) == raster["values"][:, 15]
        ).all()  # the peak is the centre


def test_run_json_says_what_was_drawn_from_what(plots):
    run = json.loads((plots / "run.json").read_text(encoding="utf-8"))
    assert run["format_version"] == 1
    assert run["seed"] == 0
    assert run["arguments"]["top_n"] == 10
    assert set(run["inputs_sha256"]) == {"s1 run.json", "s2 run.json", "s2 ranked_features.csv"}
    assert all(len(digest) == 64 for digest in run["inputs_sha256"].values())
    assert {"matplotlib", "numpy", "scipy"} <= set(run["libraries"])


@pytest.mark.slow
def test_one_process_and_two_write_the_same_bytes(plots, feature_folder, s2_results, tmp_path):
    more = ("--jobs", "2", "--save-data", "--max-sentences", "24")
    assert main(arguments(feature_folder, s2_results, tmp_path, *more)) == 0
    assert files(tmp_path) == files(plots)


@pytest.mark.slow
def test_a_second_run_draws_only_what_is_missing(feature_folder, s2_results, tmp_path, capsys):
    command = arguments(feature_folder, s2_results, tmp_path, "--max-sentences", "4")
    assert main(command) == 0
    before = files(tmp_path)
    lost = tmp_path / "label_1/sentence_000001.png"
    lost.unlink()
    kept = tmp_path / "label_0/sentence_000000.png"
    kept.write_bytes(b"untouched")
    capsys.readouterr()
    assert main(command) == 0
    assert "4 sentence figures (1 drawn now)" in capsys.readouterr().out
    assert kept.read_bytes() == b"untouched"
    assert lost.read_bytes() == before["label_1/sentence_000001.png"]


@pytest.mark.slow
def test_pictures_of_other_features_do_not_stay(feature_folder, s2_results, tmp_path, capsys):
    assert main(arguments(feature_folder, s2_results, tmp_path, "--max-sentences", "8")) == 0
    before = files(tmp_path)
    other = arguments(feature_folder, s2_results, tmp_path, "--max-sentences", "4", "--features", "0:8:3")
    assert main(other) == 0
    after = files(tmp_path)
    pictures = [name for name in after if name.startswith("label_")]
    assert len(pictures) == 4
    assert all(after[name] != before[name] for name in pictures)
    assert [name for name in after if "raster" in name] == ["summary_raster_01_layer_0_l0_8_feature_3.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_format", "kind", "magic"), [("pdf", "both", b"%PDF"), ("svg", "heatmap", b"<?xml")]
)
def test_vector_formats_give_the_same_bytes_each_time(
    file_format, kind, magic, feature_folder, s2_results, tmp_path
):
    more = ["--format", file_format, "--kind", kind, "--labels", "3", "--max-sentences", "1", "--top-n", "1"]
    for name in ("a", "b"):
        assert main(arguments(feature_folder, s2_results, tmp_path / name, *more)) == 0
    drawn = files(tmp_path / "a")
    assert drawn == files(tmp_path / "b")
    assert drawn[f"label_3/sentence_000003.{file_format}"].startswith(magic)


def test_labels_sort_and_limit_choose_the_sentences(feature_folder, s2_results, tmp_path):
    more = ["--labels", "2,3", "--max-sentences", "2", "--sort", "peak", "--scale", "raw", "--figsize", "8,5"]
    assert main(arguments(feature_folder, s2_results, tmp_path, *more)) == 0
    offsets = np.load(feature_folder / "tokens.npz")["sentence_offsets"]
    peaks = np.maximum.reduceat(dense(feature_folder, 1, 8)[:, 5], offsets[:-1])
    strongest = [max(range(label, 80, 4), key=lambda i: peaks[i]) for label in (2, 3)]
    drawn = [name for name in files(tmp_path) if name.startswith("label_")]
    assert drawn == [f"label_{i % 4}/sentence_{i:06d}.png" for i in strongest]
    with Image.open(tmp_path / drawn[0]) as image:
        assert image.size == (320, 200)


def test_features_can_be_named_without_s2(feature_folder, tmp_path, capsys):
    command = ["--s1-data", str(feature_folder), "--output", str(tmp_path), *QUICK, "--max-sentences", "1"]
    assert main([*command, "--features", "1:16:7"]) == 0
    assert pd.read_csv(tmp_path / "summary_statistics.csv")["feature_id"].tolist() == [7]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "--s2-results is required unless --features" in capsys.readouterr().err


def test_short_and_empty_rankings_are_said(feature_folder, tmp_path, capsys):
    s2 = write_s2_results(tmp_path / "s2", feature_folder, passed=0)
    assert main(arguments(feature_folder, s2, tmp_path / "plots", "--max-sentences", "1")) == 0
    out = capsys.readouterr().out
    assert "no feature passed s2's filters: drawing the best of discovery_ranking.csv" in out
    assert "s2 ranked 2 features, fewer than --top-n 10" in out


def test_the_page_quotes_what_s2_fetched_and_its_path_ends_the_output(
    feature_folder, s2_results, tmp_path, capsys
):
    results, output = shutil.copytree(s2_results, tmp_path / "results"), tmp_path / "plots"
    said = {"description": "said <of> it", "author_model": "gpt-4o-mini", "method": None}
    page = {"url": "u", "fetched": "2026-01-01", "explanations": [said], "activations": []}
    cache = {"format_version": 1, "address": "https://np.example", "features": {"tiny/1-res/5": page}}
    (results / "neuronpedia.json").write_text(json.dumps(cache))
    named = ("--max-sentences", "1", "--features", "1:8:5,1:16:7")  # the first on an SAE with pages
    assert main(arguments(feature_folder, results, output, *named)) == 0
    text = (output / "trajectories.html").read_text(encoding="utf-8")
    assert '"quotes":[{"text":"said \\u003cof> it","author":"gpt-4o-mini"}]' in text
    assert capsys.readouterr().out.rstrip().endswith(f"open {output / 'trajectories.html'}")
    (results / "neuronpedia.json").write_text("[]")
    assert main(arguments(feature_folder, results, tmp_path / "none", *named)) == 2
    assert "neuronpedia.json cannot be read" in one_line_of_error(capsys)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_odd_sentences_are_drawn(tmp_path, capsys):
    """One token, 300 tokens, a feature that never fires, texts that trip matplotlib up, one label missing."""
    sentences = [["x"], [f" w{i}" for i in range(300)], [" $a", "_", "\\b$", " 😀"], [" שקר", " كذب", "见"]]
    rng = np.random.default_rng(0)
    activations = rng.exponential(size=(308, 3)) * (rng.random((308, 3)) < 0.3)
    activations[:, 2] = 0
    s1 = write_run(tmp_path / "s1", sentences, [0, 1, 1, 0], activations)
    s2 = write_s2_results(tmp_path / "s2", s1, ((0, 8, 0), (0, 8, 2)), confirm_every=None)
    assert main(arguments(s1, s2, tmp_path / "plots", "--kind", "both")) == 0
    with Image.open(tmp_path / "plots/label_1/sentence_000001.png") as long:
        assert long.size[0] == 14 * 40
        assert long.size[1] > 2 * 7 * 40  # further rows, not narrower tokens
    assert "never fires" in (tmp_path / "plots/summary_statistics.txt").read_text(encoding="utf-8")
    assert "no early detection: it needs sentences of label 0 and of label 3" in capsys.readouterr().out
    assert not (tmp_path / "plots/summary_early_detection.png").exists()


def edit_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def drop_column(path: Path, column: str) -> None:
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)


SPOILED = {
    "no s1 folder": (lambda s1, s2: shutil.rmtree(s1), ["s1 is no folder", "written by s1"]),
    "no s2 folder": (lambda s1, s2: shutil.rmtree(s2), ["s2/run.json does not exist", "run s2"]),
    "no s1 run.json": (lambda s1, s2: (s1 / "run.json").unlink(), ["s1/run.json does not exist", "run s1"]),
    "no s2 run.json": (lambda s1, s2: (s2 / "run.json").unlink(), ["s2/run.json does not exist", "run s2"]),
    "s1 run.json cut": (lambda s1, s2: (s1 / "run.json").write_text("{"), ["s1/run.json is not JSON"]),
    "s1 format": (
        lambda s1, s2: edit_json(s1 / "run.json", format_version=2),
        ["s1/run.json has format_version 2, expected 1", "run s1"],
    ),
    "s2 format": (
        lambda s1, s2: edit_json(s2 / "run.json", format_version=2),
        ["s2/run.json has format_version 2, expected 1", "run s2"],
    ),
    "other input": (
        lambda s1, s2: edit_json(s1 / "run.json", input_sha256="f" * 64),
        ["computed from another run", "input_sha256", "f" * 64],
    ),
    "other model": (
        lambda s1, s2: edit_json(s1 / "run.json", model="other"),
        ["computed from another run", "model is 'tiny-random' there and 'other' here"],
    ),
    "no ranking": (
        lambda s1, s2: (s2 / "ranked_features.csv").unlink(),
        ["ranked_features.csv is missing", "run s2"],
    ),
    "no split": (lambda s1, s2: (s2 / "split.csv").unlink(), ["split.csv is missing", "run s2"]),
    "no score": (
        lambda s1, s2: drop_column(s2 / "ranked_features.csv", "interpretability_score"),
        ["ranked_features.csv has no column interpretability_score", "run s2"],
    ),
    "both rankings empty": (
        lambda s1, s2: [
            pd.read_csv(s2 / name).head(0).to_csv(s2 / name, index=False)
            for name in ("ranked_features.csv", "discovery_ranking.csv")
        ],
        ["are both empty", "--features"],
    ),
    "no sentences": (lambda s1, s2: (s1 / "sentences.csv").unlink(), ["sentences.csv is missing", "run s1"]),
    "no group": (
        lambda s1, s2: drop_column(s1 / "sentences.csv", "group"),
        ["sentences.csv has no column group", "run s1"],
    ),
    "sentences cut": (
        lambda s1, s2: pd.read_csv(s1 / "sentences.csv").head(9).to_csv(s1 / "sentences.csv", index=False),
        ["run.json names 80 sentences", "sentences.csv has 9, tokens.npz 80"],
    ),
    "tokens cut": (
        lambda s1, s2: (s1 / "tokens.npz").write_bytes((s1 / "tokens.npz").read_bytes()[:100]),
        ["tokens.npz cannot be read", "run s1"],
    ),
    "no activations": (
        lambda s1, s2: (s1 / "sae_activations/layer_1_l0_8.npz").unlink(),
        ["layer_1_l0_8.npz is missing", "run s1"],
    ),
    "activations of another shape": (
        lambda s1, s2: shutil.copy(
            write_run(s1.parent / "small", [["a"]], [0], np.ones((1, 64)))
            / "sae_activations/layer_0_l0_8.npz",
            s1 / "sae_activations/layer_1_l0_8.npz",
        ),
        ["layer_1_l0_8.npz has shape (1, 64), expected"],
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_input_is_refused_in_one_line(name, feature_folder, tmp_path, capsys):
    spoil, expected = SPOILED[name]
    s1 = shutil.copytree(feature_folder, tmp_path / "s1")
    s2 = write_s2_results(tmp_path / "s2", s1)
    spoil(s1, s2)
    assert main(arguments(s1, s2, tmp_path / "plots")) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert captured.count("\n") == 1
    for part in expected:
        assert part in captured
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--features", "9:9:1"], "no SAE at layer 9; it has layer 0 (L0 8), layer 1 (L0 8, 16)"),
        (
            ["--features", "1:8:64"],
            "feature 64 of layer 1, L0 8 does not exist: that SAE has the features 0 to 63",
        ),
    ],
)
def test_features_that_do_not_exist_are_refused(more, expected, feature_folder, s2_results, tmp_path, capsys):
    assert main(arguments(feature_folder, s2_results, tmp_path / "plots", *more)) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--features", "1:8"],
        ["--labels", "4"],
        ["--labels", ""],
        ["--top-n", "0"],
        ["--top-n", "41"],
        ["--max-sentences", "0"],
        ["--figsize", "14"],
        ["--figsize", "1,1"],
        ["--figsize", "nan,7"],
        ["--dpi", "x"],
        ["--format", "gif"],
        ["--jobs", "0"],
        ["--kind", "pie"],
    ],
)
def test_wrong_values_are_argparse_errors(more, feature_folder, s2_results, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments(feature_folder, s2_results, tmp_path / "plots", *more))
    assert stop.value.code == 2
    assert f"argument {more[0]}" in capsys.readouterr().err


def one_line_of_error(capsys) -> str:
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert captured.count("\n") == 1
    return captured


@pytest.mark.parametrize("place", ["plots", "plots/label_0", "plots/trajectories.html/x"])
def test_what_stands_where_a_figure_belongs_is_named(place, feature_folder, s2_results, tmp_path, capsys):
    blocking = tmp_path / place
    blocking.parent.mkdir(parents=True, exist_ok=True)
    blocking.write_bytes(b"kept")
    command = arguments(feature_folder, s2_results, tmp_path / "plots", "--max-sentences", "1")
    assert main(command) == 2
    assert str(blocking if blocking.name != "x" else blocking.parent) in one_line_of_error(capsys)
    assert blocking.read_bytes() == b"kept"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_no_record(feature_folder, s2_results, tmp_path, monkeypatch, capsys):
    command = arguments(feature_folder, s2_results, tmp_path, "--max-sentences", "4")
    assert main(command) == 0
    capsys.readouterr()
    write_bytes = Path.write_bytes

    def fill_up(path: Path, content: bytes) -> int:
        if "sentence_000002" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert main([*command, "--scale", "raw"]) == 2
    assert re.search(r"No space left on device: .*sentence_000002\.png", one_line_of_error(capsys))
    assert not (tmp_path / "run.json").exists()
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    assert main([*command, "--scale", "raw"]) == 0  # goes on after the two that were drawn
    assert "4 sentence figures (2 drawn now)" in capsys.readouterr().out
    assert (tmp_path / "run.json").exists()


@pytest.mark.slow
def test_a_killed_process_is_said_and_its_work_is_taken_up(feature_folder, s2_results, tmp_path, capsys):
    def kill_one():
        while not multiprocessing.active_children():
            time.sleep(0.02)
        multiprocessing.active_children()[0].kill()

    command = arguments(feature_folder, s2_results, tmp_path, "--jobs", "2")
    killer = threading.Thread(target=kill_one)
    killer.start()
    assert main(command) == 2
    killer.join()
    assert "run again, with fewer --jobs" in one_line_of_error(capsys)
    assert main([*command, "--jobs", "1"]) == 0
    assert len(list(tmp_path.glob("label_?/*.png"))) == 80


@pytest.mark.parametrize("content", ["{", "[1]", "2"])
def test_a_spoiled_record_of_figures_is_named(content, feature_folder, tmp_path):
    (tmp_path / "sentence_figures.json").write_text(content)
    run = load_run(feature_folder, None, list(PLANTED), 2)
    with pytest.raises(ValueError, match=r"sentence_figures\.json is not a JSON object .* delete it"):
        sentence_drawing.rows_to_draw(run, np.arange(1), Typography(), SentenceStyle(), tmp_path)


def test_labels_without_a_sentence_are_refused(feature_folder, s2_results, tmp_path, capsys):
    s1 = shutil.copytree(feature_folder, tmp_path / "s1")
    table = pd.read_csv(s1 / "sentences.csv")
    table["concept_strength_label"] = table["concept_strength_label"] // 2 * 3
    table.to_csv(s1 / "sentences.csv", index=False)
    assert main(arguments(s1, s2_results, tmp_path / "plots", "--labels", "1,2")) == 2
    assert "no sentence has the label 1 or 2; there are the labels 0, 3" in one_line_of_error(capsys)
    assert not (tmp_path / "plots").exists()


def test_a_log_file_gets_plain_lines(feature_folder, s2_results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "PLAIN_SECONDS", 0.02)
    assert main(arguments(feature_folder, s2_results, tmp_path, "--max-sentences", "8")) == 0
    log = capsys.readouterr().err
    assert "\r" not in log
    for work in ("statistics", "overviews", "sentences"):
        assert re.search(rf"^{work}: \d of \d \w+ after 00:00$", log, flags=re.MULTILINE), log


def test_help_names_each_default_once():
    parser = build_parser()
    formatter = parser.formatter_class("visualize_activations.py")
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        text = formatter._expand_help(action)
        assert text.count("(default: ") <= 1, text
        assert "None" not in text
        if not isinstance(action.default, bool | None):
            assert str(action.default) in text


def stage_imports(path: Path, stage: Path) -> set[Path]:
    """The stage's own modules that a module imports, directly or not, itself included."""
    found, waiting = set(), [path]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                folder = module.parent if node.level else stage
                named = folder.joinpath(*node.module.split(".")).with_suffix(".py")
                waiting += [named] if named.exists() else []
    return found


def test_the_key_covers_all_code_that_draws_a_sentence(feature_folder, tmp_path, monkeypatch):
    stage = sentence_drawing.STAGE
    drawn_with = stage_imports(stage / "drawings/sentence_figure.py", stage)
    own = stage / "drawings/sentence_drawing.py"
    assert {stage / source for source in sentence_drawing.DRAWING_SOURCES} == drawn_with | {own}

    run = load_run(feature_folder, None, list(PLANTED), 2)
    monkeypatch.setattr(sentence_drawing, "STAGE", shutil.copytree(stage, tmp_path / "stage"))
    keys = [sentence_drawing.drawing_key(run, Typography(), SentenceStyle())]
    for source in sentence_drawing.DRAWING_SOURCES:
        with (tmp_path / "stage" / source).open("a") as file:
            file.write("# changed\n")
        keys.append(sentence_drawing.drawing_key(run, Typography(), SentenceStyle()))
    assert len(set(keys)) == 1 + len(sentence_drawing.DRAWING_SOURCES)
