"""What steering costs text that has nothing to do with the trait, and what taking the feature away does."""

from dataclasses import dataclass

import numpy as np
import torch
from finite_steering.directions import Direction
from finite_steering.dose_response import LABELS, Probe, with_intervals
from language_model.upper_blocks import UpperBlocks
from twins_s1.group_statistics import percentile_interval


@dataclass(frozen=True)
class NeutralText:
    """Sentences of other traits' label 0, or of a file, and what the unsteered model makes of them."""

    upper: UpperBlocks
    unsteered: list[torch.Tensor]  # per batch, the decoder's output [m, d_model]
    log_probs: np.ndarray  # [k] float64, ℓ_i in nats per token
    weights: np.ndarray  # [B, k] bootstrap over sentences


def neutral_rows(neutral: NeutralText, direction: Direction, alphas: tuple[float, ...]) -> list[dict]:
    """Change of log-probability and KL to the unsteered model on neutral text, per token, at each dose."""
    rows = []
    for alpha in alphas:
        log_probs, divergence = (np.full(len(neutral.log_probs), np.nan) for _ in range(2))
        for batch, unsteered in zip(neutral.upper.batches, neutral.unsteered):
            of_tokens, kl = neutral.upper.log_probs_and_kl(batch, alpha * direction.vector, unsteered)
            log_probs[batch.sentences] = batch.sentence_means(of_tokens)
            divergence[batch.sentences] = batch.sentence_means(kl)
        for measure, values in (
            ("neutral_log_prob", log_probs - neutral.log_probs),
            ("neutral_kl", divergence),
        ):
            low, high = percentile_interval(neutral.weights @ values / neutral.weights.sum(axis=1))
            row = {"operation": "steer", "alpha": alpha, "measure": measure, "value": float(values.mean())}
            rows.append(row | {"low": low, "high": high, "predicted": None})
    return rows


def ablation_rows(probe: Probe, activations: np.ndarray, w_dec_row: torch.Tensor) -> list[dict]:
    """Effect of subtracting the feature's decoded contribution where it fires.

    activations: [k, most positions] float32, of the feature at each token of the measured sentences in order,
    0 behind the last one; w_dec_row: [d_model].
    """
    change = np.full(len(probe.unsteered), np.nan)
    predicted = None
    for batch in probe.upper.batches:
        is_token = batch.padded.is_token
        own = torch.zeros(is_token.shape, dtype=torch.float32, device=is_token.device)
        width = is_token.sum(dim=1)
        for row, sentence in enumerate(batch.sentences):
            n_tokens = int(width[row])
            own[row][is_token[row]] = torch.from_numpy(activations[sentence, :n_tokens]).to(own)
        taken_away = -own[..., None] * w_dec_row.to(own)  # [batch, position, d_model]
        means = batch.sentence_means(probe.upper.log_probs(batch, taken_away))
        change[batch.sentences] = means - probe.unsteered[batch.sentences]
    return [
        {"operation": "ablate", "alpha": 0.0, "measure": measure, "value": value, "low": low, "high": high}
        | {"predicted": predicted}
        for measure, (value, low, high) in with_intervals(probe, change).items()
        if measure == "log_prob_gap" or int(measure[-1]) in LABELS
    ]
