"""How features are ranked, filtered and tested."""

import argparse
from dataclasses import dataclass, fields

RANKING_COLUMNS = (
    "interpretability_score",
    "spearman_corr",
    "pearson_corr",
    "separation_score",
    "auroc",
    "tpr",
)


@dataclass(frozen=True)
class RankingOptions:
    """The options of `analyze_features.py` on which a ranking depends; USAGE.md says what each means."""

    pool: str
    rank_by: str
    top_n: int
    min_pearson: float
    min_tpr: float
    max_fpr: float
    require_monotonic: bool
    min_firing: int
    confirm_share: float
    permutations: int
    bootstrap: int
    alpha: float
    family_correlation: float
    seed: int
    jobs: int

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "RankingOptions":
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})
