"""Figures and page of a steering run; attribution on the page of trajectories."""

import itertools
import json
import re

import numpy as np
import pytest
from drawing_inputs.drawn_run import read_activations
from drawing_inputs.feature import Feature
from drawings.trajectory_page import attribution_entry
from matplotlib.backends.backend_agg import FigureCanvasAgg
from steering_drawings.continuation_page import beside_unsteered, build_continuation_page, mean_ratings
from steering_drawings.steering_figures import (
    dose_figure,
    label_figure,
    place_of,
    prediction_figure,
    with_origin,
)
from steering_drawings.steering_results import read_steering
from steering_drawings.steering_statistics import agreement
from synthetic_features import write_feature_folder
from synthetic_steering import ALPHAS, FINALISTS, N_NULLS, write_steering_folder
from twins_s3.feature_folder import open_feature_folder, read_sae_activations
from visualize_steering import main


@pytest.fixture(scope="module")
def steering(tmp_path_factory):
    return write_steering_folder(tmp_path_factory.mktemp("s1") / "calm_steering")


def test_the_command_writes_figures_page_and_record(steering, tmp_path, capsys):
    assert main(["--steering", str(steering), "--output", str(tmp_path / "plots")]) == 0
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert files == {
        *("steering_dose_response.png", "steering_by_label.png", "steering_prediction.png"),
        *("continuations.html", "run.json"),
    }
    out = capsys.readouterr().out
    assert f"3 figures of 3 features in {tmp_path / 'plots'}" in out
    assert out.rstrip().endswith(f"open {tmp_path / 'plots/continuations.html'}")
    before = (tmp_path / "plots/steering_dose_response.png").read_bytes()
    assert main(["--steering", str(steering), "--output", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots/steering_dose_response.png").read_bytes() == before


def test_dose_figure_shows_what_the_table_says(steering):
    results = read_steering(steering)
    panels = [panel for panel in dose_figure(results).axes if panel.get_visible()]
    assert len(panels) == len(FINALISTS)
    for (layer, average_l0, feature_id, slope), panel in zip(sorted(FINALISTS), panels):
        assert panel.get_title("left").startswith(f"layer {layer}, L0 {average_l0}, feature {feature_id}")
        curve = next(line for line in panel.lines if len(line.get_xdata()) == len(ALPHAS) + 1)
        np.testing.assert_allclose(curve.get_xdata(), [-1, -0.5, 0, 0.5, 1])
        np.testing.assert_allclose(curve.get_ydata(), slope * np.array([-1, -0.5, 0, 0.5, 1]), atol=1e-12)


def test_null_bands_span_the_nulls_of_the_same_sae(steering):
    results = read_steering(steering)
    panel = dose_figure(results).axes[0]
    for kind, collection in zip(("null_direction", "null_feature"), panel.collections):
        nulls = results.nulls_of((9, 48, 478), kind)["slope"].to_numpy()
        assert len(nulls) == N_NULLS / 2
        low, high = np.quantile(nulls, [0.025, 0.975])
        band = collection.get_paths()[0].vertices
        at_one = band[np.isclose(band[:, 0], 1.0), 1]
        assert at_one.min() == pytest.approx(low)
        assert at_one.max() == pytest.approx(high)


def test_a_feature_has_its_place_among_nulls_of_each_kind(steering):
    results = read_steering(steering)
    finalist, slope = (9, 48, 1414), 0.03
    for kind, name in (("null_feature", "other features"), ("null_direction", "Gaussian directions")):
        nulls = results.nulls_of(finalist, kind)["slope"]
        assert f"{(nulls.abs() < slope).sum()} of {len(nulls)} {name}" in place_of(results, finalist)


def test_label_figure_has_a_curve_a_label_and_one_of_neutral_text(steering):
    panel = label_figure(read_steering(steering)).axes[0]
    curves = [line for line in panel.lines if len(line.get_xdata()) == len(ALPHAS) + 1]
    assert len(curves) == 5


def test_prediction_figure_says_how_well_it_agrees(steering, tmp_path):
    legend = prediction_figure(read_steering(steering)).legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert [name.split(",")[0] for name in names] == [
        f"Gaussian directions: n {N_NULLS}",
        f"other features: n {N_NULLS}",
        f"steered features: n {len(FINALISTS)}",
    ]
    assert all("r 1.00" in name for name in names)
    bare = write_steering_folder(tmp_path / "bare", with_predictions=False)
    assert "no prediction" in prediction_figure(read_steering(bare)).axes[0].get_title("left")


@pytest.mark.parametrize("drawing", [dose_figure, label_figure, prediction_figure])
def test_no_legend_is_wider_than_its_figure_and_no_title_reaches_the_next_panel(steering, drawing):
    figure = drawing(read_steering(steering))
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.width < figure.bbox.width
    titles = [axes._left_title.get_window_extent() for axes in figure.axes if axes.get_visible()]
    for title, following in itertools.pairwise(titles):
        assert following.y0 != title.y0 or title.x1 < following.x0


def test_agreement_by_hand():
    found = agreement(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 4.0, 9.0]))
    assert found.n == 3
    assert found.r_squared == pytest.approx(1 - 1 / (14 / 3))
    assert found.correlation == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 4])[0, 1])
    assert agreement(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None
    assert agreement(np.ones(5), np.arange(5.0)) is None


def test_curves_pass_through_no_dose_no_change():
    rows = {"alpha": np.array([1.0, -1.0]), "value": np.array([3.0, -2.0])}
    alpha, value = with_origin(rows)
    assert alpha.tolist() == [-1, 0, 1]
    assert value.tolist() == [-2, 0, 3]


def test_page_escapes_what_the_model_wrote_and_needs_no_network(tmp_path):
    folder = write_steering_folder(tmp_path / "s", text="</td><script>alert(1)</script>")
    page = build_continuation_page(read_steering(folder))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == len(FINALISTS) * 2 * (len(ALPHAS) + 1)
    assert not re.search(r"https?://", page)
    assert page.count('class="unsteered"') == len(FINALISTS) * 2


def test_ratings_stand_beside_their_texts_and_as_means_by_dose(tmp_path):
    results = read_steering(write_steering_folder(tmp_path / "rated", with_ratings=True))
    page = build_continuation_page(results)
    assert "&lt;j&gt; rated each text" in page
    assert "“calm words”" in page
    n_doses = len(FINALISTS) * (len(ALPHAS) + 1)
    assert page.count('<td class="number">1.33</td>') == 2 * n_doses  # of a greedy text, and as the mean
    assert page.count('<td class="number">–</td>') == 3 * n_doses  # the sampled ones were not rated
    unrated = build_continuation_page(read_steering(write_steering_folder(tmp_path / "unrated")))
    assert "rated each text" not in unrated
    assert "harmonic" not in unrated


def test_words_shared_with_the_unsteered_text_stand_apart():
    doses = {-1.0: " he went to bed.", 0.0: " he went home.", 1.0: " he went home.", 2.0: "", 3.0: " her"}
    rows = beside_unsteered([{"alpha": alpha, "text": text} for alpha, text in reversed(doses.items())])
    assert [(row["alpha"], row["same"].strip(), row["own"]) for row in rows] == [
        (-1.0, "he went", "to bed."),
        (0.0, "", "he went home."),
        (1.0, "he went home.", ""),
        (2.0, "", ""),
        (3.0, "", "her"),
    ]


def test_mean_ratings_by_hand():
    texts = [
        {"alpha": alpha, "rating": {"concept": concept, "fluency": 2, "harmonic_mean": concept}}
        for alpha, concept in ((1.0, 2), (-1.0, 0), (1.0, 1))
    ]
    assert mean_ratings(texts) == [
        {"alpha": -1.0, "n": 1, "concept": 0, "fluency": 2, "harmonic_mean": 0},
        {"alpha": 1.0, "n": 2, "concept": 1.5, "fluency": 2, "harmonic_mean": 1.5},
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "run.json").unlink(), "run.json does not exist"),
        (lambda f: (f / "run.json").write_text('{"format_version": 9}'), "format_version 9"),
        (lambda f: (f / "slopes.csv").unlink(), "slopes.csv is missing"),
        (lambda f: (f / "slopes.csv").write_text("layer\n1\n"), "no column average_l0"),
        (lambda f: (f / "continuations.json").write_text("{"), "continuations.json is not JSON"),
        (
            lambda f: (f / "slopes.csv").write_text(
                (f / "slopes.csv").read_text().replace(",feature,", ",x,")
            ),
            "names no steered feature",
        ),
    ],
    ids=["no record", "format", "no table", "columns", "json", "no feature"],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path, capsys, spoil, message):
    folder = write_steering_folder(tmp_path / "s")
    spoil(folder)
    assert main(["--steering", str(folder), "--output", str(tmp_path / "plots")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "plots").exists()


@pytest.fixture
def with_effects(tmp_path):
    """A feature folder whose SAEs have effects: the attribution is minus a tenth of the activation."""
    folder = write_feature_folder(tmp_path / "x_features")
    run = json.loads((folder / "run.json").read_text())
    features = open_feature_folder(folder)
    (folder / "sae_effects").mkdir()
    for sae in run["saes"]:
        sae["effects"] = sae["file"].replace("sae_activations", "sae_effects")
        values = read_sae_activations(features, sae).data
        np.savez(folder / sae["effects"], token_attribution=(-values / 10).astype(np.float32))
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_attribution_is_read_beside_the_activations(with_effects):
    activations, attribution = read_activations(
        open_feature_folder(with_effects), [Feature(1, 8, 5), Feature(1, 16, 7)]
    )
    np.testing.assert_allclose(attribution, -activations / 10, rtol=1e-6)
    assert (attribution != 0).any()


def test_attribution_of_another_run_is_refused(with_effects):
    np.savez(with_effects / "sae_effects/layer_1_l0_8.npz", token_attribution=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"layer_1_l0_8\.npz: token_attribution has shape \(3,\)"):
        read_activations(open_feature_folder(with_effects), [Feature(1, 8, 5)])


def test_what_the_page_gets_of_the_attribution():
    attribution = np.array([0.0, -0.5, 0.0, 0.25, -2.0], np.float32)
    entry = attribution_entry(attribution, np.array([1, 2, 3]))
    assert entry == {"effect_at": [0, 2], "effects": [-0.5, 0.25], "strongest": 2.0}
