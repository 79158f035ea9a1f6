"""Writes a steering folder in the layout that s1's steer_features.py writes, with known content."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

ALPHAS = (-1.0, -0.5, 0.5, 1.0)
FINALISTS = ((9, 48, 478, 0.06), (9, 48, 1414, -0.03), (12, 32, 77, 0.01))  # layer, L0, feature, slope
N_NULLS = 6


def write_steering_folder(
    folder: Path, *, with_predictions: bool = True, with_ratings: bool = False, text: str = "went home."
) -> Path:
    """Three features on two SAEs; D is the slope times α, predictions are 0.9 of it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    doses, slopes, continuations = [], [], []
    for layer, average_l0 in sorted({finalist[:2] for finalist in FINALISTS}):
        place = {"layer": layer, "average_l0": average_l0}
        for i in range(N_NULLS):
            kind = "null_feature" if i % 2 == 0 else "null_direction"
            slope = rng.normal(0, 0.02)
            row = place | {"feature_id": 100 + i if i % 2 == 0 else None, "kind": kind, "null_index": i}
            slopes.append(row | slope_columns(slope, with_predictions) | {"percentile": None, "p_null": None})
    for layer, average_l0, feature_id, slope in FINALISTS:
        row = {"layer": layer, "average_l0": average_l0, "feature_id": feature_id}
        own = row | {"kind": "feature", "null_index": None}
        slopes.append(own | slope_columns(slope, with_predictions) | {"percentile": 99.0, "p_null": 0.04})
        for alpha in ALPHAS:
            for measure, value in measures_at(slope, alpha).items():
                predicted = 0.9 * value if with_predictions and measure.startswith("log_prob") else None
                spread = {"value": value, "low": value - 0.01, "high": value + 0.01, "predicted": predicted}
                doses.append(own | {"operation": "steer", "alpha": alpha, "measure": measure} | spread)
        for alpha in (0.0, *ALPHAS):
            for decoding in ("greedy", "sampled"):
                written = {"prompt": "My sister", "decoding": decoding, "seed": 0, "alpha": alpha}
                rating = (
                    {"concept": 1, "fluency": 2, "harmonic_mean": 4 / 3} if decoding == "greedy" else None
                )
                rated = {"rating": rating} if with_ratings else {}
                continuations.append(row | written | {"text": text, "perplexity": 8.5} | rated)
    pd.DataFrame(doses).to_csv(folder / "dose_response.csv", index=False)
    pd.DataFrame(slopes).to_csv(folder / "slopes.csv", index=False)
    (folder / "continuations.json").write_text(json.dumps(continuations), encoding="utf-8")
    run = {"format_version": 1, "trait": "calm", "features_run": {"model": "tiny"}}
    run |= {"judge": {"model": "<j>", "concept": "calm words"}} if with_ratings else {}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def slope_columns(slope: float, with_predictions: bool) -> dict:
    return {
        "norm": 100.0,
        "slope": slope,
        "slope_low": slope - 0.01,
        "slope_high": slope + 0.01,
        "predicted_slope": 0.9 * slope if with_predictions else None,
    }


def measures_at(slope: float, alpha: float) -> dict[str, float]:
    by_label = {f"log_prob_label_{label}": slope * alpha * label / 3 - 0.01 * alpha**2 for label in range(4)}
    gap = by_label["log_prob_label_3"] - by_label["log_prob_label_0"]
    return by_label | {
        "log_prob_gap": gap,
        "neutral_log_prob": -0.02 * alpha**2,
        "neutral_kl": 0.02 * alpha**2,
    }
