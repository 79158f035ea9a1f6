"""What is added to the residual stream: a finalist's decoder row, and directions that stand for nothing."""

from dataclasses import dataclass

import numpy as np
import torch
from autoencoders.feature_places import FeaturePlace
from finite_steering.finalists import SaeActivity


@dataclass(frozen=True)
class Direction:
    """One vector that is added α times at every token."""

    kind: str  # `feature`, `null_feature` or `null_direction`
    feature_id: int | None
    null_index: int | None
    vector: torch.Tensor  # [d_model] float32, δ at α = 1

    @property
    def norm(self) -> float:
        return float(self.vector.norm())


def finalist_direction(place: FeaturePlace, seen: SaeActivity, w_dec: torch.Tensor) -> Direction:
    """The feature's largest activation times its decoder row.

    Raises:
        ValueError: the feature never fires in the folder, so nothing says how strong it can be.
    """
    largest = float(seen.largest[place.feature_id])
    if largest <= 0:
        raise ValueError(
            f"feature {place.feature_id} of layer {place.layer}, L0 {place.average_l0} fires at no token of "
            "the feature folder, so its largest activation is unknown: leave it out"
        )
    return Direction("feature", place.feature_id, None, largest * w_dec[place.feature_id])


def null_directions(
    finalists: list[Direction], seen: SaeActivity, w_dec: torch.Tensor, count: int, seed: int
) -> list[Direction]:
    """`count` features matched to the finalists by firing rate, and `count` Gaussian directions.

    All have the finalists' median norm, so that only their direction differs. Features nearest to the
    finalists' median rate (in logarithm) are candidates, five times as many as are drawn. Gaussian directions
    have the covariance of the decoder's rows, of which they are mixtures: where a few dimensions of the
    residual stream are enormous, an isotropic one of that norm changes the others until the text is lost.
    """
    rng = np.random.default_rng(seed)
    norm = float(np.median([direction.norm for direction in finalists]))
    own = [direction.feature_id for direction in finalists]
    firing = np.flatnonzero(seen.token_rate > 0)
    others = np.setdiff1d(firing, own)
    target = np.median(np.log(seen.token_rate[own]))
    nearest = others[np.argsort(np.abs(np.log(seen.token_rate[others]) - target), kind="stable")[: 5 * count]]
    drawn = np.sort(rng.choice(nearest, size=min(count, len(nearest)), replace=False))
    vectors = [("null_feature", int(f), w_dec[f]) for f in drawn]
    gaussian = torch.from_numpy(rng.standard_normal((count, len(w_dec)), dtype=np.float32)).to(w_dec) @ w_dec
    vectors += [("null_direction", None, row) for row in gaussian]
    return [
        Direction(kind, feature_id, i, vector * (norm / vector.norm()))
        for i, (kind, feature_id, vector) in enumerate(vectors)
    ]
