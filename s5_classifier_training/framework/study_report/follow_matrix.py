"""Does the best feature of one trait follow the label of another? Computed from the feature folders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from study_report.feature_columns import feature_column, pooled_column, sae_entry, same_sae
from study_report.feature_findings import FeatureFindings
from study_report.measured import Measured
from study_report.trait_study import TraitStudy
from twins_s5.feature_folder import FeatureFolder
from twins_s5.group_statistics import group_bootstrap, percentile_interval, simultaneous_band, weighted_auroc

HIGHEST, LOWEST = 3, 0


@dataclass(frozen=True)
class FollowCell:
    """One trait's feature on the held-out sentences of another; not measured where `why_not` says why.

    `direction` is 1 where a band that holds for all cells at once is above one half, -1 where it is below.
    """

    auroc: Measured
    direction: int = 0
    why_not: str = ""


@dataclass(frozen=True)
class JudgingSentences:
    """The sentences of a trait on which features are judged: the same for every feature."""

    features: FeatureFolder
    rows: np.ndarray  # [n] bool: held out by stage 2, so no feature was chosen on them
    weights: np.ndarray  # [1 + B, number of rows]: the sample itself, then resamples of its groups
    are_held_out: bool

    @property
    def labels(self) -> np.ndarray:
        return self.features.labels[self.rows]


@dataclass(frozen=True)
class FollowMatrix:
    """AUROC of label 3 against 0; a row a feature, a column a trait's sentences."""

    rows: list[tuple[TraitStudy, dict]]  # trait and its first feature
    columns: list[tuple[TraitStudy, JudgingSentences]]
    cells: list[list[FollowCell]]

    @property
    def matched(self) -> list[tuple[tuple[TraitStudy, dict], list[FollowCell]]]:
        return list(zip(self.rows, self.cells))


def follow_matrix(studies: list[TraitStudy]) -> FollowMatrix | None:
    """The matrix of the traits whose ranking and feature folder are there; None where they are not two."""
    complete = [study for study in studies if study.findings is not None and study.features is not None]
    rows = [(study, study.findings.first()) for study in complete if study.findings.first() is not None]
    if len(complete) < 2 or not rows:
        return None
    columns = [(study, judging_sentences(study.findings, study.features)) for study in complete]
    found = [[_resampled(feature, study, judging) for _, judging in columns] for study, feature in rows]
    directions = iter(_directions([cell for row in found for cell in row if isinstance(cell, np.ndarray)]))
    cells = [[_cell(cell, directions) for cell in row] for row in found]
    return FollowMatrix(rows, columns, cells)


def _directions(resampled: list[np.ndarray]) -> list[int]:
    """Whether each cell's band, wide enough for all cells together, is above (1) or below (-1) one half."""
    if not resampled:
        return []
    n_resamples = min(map(len, resampled))
    together = np.stack([cell[:n_resamples] for cell in resampled], axis=1)  # [1 + B, n_cells]
    low, high = simultaneous_band(together[0], together[1:])
    return ((low > 0.5).astype(int) - (high < 0.5).astype(int)).tolist()


def _cell(found: np.ndarray | str, directions: Iterator[int]) -> FollowCell:
    if isinstance(found, str):
        return FollowCell(Measured(None, None, None), why_not=found)
    return FollowCell(Measured(float(found[0]), *percentile_interval(found[1:])), next(directions))


def judging_sentences(findings: FeatureFindings, features: FeatureFolder) -> JudgingSentences:
    """The held-out sentences with stage 2's own resamples, so that its intervals come out again."""
    split = findings.split.sort_values("sentence_index")
    held_out = (split["part"] == "confirmation").to_numpy()
    rows = held_out if held_out.any() else np.ones(len(held_out), bool)
    arguments = findings.run["arguments"]
    resamples = group_bootstrap(
        features.groups[rows], arguments["bootstrap"], np.random.default_rng(arguments["seed"])
    )
    weights = np.vstack([np.ones(rows.sum()), resamples])
    return JudgingSentences(features, rows, weights, bool(held_out.any()))


def _resampled(feature: dict, study: TraitStudy, judging: JudgingSentences) -> np.ndarray | str:
    """AUROC [1 + B], observed and resampled, or why there is none."""
    sae = same_sae(sae_entry(study.features, feature), judging.features)
    if sae is None:
        return "its run lacks this SAE"
    column = feature_column(judging.features, sae, feature)
    if column is None:
        return "its activations are gone"
    pooled = pooled_column(column, judging.features, study.findings.run["pool"])
    pair = np.isin(judging.labels, (LOWEST, HIGHEST))
    auroc = weighted_auroc(
        pooled[judging.rows][pair], judging.labels[pair] == HIGHEST, judging.weights[:, pair]
    )
    return auroc if np.isfinite(auroc[0]) else "label 0 or 3 is missing"
