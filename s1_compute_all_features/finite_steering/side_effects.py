"""What steering costs text that has nothing to do with the trait, and what taking the feature away does."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from finite_steering.directions import Direction
from finite_steering.dose_response import Probe, with_intervals
from language_model.upper_blocks import RecordedBatch, UpperBlocks
from twins_s1.group_statistics import percentile_interval


@dataclass(frozen=True)
class NeutralText:
    """k sentences that have nothing to do with the trait, and what the unsteered model makes of them."""

    upper: UpperBlocks  # whose batches hold positions 0 to k - 1
    unsteered: np.ndarray  # [k] float64, ℓ_i in nats per token
    weights: np.ndarray  # [B, k] bootstrap over sentences


def neutral_rows(neutral: NeutralText, direction: Direction, alphas: tuple[float, ...]) -> list[dict]:
    """Change of log-probability and KL to the unsteered model on neutral text, per token, at each dose."""
    rows = []
    for alpha in alphas:
        log_probs, divergence = neutral.upper.mean_log_probs_and_kl(alpha * direction.vector)
        change = log_probs - neutral.unsteered
        for measure, values in (("neutral_log_prob", change), ("neutral_kl", divergence)):
            low, high = percentile_interval(neutral.weights @ values / neutral.weights.sum(axis=1))
            row = {"operation": "steer", "alpha": alpha, "measure": measure, "value": float(values.mean())}
            rows.append(row | {"low": low, "high": high, "predicted": None})
    return rows


def ablation_rows(
    probe: Probe, direction: Direction, activations: scipy.sparse.csr_matrix, w_dec: torch.Tensor
) -> list[dict]:
    """Effect of subtracting a feature's decoded contribution where it fires.

    activations: CSR [T, d_sae] of the measured sentences' tokens; w_dec: [d_sae, d_model].
    """
    own = torch.from_numpy(activations[:, [direction.feature_id]].toarray().ravel())  # [T] float32

    def taken_away(batch: RecordedBatch) -> torch.Tensor:
        is_token = batch.padded.is_token
        here = torch.zeros(is_token.shape, device=is_token.device)
        here[is_token] = own[torch.from_numpy(batch.padded.rows)].to(here)
        return -here[..., None] * w_dec[direction.feature_id].to(here)  # [batch, position, d_model]

    batches = probe.upper.batches
    change = probe.upper.mean_log_probs((batch, taken_away(batch)) for batch in batches) - probe.unsteered
    rows = []
    for measure, (value, low, high) in with_intervals(probe, change).items():
        row = {"operation": "ablate", "alpha": 0.0, "measure": measure, "value": value}
        rows.append(row | {"low": low, "high": high, "predicted": None})
    return rows
