"""The arrays behind every figure: where in a sentence features fire, how strongly, and from where they tell.

Nothing here draws. Activations are `[n_tokens, n_features]` with the sentences one after another, and
`offsets[i]:offsets[i + 1]` are the rows of sentence i; they are not negative (post-JumpReLU).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

LABELS = (0, 1, 2, 3)
MIN_HELD_OUT = 10  # sentences of label 0 and of label 3, for curves on the confirmation part alone
MIN_FIRING = 10  # sentences; below it a mean position says nothing, and s2 ranks no such feature either


def peak_values(activations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Largest activation of each feature in each sentence, [n_sentences, n_features]."""
    return np.maximum.reduceat(activations, offsets[:-1], axis=0)


def _first_true(condition: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Index within each sentence of the first true row, [n_sentences, n_features] int64; -1 if none."""
    lengths = np.diff(offsets)  # [n]
    position = np.arange(offsets[-1]) - np.repeat(
        offsets[:-1], lengths
    )  # [T] index of the token in its sentence
    never = np.iinfo(np.int64).max
    first = np.minimum.reduceat(np.where(condition, position[:, None], never), offsets[:-1], axis=0)
    return np.where(first == never, -1, first)


def peak_positions(activations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Token index of each feature's first peak, [n_sentences, n_features] int64; -1 where it never fires."""
    peaks = np.repeat(peak_values(activations, offsets), np.diff(offsets), axis=0)  # [T, n_features]
    return _first_true((activations == peaks) & (activations > 0), offsets)


def first_firing_positions(activations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Token index of each feature's first firing, [n_sentences, n_features] int64; -1 if it never fires."""
    return _first_true(activations > 0, offsets)


def relative_positions(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Centre of token p of m tokens as a share of the sentence, (p + 0.5) / m; NaN where p is -1.

    The centre, so that a feature that fires at random has the mean 0.5 for every sentence length.
    """
    share = (positions + 0.5) / np.diff(offsets)[:, None]
    return np.where(positions < 0, np.nan, share)


def bin_means(activations: np.ndarray, offsets: np.ndarray, n_bins: int) -> np.ndarray:
    """Mean activation in each of `n_bins` equal parts of a sentence, [n_sentences, n_bins, n_features].

    A token is taken as constant over its share of the sentence and counts in each part by the share of it
    that lies there: no token is left out of a long sentence, and nothing is interpolated in a short one.
    """
    # The integral from the start of the run to any point is linear between the ends of tokens.
    integral = np.zeros((len(activations) + 1, activations.shape[1]))  # [T + 1, n_features] float64
    np.cumsum(activations, axis=0, out=integral[1:])
    edges = offsets[:-1, None] + np.arange(n_bins + 1) / n_bins * np.diff(offsets)[:, None]  # [n, n_bins + 1]
    token = np.minimum(np.floor(edges).astype(np.int64), len(activations) - 1)
    part = (edges - token)[..., None]
    at_edges = (1 - part) * integral[token] + part * integral[token + 1]  # [n, n_bins + 1, n_features]
    return np.diff(at_edges, axis=1) * (n_bins / np.diff(offsets))[:, None, None]


def prefix_peaks(activations: np.ndarray, offsets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Largest activation in the first share of each sentence, [n_shares, n_sentences, n_features].

    Share s of m tokens is its first ceil(s * m) tokens, one at least: what is known to a reader who has
    read that far.
    """
    starts = offsets[:-1]
    # reduceat takes pairs (start, stop) when the starts are interleaved with the stops; the last stop may
    # be T, hence the row of zeros appended.
    padded = np.concatenate([activations, np.zeros_like(activations[:1])])  # [T + 1, n_features]
    peaks = np.empty((len(shares), len(starts), activations.shape[1]), activations.dtype)
    for i, length in enumerate(prefix_lengths(offsets, shares)):
        bounds = np.stack([starts, starts + length], axis=1).ravel()  # [2 n]
        peaks[i] = np.maximum.reduceat(padded, bounds, axis=0)[::2]
    return peaks


def prefix_lengths(offsets: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Number of tokens in the first share of each sentence, [n_shares, n_sentences] int64."""
    # Rounding keeps 0.7 * 10 = 7.000000000000001 from becoming eight tokens.
    lengths = np.ceil(np.round(shares[:, None] * np.diff(offsets), 9)).astype(np.int64)
    return np.maximum(lengths, 1)


def group_bootstrap(group: np.ndarray, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Weights [n_boot, n_sentences] float32 of a bootstrap that draws whole groups with replacement.

    Sentences of one scene are no independent observations; drawing them together keeps the bands honest.
    """
    names, member = np.unique(group, return_inverse=True)  # [n_groups], [n]
    counts = rng.multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=n_boot
    )  # [n_boot, n_groups]
    return counts[:, member].astype(np.float32)


def simultaneous_band(
    estimate: np.ndarray, replicates: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound [n_points] that hold the whole curve with probability `level`.

    The sup-t band of Montiel Olea and Plagborg-Møller (2019): estimate ± c · standard error, c being the
    quantile of the largest standardised deviation over the curve among the bootstrap `replicates`
    [n_boot, n_points]. A pointwise band would be too narrow to say from where on a curve clears a line.
    Replicates with NaN (a label drawn not once) are left out.
    """
    replicates = replicates[np.isfinite(replicates).all(axis=1)]
    if len(replicates) < 2 or not np.isfinite(estimate).all():
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    error = replicates.std(axis=0, ddof=1)  # [n_points]
    varies = error > 1e-9
    if not varies.any():
        return estimate.copy(), estimate.copy()
    deviation = np.abs(replicates[:, varies] - estimate[varies]) / error[varies]  # [n_boot, n_varying]
    width = np.quantile(deviation.max(axis=1), level) * np.where(varies, error, 0)  # [n_points]
    return estimate - width, estimate + width


def weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of `scores` [n] for `positive` [n] bool under each row of `weights` [n_boot, n].

    [n_boot] float64; ties count one half. NaN where a row gives no weight to one of the classes.
    """
    order = np.argsort(scores, kind="stable")
    first = np.searchsorted(scores[order], scores, side="left")  # [n] place of the first of its ties
    last = np.searchsorted(scores[order], scores, side="right")  # [n] one past its last tie
    negatives = np.where(positive, 0, weights)[:, order].astype(np.float64)  # [n_boot, n] sorted by score
    below = np.concatenate(
        [np.zeros((len(weights), 1)), np.cumsum(negatives, axis=1)], axis=1
    )  # [n_boot, n + 1]
    won = (below[:, first[positive]] + below[:, last[positive]]) / 2  # [n_boot, n_positive]
    positives = weights[:, positive].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positives * won).sum(axis=1) / (positives.sum(axis=1) * below[:, -1])


@dataclass(frozen=True)
class Curves:
    """Curves with simultaneous 95 % bands; NaN where nothing could be estimated."""

    x: np.ndarray  # [n_points] float64
    estimate: np.ndarray  # [n_curves, n_points] float64
    low: np.ndarray  # [n_curves, n_points] float64
    high: np.ndarray  # [n_curves, n_points] float64


def mean_trajectories(
    activations: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    n_bins: int = 20,
) -> dict[int, Curves]:
    """For each label that occurs, the mean activation of every feature along the sentence.

    `weights` [n_boot, n_sentences] come from `group_bootstrap`. One curve per feature.
    """
    values = bin_means(activations, offsets, n_bins)  # [n, n_bins, n_features]
    n_features = activations.shape[1]
    trajectories = {}
    for label in LABELS:
        rows = labels == label
        if not rows.any():
            continue
        flat = values[rows].reshape(rows.sum(), -1).astype(np.float64)  # [n_label, n_bins * n_features]
        drawn = weights[:, rows].astype(np.float64)  # [n_boot, n_label]
        drawn = drawn[drawn.sum(axis=1) > 0]
        replicates = (drawn @ flat / drawn.sum(axis=1, keepdims=True)).reshape(-1, n_bins, n_features)
        estimate = flat.mean(axis=0).reshape(n_bins, n_features).T  # [n_features, n_bins]
        bands = [simultaneous_band(estimate[f], replicates[:, :, f]) for f in range(n_features)]
        trajectories[label] = Curves(
            x=(np.arange(n_bins) + 0.5) / n_bins,
            estimate=estimate,
            low=np.maximum(np.array([low for low, _ in bands]), 0),  # an activation is never negative
            high=np.array([high for _, high in bands]),
        )
    return trajectories


def firing_curves(
    activations: np.ndarray, offsets: np.ndarray, labels: np.ndarray, shares: np.ndarray
) -> dict[int, np.ndarray]:
    """For each label that occurs, the share of its sentences in which a feature has fired by then.

    [n_features, n_shares] float64: the distribution of the first-firing position, whose last value is the
    share of sentences that fire at all.
    """
    fired = prefix_peaks(activations, offsets, shares) > 0  # [n_shares, n, n_features]
    return {label: fired[:, labels == label].mean(axis=1).T for label in LABELS if (labels == label).any()}


def cumulative_auroc(
    prefix: np.ndarray, labels: np.ndarray, weights: np.ndarray, shares: np.ndarray
) -> Curves:
    """AUROC of label 3 against label 0 for a reader who has read that share of each sentence.

    `prefix` [n_shares, n, n_curves] holds the scores from the text read so far (`prefix_peaks`), `weights`
    [n_boot, n] come from `group_bootstrap`. Raises ValueError when one of the labels does not occur.
    """
    rows = (labels == 0) | (labels == 3)
    positive = labels[rows] == 3  # [n_03] bool
    if positive.all() or not positive.any():
        raise ValueError("cumulative AUROC needs sentences of label 0 and of label 3")
    n_shares, _, n_curves = prefix.shape
    estimate, low, high = np.full((3, n_curves, n_shares), np.nan)
    one = np.ones((1, rows.sum()), np.float32)
    drawn = weights[:, rows]  # [n_boot, n_03]
    for curve in range(n_curves):
        scores = prefix[:, rows, curve]  # [n_shares, n_03]
        estimate[curve] = [weighted_auroc(row, positive, one)[0] for row in scores]
        replicates = np.array(
            [weighted_auroc(row, positive, drawn) for row in scores]
        ).T  # [n_boot, n_shares]
        low[curve], high[curve] = simultaneous_band(estimate[curve], replicates)
    return Curves(x=shares, estimate=estimate, low=np.clip(low, 0, 1), high=np.clip(high, 0, 1))


def detectable_from(curves: Curves, floor: float = 0.5) -> np.ndarray:
    """First share from which on the lower bound stays above `floor`, [n_curves]; NaN where it does not."""
    above = np.nan_to_num(curves.low, nan=-np.inf) > floor  # [n_curves, n_points]
    stays = np.logical_and.accumulate(above[:, ::-1], axis=1)[:, ::-1]
    first = curves.x[np.argmax(stays, axis=1)]
    return np.where(stays.any(axis=1), first, np.nan)


def text_prefix_scores(
    prefixes: list[list[str]],
    labels: np.ndarray,
    group: np.ndarray,
    train: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    """Log-odds of label 3 against 0 from the words read so far, [n_shares, n] float64: the bar to clear.

    TF-IDF and logistic regression, fitted on the full text of the label 0 and 3 sentences in `train` [n]
    bool; `prefixes` holds n texts per share, the full ones last. With `train` None every
    sentence is scored by a model fitted on the other folds of a 5-fold split by group. NaN for sentences
    that no model scores, and everywhere when a fit would see one class only.
    """
    # Imported here, because every process that draws sentences imports this module and needs none of it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline

    scored = np.full((len(prefixes), len(labels)), np.nan)  # [n_shares, n]
    extreme = np.flatnonzero((labels == 0) | (labels == 3))
    if train is not None:
        splits = [(extreme[train[extreme]], extreme[~train[extreme]])]
    else:
        n_folds = min(5, len(np.unique(group[extreme])), *np.bincount(labels[extreme] == 3, minlength=2))
        if n_folds < 2:
            return scored
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        parts = folds.split(extreme, labels[extreme], group[extreme])
        splits = [(extreme[fit], extreme[rest]) for fit, rest in parts]
    for fit, rest in splits:
        if len(np.unique(labels[fit])) < 2 or len(rest) == 0:
            return np.full_like(scored, np.nan)
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
            LogisticRegression(C=10.0, max_iter=1000, random_state=seed),
        )
        model.fit([prefixes[-1][i] for i in fit], labels[fit] == 3)
        for i, texts in enumerate(prefixes):
            scored[i, rest] = model.decision_function([texts[j] for j in rest])
    return scored


@dataclass(frozen=True)
class Raster:
    """One feature in every sentence in which it fires, aligned at its peak."""

    values: np.ndarray  # [n_firing, 2 * reach + 1] float32, NaN outside the sentence
    sentence: np.ndarray  # [n_firing] row of the sentence, by falling label and then falling peak
    labels: np.ndarray  # [n_firing] int64
    reach: int  # tokens shown on either side of the peak

    def profile(self, label: int) -> np.ndarray:
        """Mean activation around the peak, [2 * reach + 1]; NaN where fewer than 5 sentences have a token."""
        values = self.values[self.labels == label]
        n_tokens = np.isfinite(values).sum(axis=0)  # [2 reach + 1]
        return np.where(n_tokens >= 5, np.nansum(values, axis=0) / np.maximum(n_tokens, 1), np.nan)


def peak_aligned_raster(
    activations: np.ndarray, offsets: np.ndarray, labels: np.ndarray, reach: int = 15
) -> Raster:
    """Align the sentences of one feature, `activations` [T], at their peaks; without a peak, left out."""
    column = activations[:, None]
    peaks, position = peak_values(column, offsets)[:, 0], peak_positions(column, offsets)[:, 0]  # [n], [n]
    order = np.lexsort((np.arange(len(peaks)), -peaks, -labels))
    rows = order[position[order] >= 0]  # [n_firing]
    within = position[rows, None] + np.arange(
        -reach, reach + 1
    )  # [n_firing, 2 reach + 1] index in the sentence
    inside = (within >= 0) & (within < np.diff(offsets)[rows, None])
    index = np.where(inside, offsets[rows, None] + within, 0)
    values = np.where(inside, activations[index], np.nan).astype(np.float32)
    return Raster(values=values, sentence=rows, labels=labels[rows], reach=reach)


def summary_statistics(
    activations: np.ndarray, offsets: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> pd.DataFrame:
    """One row per feature: share firing and peak by label, where the peak lies, early or late.

    `mean_peak_value_label_k` is the mean over all sentences of the label, silent ones counted as 0;
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
    for label in LABELS:
        rows = labels == label
        empty = np.full(peaks.shape[1], np.nan)
        columns[f"share_firing_label_{label}"] = (peaks[rows] > 0).mean(axis=0) if rows.any() else empty
        columns[f"mean_peak_value_label_{label}"] = peaks[rows].mean(axis=0) if rows.any() else empty
        columns[f"max_peak_value_label_{label}"] = peaks[rows].max(axis=0) if rows.any() else empty
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


@dataclass(frozen=True)
class EarlyDetection:
    """How early the features tell label 3 from label 0, and how early the words do."""

    features: Curves  # one curve per feature
    words: Curves | None  # one curve; None where no text model could be fitted
    onset: np.ndarray  # [n_features] share from which the lower bound stays above 0.5, NaN if none
    n_by_label: dict[int, int]  # number of sentences of label 0 and 3 that the curves are about
    held_out: bool  # whether those had no part in the choice of the features


def early_detection(
    activations: np.ndarray,
    offsets: np.ndarray,
    tokens: np.ndarray,
    labels: np.ndarray,
    group: np.ndarray,
    confirmation: np.ndarray,
    weights: np.ndarray,
    shares: np.ndarray,
    seed: int,
) -> EarlyDetection:
    """Cumulative AUROC on the sentences of `confirmation` [n] bool, which did not choose the features.

    Where these are fewer than `MIN_HELD_OUT` of label 0 or 3, on all sentences, which flatters features
    that were chosen on them. Raises ValueError when label 0 or 3 does not occur.
    """
    counts = [(labels[confirmation] == label).sum() for label in (0, 3)]
    held_out = bool(min(counts) >= MIN_HELD_OUT)
    rows = confirmation if held_out else np.ones_like(confirmation)
    prefix = prefix_peaks(activations, offsets, shares)[:, rows]  # [n_shares, n_rows, n_features]
    curves = cumulative_auroc(prefix, labels[rows], weights[:, rows], shares)
    prefixes = [
        ["".join(tokens[start : start + length]) for start, length in zip(offsets, lengths)]
        for lengths in prefix_lengths(offsets, shares)
    ]
    train = ~confirmation if held_out else None
    scores = text_prefix_scores(prefixes, labels, group, train, seed)[:, rows]  # [n_shares, n_rows]
    extreme = (labels[rows] == 0) | (labels[rows] == 3)
    words = None
    if np.isfinite(scores[:, extreme]).all():
        words = cumulative_auroc(scores[..., None], labels[rows], weights[:, rows], shares)
    n_by_label = {label: int((labels[rows] == label).sum()) for label in (0, 3)}
    return EarlyDetection(curves, words, detectable_from(curves), n_by_label, held_out)


def choose_sentences(
    labels: np.ndarray, strength: np.ndarray, wanted: list[int], max_sentences: int | None, sort: str
) -> np.ndarray:
    """Rows of the sentences to show, in order: of the labels `wanted`, at most `max_sentences` in all.

    `sort` is `index` (file order) or `peak` (falling `strength` [n]). A limit takes the first of every label
    in turn, so that no label is left out.
    """
    rows = np.flatnonzero(np.isin(labels, wanted))
    if sort == "peak":
        rows = rows[np.argsort(-strength[rows], kind="stable")]
    if max_sentences is None or max_sentences >= len(rows):
        return rows
    turn = np.empty(len(rows), np.int64)  # [n_rows] place of each sentence among those of its label
    for label in wanted:
        of_label = labels[rows] == label
        turn[of_label] = np.arange(of_label.sum())
    kept = np.lexsort((labels[rows], turn))[:max_sentences]
    return rows[np.sort(kept)]
