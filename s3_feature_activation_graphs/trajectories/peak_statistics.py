"""One row of numbers per feature: how often it fires at each label, how strongly, and where it peaks."""

import numpy as np
import pandas as pd
from drawing_inputs.sentence_labels import LABELS, UNLABELLED, label_suffix

from .positions import first_firing_positions, peak_positions, peak_values, relative_positions

MIN_FIRING = 10  # sentences; below it a mean position says nothing, and s2 ranks no such feature either


def summary_statistics(
    activations: np.ndarray, offsets: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> pd.DataFrame:
    """One row per feature: share firing and peak by label, where the peak lies, early or late.

    `mean_peak_value_label_k` is the mean over all sentences of the label, silent ones counted as 0; without
    labels it is `mean_peak_value`, over all sentences;
    positions are relative (0 first token, 1 end) and over the sentences in which the feature fires.
    `activator` is `early` or `late` where the 95 % bootstrap interval of the mean peak position lies
    below or above the middle of the sentence, `undecided` where it holds the middle or the feature fires in
    fewer than 10 sentences, `never fires` where it is silent.
    """
    peaks = peak_values(activations, offsets)  # [n, n_features]
    peak_tokens = peak_positions(activations, offsets)  # [n, n_features]
    peak_share = relative_positions(peak_tokens, offsets)  # [n, n_features]
    first_share = relative_positions(first_firing_positions(activations, offsets), offsets)
    columns = {"share_firing": (peaks > 0).mean(axis=0)}
    for label in (UNLABELLED,) if (labels == UNLABELLED).all() else LABELS:
        rows, name = labels == label, label_suffix(label)
        empty = np.full(peaks.shape[1], np.nan)
        columns[f"share_firing{name}"] = (peaks[rows] > 0).mean(axis=0) if rows.any() else empty
        columns[f"mean_peak_value{name}"] = peaks[rows].mean(axis=0) if rows.any() else empty
        columns[f"max_peak_value{name}"] = peaks[rows].max(axis=0) if rows.any() else empty
    fires = peaks > 0  # [n, n_features] bool
    n_firing = fires.sum(axis=0)  # [n_features]
    columns["n_firing"] = n_firing
    columns["median_peak_token"] = [
        float(np.median(peak_tokens[fires[:, f], f])) if n_firing[f] else np.nan for f in range(len(n_firing))
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        columns["mean_peak_position"] = np.where(fires, peak_share, 0).sum(axis=0) / n_firing
        columns["mean_first_firing_position"] = np.where(fires, first_share, 0).sum(axis=0) / n_firing
        drawn = weights @ np.where(fires, peak_share, 0) / (weights @ fires)  # [n_boot, n_features]
    enough = np.isfinite(drawn).sum(axis=0) > 1  # [n_features]
    low, high = np.full((2, len(n_firing)), np.nan)
    low[enough], high[enough] = np.nanquantile(drawn[:, enough], [0.025, 0.975], axis=0)
    columns["peak_position_low"], columns["peak_position_high"] = low, high
    columns["activator"] = np.select(
        [n_firing == 0, n_firing < MIN_FIRING, high < 0.5, low > 0.5],
        ["never fires", "undecided", "early", "late"],
        "undecided",
    )
    return pd.DataFrame(columns)
