"""The arrays behind s3's figures against cases computed by hand and against scikit-learn."""

import itertools

import numpy as np
import pytest
from drawing_inputs.sentence_choice import choose_sentences
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from trajectories.curve_bands import Curves, firing_curves, mean_trajectories
from trajectories.early_detection import cumulative_auroc, detectable_from, early_detection
from trajectories.peak_raster import peak_aligned_raster
from trajectories.peak_statistics import summary_statistics
from trajectories.positions import (
    bin_means,
    first_firing_positions,
    peak_positions,
    peak_values,
    prefix_lengths,
    prefix_peaks,
    relative_positions,
)
from trajectories.text_baseline import text_prefix_scores
from twins_s3.group_statistics import group_bootstrap, simultaneous_band

# Sentences of 1, 4 and 3 tokens; two features, of which the second is silent in sentences 0 and 2.
OFFSETS = np.array([0, 1, 5, 8])
ACTIVATIONS = np.array([[2, 0], [0, 0], [3, 1], [0, 5], [3, 5], [0, 0], [0, 0], [1, 0]], np.float32)  # [8, 2]


def test_peaks_and_first_firing():
    np.testing.assert_array_equal(peak_values(ACTIVATIONS, OFFSETS), [[2, 0], [3, 5], [1, 0]])
    # Of equal peaks the first counts; a silent feature has none.
    np.testing.assert_array_equal(peak_positions(ACTIVATIONS, OFFSETS), [[0, -1], [1, 2], [2, -1]])
    np.testing.assert_array_equal(first_firing_positions(ACTIVATIONS, OFFSETS), [[0, -1], [1, 1], [2, -1]])


def test_relative_positions_are_token_centres():
    relative = relative_positions(peak_positions(ACTIVATIONS, OFFSETS), OFFSETS)
    np.testing.assert_allclose(relative, [[0.5, np.nan], [0.375, 0.625], [2.5 / 3, np.nan]])


def test_bin_means_by_hand():
    means = bin_means(ACTIVATIONS, OFFSETS, 2)  # [3, 2, 2]
    np.testing.assert_allclose(means[0, :, 0], [2, 2])  # one token fills both halves
    np.testing.assert_allclose(means[1, :, 0], [1.5, 1.5])
    np.testing.assert_allclose(means[1, :, 1], [0.5, 5])
    # Three tokens in two halves: the middle one is split between them.
    np.testing.assert_allclose(means[2, :, 0], [0, 1 / 1.5])


@pytest.mark.parametrize("n_bins", [1, 7, 20])
def test_bin_means_lose_no_token(n_bins):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum([1, 300, 13, 20])])
    activations = rng.exponential(size=(offsets[-1], 3)).astype(np.float32)
    of_sentences = np.stack([activations[a:b].mean(axis=0) for a, b in itertools.pairwise(offsets)])
    np.testing.assert_allclose(bin_means(activations, offsets, n_bins).mean(axis=1), of_sentences, rtol=1e-5)


def test_prefix_peaks_see_the_first_share_only():
    shares = np.array([0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(
        prefix_lengths(OFFSETS, shares), [[1, 1, 1], [1, 2, 2], [1, 3, 3], [1, 4, 3]]
    )
    prefix = prefix_peaks(ACTIVATIONS, OFFSETS, shares)  # [4, 3, 2]
    np.testing.assert_array_equal(prefix[:, 0, 0], [2, 2, 2, 2])
    np.testing.assert_array_equal(prefix[:, 1, 0], [0, 3, 3, 3])
    np.testing.assert_array_equal(prefix[:, 1, 1], [0, 1, 5, 5])
    np.testing.assert_array_equal(prefix[:, 2, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(prefix[-1], peak_values(ACTIVATIONS, OFFSETS))


def test_a_share_of_seven_tenths_of_ten_tokens_is_seven():
    # 0.7 * 10 is 7.000000000000001 in floating point.
    assert prefix_lengths(np.array([0, 10]), np.array([0.1 * 7])) == [[7]]


def test_firing_curves_are_cumulative_shares():
    curves = firing_curves(ACTIVATIONS, OFFSETS, np.array([3, 3, 0]), np.array([0.25, 0.5, 1]))
    np.testing.assert_allclose(curves[3], [[0.5, 1, 1], [0, 0.5, 0.5]])
    np.testing.assert_allclose(curves[0], [[0, 0, 1], [0, 0, 0]])
    assert set(curves) == {0, 3}


@pytest.mark.parametrize("n_points", [1, 20])
def test_simultaneous_band_is_the_sidak_width_for_independent_points(n_points):
    rng = np.random.default_rng(0)
    error = np.linspace(0.5, 2, n_points)
    replicates = rng.normal(size=(20_000, n_points)) * error
    low, high = simultaneous_band(np.zeros(n_points), replicates)
    width = norm.ppf((1 + 0.95 ** (1 / n_points)) / 2) * error
    np.testing.assert_allclose(high, width, rtol=0.03)
    np.testing.assert_allclose(low, -width, rtol=0.03)


def detection_case(n_per_label=40):
    """Feature 0 fires in label 3 from the middle on, feature 1 in both from the start, feature 2 never."""
    labels = np.tile([0, 1, 2, 3], n_per_label)
    offsets = 10 * np.arange(len(labels) + 1)
    activations = np.zeros((len(labels), 10, 3), np.float32)
    activations[labels == 3, 4, 0] = 1 + np.arange(n_per_label) / n_per_label
    activations[:, 0, 1] = 1 + np.tile(np.arange(n_per_label), 4).reshape(4, -1).T.ravel() % 7
    return labels, offsets, activations.reshape(-1, 3)


def test_cumulative_auroc_rises_where_the_feature_fires():
    labels, offsets, activations = detection_case()
    shares = np.arange(1, 11) / 10
    weights = group_bootstrap(np.arange(len(labels)), 200, np.random.default_rng(0))
    prefix = prefix_peaks(activations, offsets, shares)
    curves = cumulative_auroc(prefix, labels, weights, shares)
    np.testing.assert_array_equal(curves.estimate[0], [0.5] * 4 + [1.0] * 6)
    np.testing.assert_array_equal(curves.estimate[2], 0.5)
    extreme = (labels == 0) | (labels == 3)
    peaks = peak_values(activations, offsets)[extreme, 1]
    assert curves.estimate[1, -1] == pytest.approx(roc_auc_score(labels[extreme] == 3, peaks))
    assert (curves.low <= curves.estimate).all()
    assert (curves.estimate <= curves.high).all()
    np.testing.assert_array_equal(detectable_from(curves), [0.5, np.nan, np.nan])


def test_cumulative_auroc_needs_both_labels():
    with pytest.raises(ValueError, match="label 0 and of label 3"):
        cumulative_auroc(np.zeros((1, 4, 1)), np.array([1, 2, 3, 3]), np.ones((5, 4)), np.ones(1))


def test_detectable_only_where_the_band_stays_above():
    low = np.array([[0.6, 0.4, 0.6, 0.7], [0.6, 0.6, 0.6, 0.6], [0.6, 0.6, 0.6, 0.5], [np.nan] * 4])
    curves = Curves(np.array([0.25, 0.5, 0.75, 1]), low + 0.1, low, low + 0.2)
    np.testing.assert_array_equal(detectable_from(curves), [0.75, 0.25, np.nan, np.nan])


def words_of(labels, rng):
    """Texts of two words; the second is telling."""
    return [[f"word{rng.integers(50)}", "lied" if label == 3 else "walked"] for label in labels]


def test_text_scores_tell_from_the_telling_word_on():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 3], 40)
    texts = words_of(labels, rng)
    prefixes = [[first for first, _ in texts], [" ".join(pair) for pair in texts]]
    for train in (None, np.arange(80) < 40):
        scores = text_prefix_scores(prefixes, labels, np.arange(80) // 2, train, seed=0)
        rest = np.ones(80, bool) if train is None else ~train
        assert roc_auc_score(labels[rest], scores[1, rest]) == 1
        assert roc_auc_score(labels[rest], scores[0, rest]) < 0.75
        assert np.isnan(scores[:, ~rest]).all()


def test_text_scores_do_not_see_the_sentences_they_score():
    # Each text has a word of its own: a model that had seen it would tell the labels perfectly.
    labels = np.tile([0, 3], 40)
    texts = [f"unique{i}" for i in range(80)]
    scores = text_prefix_scores([texts], labels, np.arange(80), None, seed=0)
    assert roc_auc_score(labels, scores[0]) < 0.7


def test_early_detection_takes_the_confirmation_part_where_it_is_large_enough():
    labels, offsets, activations = detection_case()
    tokens = np.tile([f" t{i}" for i in range(10)], len(labels))
    group = np.arange(len(labels)) // 4
    weights = group_bootstrap(group, 100, np.random.default_rng(0))
    shares = np.array([0.5, 1])
    for every, sentences, n in ((4, "confirmation", 10), (40, "all", 40), (None, "new", 40)):
        confirmation = None if every is None else group % every == 0
        early = early_detection(activations, offsets, tokens, labels, group, confirmation, weights, shares, 0)
        assert early.sentences == sentences
        assert early.n_by_label == {0: n, 3: n}
        # The same words in every sentence say nothing.
        np.testing.assert_array_equal(early.words.estimate, 0.5)


def test_mean_trajectories_are_the_means_of_the_label():
    labels, offsets, activations = detection_case()
    weights = group_bootstrap(np.arange(len(labels)), 100, np.random.default_rng(0))
    means = mean_trajectories(activations, offsets, labels, weights, n_bins=10)
    assert set(means) == {0, 1, 2, 3}
    np.testing.assert_allclose(
        means[3].estimate[0], [0] * 4 + [1 + np.arange(40).mean() / 40] + [0] * 5, atol=1e-6
    )
    assert means[3].low[0, 4] < means[3].estimate[0, 4] < means[3].high[0, 4]
    np.testing.assert_array_equal(means[0].high[0], 0)


def test_raster_is_aligned_at_the_peak():
    raster = peak_aligned_raster(ACTIVATIONS[:, 0], OFFSETS, np.array([0, 3, 3]), reach=2)
    nan = np.nan
    np.testing.assert_array_equal(raster.sentence, [1, 2, 0])  # label 3 first, the strongest first
    np.testing.assert_array_equal(
        raster.values, [[nan, 0, 3, 0, 3], [0, 0, 1, nan, nan], [nan, nan, 2, nan, nan]]
    )
    assert np.isnan(raster.profile(3)).all()  # of two sentences no mean is shown
    silent = peak_aligned_raster(np.zeros(8, np.float32), OFFSETS, np.array([0, 3, 3]), reach=2)
    assert silent.values.shape == (0, 5)


def test_raster_profile_is_the_mean_over_existing_tokens():
    activations = np.array([0, 2, 0, 4, 0, 6, 0, 8, 10, 4], np.float32)  # five sentences of two tokens
    raster = peak_aligned_raster(activations, 2 * np.arange(6), np.full(5, 3), reach=1)
    np.testing.assert_array_equal(raster.profile(3), [np.nan, 6, np.nan])


def test_summary_statistics_by_hand():
    labels = np.array([0, 3, 3])
    weights = np.ones((5, 3), np.float32)
    table = summary_statistics(ACTIVATIONS, OFFSETS, labels, weights)
    first = table.iloc[0]
    assert first["share_firing"] == 1
    assert first["mean_peak_value_label_3"] == 2
    assert first["max_peak_value_label_3"] == 3
    assert first["n_firing"] == 3
    assert first["median_peak_token"] == 1
    assert first["mean_peak_position"] == pytest.approx((0.5 + 0.375 + 2.5 / 3) / 3)
    assert np.isnan(first["share_firing_label_1"])
    second = table.iloc[1]
    assert second["share_firing_label_0"] == 0
    assert second["mean_peak_value_label_3"] == 2.5
    assert second["mean_peak_position"] == 0.625
    assert list(table["activator"]) == ["undecided", "undecided"]  # fewer than ten sentences


def test_early_and_late_activators():
    n, offsets = 40, 10 * np.arange(41)
    activations = np.zeros((n, 10, 4), np.float32)
    activations[:, 1, 0] = 1
    activations[:, 8, 1] = 1
    activations[::2, 0, 2] = activations[1::2, 9, 2] = 1
    weights = group_bootstrap(np.arange(n), 300, np.random.default_rng(0))
    table = summary_statistics(activations.reshape(-1, 4), offsets, np.arange(n) % 4, weights)
    assert list(table["activator"]) == ["early", "late", "undecided", "never fires"]
    assert table["peak_position_low"][0] == pytest.approx(0.15)
    assert np.isnan(table["mean_peak_position"][3])


def test_a_limit_takes_every_label_in_turn():
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    strength = np.array([1, 5, 2, 3, 0, 4, 7, 6])
    chosen = choose_sentences
    np.testing.assert_array_equal(chosen(labels, strength, [0, 1, 2, 3], None, "index"), np.arange(8))
    np.testing.assert_array_equal(chosen(labels, strength, [0, 1, 2, 3], 5, "index"), [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(chosen(labels, strength, [0, 1, 2, 3], 4, "peak"), [6, 1, 5, 3])
    np.testing.assert_array_equal(chosen(labels, strength, [2, 3], None, "peak"), [6, 7, 5, 4])
