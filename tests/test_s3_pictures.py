"""s3's figures: against stored pictures, and with the texts that trip matplotlib up.

The stored pictures are renewed, after looking at them, by running this file with the folders of pytest's
`pythonpath` on PYTHONPATH.
"""

import io
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from drawing_inputs.feature import Feature
from drawings import typography as typography_module
from drawings.figure_files import figure_bytes
from drawings.overview_figures import (
    early_detection_figure,
    first_firing_figure,
    mean_trajectory_figure,
    raster_figure,
    summary_figure,
)
from drawings.sentence_figure import SentenceFigure
from drawings.sentence_style import SentenceStyle
from drawings.typography import Typography, word_starts, wrap
from matplotlib.testing.compare import compare_images
from PIL import Image
from plotting_utils import feature_style
from trajectories.curve_bands import firing_curves, mean_trajectories
from trajectories.early_detection import early_detection
from trajectories.peak_raster import peak_aligned_raster
from trajectories.peak_statistics import summary_statistics
from twins_s3.group_statistics import group_bootstrap

BASELINES = Path(__file__).with_name("baseline_images_s3")
TOLERANCE = 5.0  # root mean square over the pixels; other text rendering stays below, another line does not
DPI = 40
FEATURES = [Feature(12, 82, 4051, 1, 0.83), Feature(5, 18, 77, 2, 0.7), Feature(20, 71, 16000, 3, None)]
SCALE = np.array([8.0, 3.0, 0.0], np.float32)


def sentence(n_tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [m] and activations [m, 3]; the third feature never fires."""
    rng = np.random.default_rng(seed)
    tokens = np.array([f" word{i}" if i % 3 else f"piece{i}" for i in range(n_tokens)])
    activations = rng.exponential(size=(n_tokens, 3)) * (rng.random((n_tokens, 3)) < 0.4)
    return tokens, np.minimum(activations, 1).astype(np.float32) * SCALE


def draw_sentence(kind: str, n_tokens: int, seed: int = 0) -> bytes:
    style = SentenceStyle(kind=kind, dpi=DPI)
    tokens, activations = sentence(n_tokens, seed)
    with matplotlib.rc_context(Typography().rc_settings()):
        n_rows = -(-n_tokens // style.tokens_per_row)
        figure = SentenceFigure(FEATURES, SCALE, Typography(), style, n_rows)
        figure.draw(42, 3, "".join(tokens), tokens, activations)
        return figure.image_bytes()


def draw_overview(name: str, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    labels = np.arange(80) % 4
    offsets = np.concatenate([[0], np.cumsum(rng.integers(5, 15, 80))])
    strength = np.repeat(labels, np.diff(offsets))[:, None]
    activations = (rng.exponential(size=(offsets[-1], 3)) * strength * SCALE).astype(np.float32)
    activations[rng.random(activations.shape) < 0.8] = 0
    weights = group_bootstrap(np.arange(80), 100, rng)
    shares = np.arange(1, 11) / 10
    counts = dict.fromkeys(range(4), 20)
    with matplotlib.rc_context(Typography().rc_settings()):
        match name:
            case "features":
                table = summary_statistics(activations, offsets, labels, weights)
                figure = summary_figure(FEATURES, table, counts)
            case "mean_trajectories":
                curves = mean_trajectories(activations, offsets, labels, weights)
                figure = mean_trajectory_figure(FEATURES, curves, counts)
            case "first_firing":
                curves = firing_curves(activations, offsets, labels, shares)
                figure = first_firing_figure(FEATURES, shares, curves, counts)
            case "early_detection":
                tokens = np.array([f" t{i % 7}" for i in range(offsets[-1])])
                every = np.ones(80, bool)
                early = early_detection(
                    activations, offsets, tokens, labels, np.arange(80), every, weights, shares, 0
                )
                figure = early_detection_figure(FEATURES, early)
            case "raster":
                raster = peak_aligned_raster(activations[:, 0], offsets, labels, reach=5)
                figure = raster_figure(FEATURES[0], raster, counts)
        return figure_bytes(figure, "png", DPI)


PICTURES = {
    "sentence_lines": lambda seed: draw_sentence("lines", 12, seed),
    "sentence_heatmap": lambda seed: draw_sentence("heatmap", 30, seed),
    "sentence_both_long": lambda seed: draw_sentence("both", 130, seed),
    **{
        f"summary_{name}": lambda seed, name=name: draw_overview(name, seed)
        for name in ("features", "mean_trajectories", "first_firing", "early_detection", "raster")
    },
}


def difference(name: str, content: bytes, folder: Path) -> str | None:
    """What `compare_images` says of a picture and the stored one of that name."""
    (folder / f"{name}.png").write_bytes(content)
    (folder / f"{name}-expected.png").write_bytes((BASELINES / f"{name}.png").read_bytes())
    return compare_images(folder / f"{name}-expected.png", folder / f"{name}.png", TOLERANCE)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_stored(name, tmp_path):
    assert difference(name, PICTURES[name](0), tmp_path) is None


@pytest.mark.parametrize("name", PICTURES)
def test_the_comparison_notices_other_activations(name, tmp_path):
    assert difference(name, PICTURES[name](1), tmp_path) is not None


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", ["lines", "heatmap", "both"])
def test_a_reused_figure_draws_what_a_new_one_draws(kind):
    style = SentenceStyle(kind=kind, dpi=DPI)
    with matplotlib.rc_context(Typography().rc_settings()):
        reused = SentenceFigure(FEATURES, SCALE, Typography(), style, 1)
        for n_tokens, seed in ((30, 1), (5, 2)):
            tokens, activations = sentence(n_tokens, seed)
            reused.draw(seed, 3, "".join(tokens), tokens, activations)
            content = reused.image_bytes()
            new = SentenceFigure(FEATURES, SCALE, Typography(), style, 1)
            new.draw(seed, 3, "".join(tokens), tokens, activations)
            assert content == new.image_bytes()
            # And the same as matplotlib's own way of saving.
            new = SentenceFigure(FEATURES, SCALE, Typography(), style, 1)
            new.draw(seed, 3, "".join(tokens), tokens, activations)
            saved = pixels(figure_bytes(new.figure, "png", DPI))
            assert np.sqrt(((pixels(content) - saved) ** 2).mean()) < 1


TRAPS = {
    "mathtext": ["$a_b$", " \\frac{1}{2}", " $", " x^2_i$$", " _", "%"],
    "emoji": [" 😀", "👨‍👩‍👧", "❤️", " 🇩🇪", "🧑🏽‍🚀"],
    "wide": ["他", "撒了", "一个", "谎", "。", " 거짓말", " うそ"],
    "right_to_left": ["هو", " كذب", " علي", "؟", " שקר", " \u200fגדול"],
    "control": ["\n", "\t", " \x00", "\x1b[0m", "\u2028", "\ufeff", "\u00a0", "\udc80", "�"],
    "one": ["x"],
    "empty": ["", " ", "▁word"],
    "three_hundred": [f" token{i}" for i in range(300)],
    "long": [" " + "antidisestablishmentarianism" * 20, "見" * 100],
}


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        *((name, "png") for name in TRAPS),
        *((n, f) for n in ("mathtext", "emoji", "wide") for f in ("pdf", "svg")),
    ],
)
def test_awkward_tokens_are_drawn_without_a_warning(name, file_format):
    tokens = np.array(TRAPS[name])
    rng = np.random.default_rng(0)
    activations = rng.random((len(tokens), 3)).astype(np.float32) * SCALE
    typography = Typography.covering(tokens.tolist())
    style = SentenceStyle(kind="both", dpi=DPI, file_format=file_format)
    with warnings.catch_warnings(), matplotlib.rc_context(typography.rc_settings()):
        warnings.simplefilter("error")
        n_rows = -(-len(tokens) // style.tokens_per_row)
        figure = SentenceFigure(FEATURES, SCALE, typography, style, n_rows)
        figure.draw(0, 0, "".join(tokens), tokens, activations)
        content = figure.image_bytes()
        shown = [text.get_text() for row in figure.rows for text in row.texts if text.get_text()]
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[file_format])
    assert len(shown) == np.count_nonzero(tokens)


def test_dollars_underscores_and_backslashes_reach_the_picture():
    tokens = np.array(TRAPS["mathtext"])
    style = SentenceStyle(dpi=DPI, file_format="svg")
    settings = {**Typography().rc_settings(), "svg.fonttype": "none"}  # texts as texts, not as outlines
    with matplotlib.rc_context(settings):
        figure = SentenceFigure(FEATURES, SCALE, Typography(), style, 1)
        figure.draw(0, 0, "costs $5 or $6", tokens, np.zeros((len(tokens), 3), np.float32))
        svg = figure.image_bytes().decode()
    for text in ("$a_b$", "·\\frac{1}{2}", "·x^2_i$$", "costs $5 or $6"):
        assert text in svg


def test_token_texts_keep_word_starts_and_are_cut():
    typography = Typography()
    assert typography.token(" lied", 14) == "·lied"
    assert typography.token("▁lied", 14) == "·lied"
    assert typography.token("\n", 14) == "⏎"
    assert typography.token("\x1b", 14) == "\\u001b"
    assert typography.token(" extraordinarily", 10) == "·extraord…"
    assert typography.token("❤\ufe0f", 14) == "❤"


def test_word_starts():
    starts = word_starts(np.array(["He", " dis", "honest", "ly", "▁lied", " ", "x", "."]))
    np.testing.assert_array_equal(starts, [1, 1, 0, 0, 1, 1, 1, 0])


def test_wide_characters_take_two_columns():
    assert wrap("見" * 30, 20, 5) == "\n".join(["見" * 10] * 3)
    assert Typography().token("見" * 30, 14) == "見" * 6 + "…"
    assert wrap("one two three four", 8, 2) == "one two\nthree…"


def test_fonts_are_added_until_all_characters_are_covered(monkeypatch):
    class Font:
        def __init__(self, name):
            self.name = name

    covered = {"DejaVu Sans": "ab", "Some": "c", "Wide": "見謊c", "Useless": "", "Last Resort": "ע"}
    monkeypatch.setattr(typography_module, "_codepoints", lambda name: frozenset(map(ord, covered[name])))
    monkeypatch.setattr(typography_module.fontManager, "ttflist", [Font(name) for name in covered])
    assert Typography.covering(["ab"]) == Typography(("DejaVu Sans",), frozenset())
    assert Typography.covering(["a見c"]) == Typography(("DejaVu Sans", "Wide"), frozenset())
    lacking = Typography.covering(["見", "謊 ע\n"])
    assert lacking == Typography(("DejaVu Sans", "Wide"), frozenset("ע "))
    assert lacking.drawable("見ע") == "見□"


def test_colours_markers_and_dashes_differ_for_seventy_features():
    styles = {tuple(map(str, feature_style(i).values())) for i in range(70)}
    assert len(styles) == 70


@pytest.mark.parametrize("n_features", [1, 10, 40])
def test_any_number_of_features_fits_the_legend(n_features):
    features = [Feature(i, 82, 1000 + i, i + 1, 0.5) for i in range(n_features)]
    style = SentenceStyle(dpi=DPI)
    with matplotlib.rc_context(Typography().rc_settings()):
        figure = SentenceFigure(features, np.ones(n_features), Typography(), style, 1)
        figure.draw(0, 3, "one two", np.array(["one", " two"]), np.ones((2, n_features)))
        figure.image_bytes()
        box = figure.figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.x1 <= style.width * DPI * 1.01


if __name__ == "__main__":
    BASELINES.mkdir(exist_ok=True)
    for picture, draw in PICTURES.items():
        (BASELINES / f"{picture}.png").write_bytes(draw(0))
