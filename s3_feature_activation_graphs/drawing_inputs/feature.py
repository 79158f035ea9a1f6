"""One SAE feature, as it is chosen and named in figures."""

from dataclasses import dataclass

FeatureKey = tuple[int, int, int]  # layer, average_l0, feature_id


@dataclass(frozen=True)
class Feature:
    """One SAE feature; `rank` and `score` are None where s2 did not rank it."""

    layer: int
    average_l0: int
    feature_id: int
    rank: int | None = None
    score: float | None = None
    neuronpedia_url: str = ""

    @property
    def key(self) -> FeatureKey:
        return self.layer, self.average_l0, self.feature_id

    @property
    def name(self) -> str:
        return f"layer {self.layer}, L0 {self.average_l0}, feature {self.feature_id}"

    @property
    def short_name(self) -> str:
        return f"{self.layer}:{self.average_l0}:{self.feature_id}"

    @property
    def slug(self) -> str:
        return f"layer_{self.layer}_l0_{self.average_l0}_feature_{self.feature_id}"
