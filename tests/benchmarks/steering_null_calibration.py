"""How often s2 says `steers` where nothing steers, by the functions and in the order that the analysis uses.

    steering_null_calibration.py --input FEATURES    a folder of s1 with effects
    steering_null_calibration.py                     a synthetic one, 2 SAEs x 400 features x 400 sentences

In each repeat, one SAE: split, choose ten features on the discovery sentences, confirm them on the others.
With shuffled labels whatever is called `steers` is chance. At most 0.05 of the repeats may have one, as p is
adjusted for the ten; without adjustment 0.05 of the ten best, and half of that of random features, half of
which point away from the trait. Random features with the true labels show how much of an SAE steers anyhow.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "s2_find_top_features"), str(ROOT / "tests")]

from feature_ranking.analysis_input import open_analysis_input, with_shuffled_labels  # noqa: E402
from feature_ranking.sae_effects import read_sae_effects  # noqa: E402
from feature_statistics.confirmation import directed_p_values  # noqa: E402
from feature_statistics.dense_columns import spearman_with_null  # noqa: E402
from feature_statistics.p_values import holm  # noqa: E402
from feature_statistics.sentence_split import DISCOVERY, split_groups  # noqa: E402
from synthetic_features import SyntheticSae, write_feature_folder  # noqa: E402
from twins_s2.feature_folder import read_sae_activations  # noqa: E402
from twins_s2.sentence_pooling import pool_sparse  # noqa: E402

ALPHA, N_CHOSEN, MIN_FIRING = 0.05, 10, 10


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, help="feature folder of s1 with effects (default: synthetic)")
    parser.add_argument("--repeats", type=int, default=400)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.input or write_synthetic(Path(temporary) / "synthetic_features")
        calibrate(folder, args.repeats)
    return 0


def write_synthetic(folder: Path) -> Path:
    """A tenth of the features steer: shuffled labels are tried where there is something to shuffle."""
    steering = dict.fromkeys(range(40), 0.5)
    saes = tuple(SyntheticSae(1, l0, d_sae=400, steering=steering) for l0 in (8, 16))
    return write_feature_folder(folder, saes=saes, n_sentences=400, effects=True)


def calibrate(folder: Path, repeats: int) -> None:
    features = open_analysis_input(folder)
    loaded = [load(features, sae) for sae in features.run["saes"] if sae.get("effects")]
    if not loaded:
        raise SystemExit(f"{folder} has no effects: extract with --gradients")
    print(f"{features.trait}: {len(features.labels)} sentences, {len(loaded)} SAEs, {repeats} repeats")
    print(f"{'':44s} repeats with one   features, adjusted   not adjusted")
    for labels, chosen in (("shuffled", "best"), ("shuffled", "random"), ("true", "random")):
        called = np.array(
            [
                called_steers(features, *loaded[seed % len(loaded)], labels, chosen, seed)
                for seed in range(repeats)
            ]
        )  # [repeats, 2, N_CHOSEN] adjusted, not adjusted
        error = 2 * np.sqrt(ALPHA * (1 - ALPHA) / repeats)
        shares = called[:, 0].any(axis=1).mean(), called[:, 0].mean(), called[:, 1].mean()
        which = f"the {N_CHOSEN} best by effect" if chosen == "best" else f"{N_CHOSEN} random features"
        name = f"{labels} labels, {which}"
        print(f"{name:44s} {shares[0]:8.3f} ± {error:.3f} {shares[1]:20.4f} {shares[2]:14.4f}")


def load(features, sae: dict) -> tuple[np.ndarray, np.ndarray]:
    """Steering [n, d_sae] of one SAE, and in which sentences its features fire, [n, d_sae] bool."""
    pooled = pool_sparse(read_sae_activations(features, sae).tocsc(), features.sentence_offsets, "max")
    return read_sae_effects(features, sae).steering, pooled.toarray() > 0


def called_steers(
    features, steering: np.ndarray, fires: np.ndarray, labels: str, chosen: str, seed: int
) -> np.ndarray:
    """Which of the chosen features are called `steers`, with Holm's adjustment and without, [2, N_CHOSEN]."""
    if labels == "shuffled":
        features = with_shuffled_labels(features, seed)
    found = split_groups(features.labels, features.groups, 0.25, seed) == DISCOVERY
    eligible = np.flatnonzero(fires[found].sum(axis=0) >= MIN_FIRING)
    none = np.zeros((int(found.sum()), 0), dtype=np.float32)  # no permutations here
    rho, _ = spearman_with_null(steering[found], eligible, features.labels[found], none)
    rng = np.random.default_rng([seed, 2])
    places = np.argsort(-rho)[:N_CHOSEN] if chosen == "best" else rng.choice(len(rho), N_CHOSEN, False)
    p = directed_p_values(
        steering[~found][:, eligible[places]],
        features.labels[~found],
        features.groups[~found],
        np.sign(rho[places]),
        n_permutations=2000,
        rng=rng,
    )
    return (np.stack([holm(p), p]) <= ALPHA) & (rho[places] > 0)


if __name__ == "__main__":
    sys.exit(main())
