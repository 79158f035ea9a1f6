"""How the likelihood of sentences moves with the dose, and where a slope stands among null directions."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from finite_steering.directions import Direction
from finite_steering.measured_sentences import N_LABELS, MeasuredSentences
from language_model.upper_blocks import UpperBlocks
from language_model.vocabulary_head import VocabularyHead
from twins_s1.group_statistics import percentile_interval

LABELS = tuple(range(N_LABELS))
GAP_LABELS = (0, 3)  # what D compares; all that nulls are measured on


@dataclass(frozen=True)
class Probe:
    """A layer, the k sentences to measure on, and what the unsteered model makes of them."""

    upper: UpperBlocks  # whose batches hold positions 0 to k - 1 of the measured sentences
    sentences: MeasuredSentences
    unsteered: np.ndarray  # [k] float64, ℓ_i in nats per token
    unsteered_on_all_words: np.ndarray  # [k] float64, the same on the whole vocabulary
    gradients: np.ndarray | None  # [k, d_model] float64, Σ_t g_t; None in a folder without gradients
    weights: np.ndarray  # [B, k], how often the bootstrap over groups draws each sentence

    def change(self, vector: torch.Tensor, labels: tuple[int, ...]) -> np.ndarray:
        """Change of ℓ_i with `vector` added at every token, [k]; NaN for sentences of other labels."""
        wanted = np.isin(self.sentences.labels, labels)
        batches = [batch for batch in self.upper.batches if wanted[batch.sentences].any()]
        change = self.upper.mean_log_probs((batch, vector) for batch in batches) - self.unsteered
        return np.where(wanted, change, np.nan)

    def vocabulary_error(self, response: "Response") -> float:
        """How far D is from that on the whole vocabulary where the text changes most, nats per token."""
        if self.upper.head.sample is None:
            return 0.0
        alpha = max(response.changes, key=response.departure)
        exact = replace(
            self,
            upper=replace(self.upper, head=VocabularyHead(self.upper.head.model)),
            unsteered=self.unsteered_on_all_words,
        ).change(alpha * response.direction.vector, GAP_LABELS)
        return float(abs(self.gap(response.changes[alpha]) - self.gap(exact)))

    def gap(self, change: np.ndarray) -> float:
        """D: label 3 minus label 0 of a change [k]."""
        labels = self.sentences.labels
        return change[labels == GAP_LABELS[1]].mean() - change[labels == GAP_LABELS[0]].mean()

    def first_order(self, direction: Direction) -> np.ndarray | None:
        """Predicted change of ℓ_i at α = 1, Σ_t g_t · δ, [k]; None without gradients."""
        if self.gradients is None:
            return None
        return self.gradients @ direction.vector.double().cpu().numpy()


@dataclass(frozen=True)
class Response:
    """What a direction does at every dose."""

    direction: Direction
    changes: dict[float, np.ndarray]  # by α: [k] change of ℓ_i, nats per token, NaN where not measured

    def departure(self, alpha: float) -> float:
        """How much the text loses or gains at a dose, nats per token."""
        return float(abs(np.nanmean(self.changes[alpha])))

    @property
    def slope(self) -> np.ndarray:
        """(ℓ_i(1) - ℓ_i(-1)) / 2, [k]."""
        return (self.changes[1.0] - self.changes[-1.0]) / 2


def respond(probe: Probe, direction: Direction, alphas: tuple[float, ...]) -> Response:
    """Measure a finalist at all doses on all labels, a null at ±1 on the labels that the gap compares.

    Raises:
        ValueError: a dose makes the model's values not finite.
    """
    is_null = direction.kind != "feature"
    labels = GAP_LABELS if is_null else LABELS
    changes = {}
    for alpha in (-1.0, 1.0) if is_null else alphas:
        changes[alpha] = probe.change(alpha * direction.vector, labels)
        if not np.isfinite(changes[alpha][np.isin(probe.sentences.labels, labels)]).all():
            raise ValueError(
                f"--alphas: {alpha:g} makes the model's log-probabilities not finite; use smaller ones"
            )
    return Response(direction, changes)


def measures(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Mean of `values` [k] by label, and the gap between labels 3 and 0, under each row of `weights` [B, k].

    Arrays [B]. Labels without a finite value are left out.
    """
    found = {}
    for label in LABELS:
        own = (labels == label) & np.isfinite(values)
        if own.any():
            with np.errstate(invalid="ignore", divide="ignore"):  # a resample without this label
                found[label] = weights[:, own] @ values[own] / weights[:, own].sum(axis=1)
    by_name = {f"log_prob_label_{label}": values for label, values in found.items()}
    return {"log_prob_gap": found[3] - found[0], **by_name}


def with_intervals(probe: Probe, values: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Point and bootstrap interval `(value, low, high)` of each of `measures`."""
    labels = probe.sentences.labels
    point = measures(values, labels, np.ones((1, len(values))))
    resampled = measures(values, labels, probe.weights)
    return {name: (float(point[name][0]), *percentile_interval(resampled[name])) for name in point}


def dose_rows(probe: Probe, response: Response) -> list[dict]:
    """Rows of dose_response.csv: one per dose and measure."""
    first_order = probe.first_order(response.direction)
    rows = []
    for alpha, change in response.changes.items():
        expected = {} if first_order is None else with_intervals(probe, alpha * first_order)
        for measure, (value, low, high) in with_intervals(probe, change).items():
            predicted = expected.get(measure, (None,))[0]
            row = {
                "operation": "steer",
                "alpha": alpha,
                "measure": measure,
                "value": value,
                "low": low,
                "high": high,
            }
            rows.append(row | {"predicted": predicted})
    return rows


def slope_row(probe: Probe, response: Response) -> dict:
    """A row of slopes.csv, but for the place among the nulls."""
    value, low, high = with_intervals(probe, response.slope)["log_prob_gap"]
    first_order = probe.first_order(response.direction)
    predicted = None if first_order is None else with_intervals(probe, first_order)["log_prob_gap"][0]
    return {
        "norm": response.direction.norm,
        "slope": value,
        "slope_low": low,
        "slope_high": high,
        "predicted_slope": predicted,
    }


def place_among_nulls(slope_per_norm: float, nulls: np.ndarray) -> dict[str, float]:
    """Where a finalist's slope per unit of norm stands among those of null directions [B].

    `percentile`: share of nulls below it, ties one half. `p_null`: (b + 1) / (B + 1), b being the nulls that
    are at least as large in absolute value (Phipson & Smyth 2010).
    """
    below = (nulls < slope_per_norm).mean() + (nulls == slope_per_norm).mean() / 2
    as_large = (np.abs(nulls) >= abs(slope_per_norm)).sum()
    return {"percentile": float(100 * below), "p_null": float((as_large + 1) / (len(nulls) + 1))}
