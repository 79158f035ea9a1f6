"""What the page shows across traits, and the page as a whole."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from study_report.emergence_figures import all_curves, landmark_figure
from study_report.emergence_findings import EmergenceCurve, OnsetDifference, onset_differences
from study_report.follow_matrix import FollowMatrix, follow_matrix
from study_report.result_figures import transfer_figure
from study_report.stage_runs import library_table
from study_report.summary_words import Transfer, facts, summary
from study_report.trait_card import TraitCard, trait_card
from study_report.trait_study import TraitStudy


@dataclass(frozen=True)
class Comparison:
    """The traits of one model beside each other; parts that need more than is there are None or empty."""

    model: str
    facts: str
    summary: list[str]
    studies: list[TraitStudy]
    curves: dict[str, EmergenceCurve]
    curves_figure: Markup | None
    landmark_figure: Markup | None
    differences: list[OnsetDifference]
    matrix: FollowMatrix | None
    transfers: list[Transfer]
    transfer_figure: Markup | None
    probe_transfers: list[tuple[str, EmergenceCurve, dict]]  # trait, curve, what it reads elsewhere

    @property
    def spans_traits(self) -> bool:
        return len(self.studies) > 1

    @property
    def has_other_sentences(self) -> bool:
        return bool(self.transfers or self.probe_transfers)


@dataclass(frozen=True)
class StudyContent:
    cards: list[TraitCard]
    comparisons: list[Comparison]  # one a model
    libraries: dict[str, list[str]]

    @property
    def n_missing(self) -> int:
        return sum(len(card.study.missing) for card in self.cards)


def study_content(studies: list[TraitStudy], emergence_files: dict[Path, dict]) -> StudyContent:
    cards = [trait_card(study) for study in studies]
    models = list(dict.fromkeys(study.model for study in studies))
    runs = [run for card in cards for run in card.runs]
    return StudyContent(
        cards=cards,
        comparisons=[
            compare([card for card in cards if card.study.model == model], emergence_files)
            for model in models
        ],
        libraries=library_table(runs),
    )


def compare(cards: list[TraitCard], emergence_files: dict[Path, dict]) -> Comparison:
    """The cards of one model beside each other. Curves need one metric: that of the first trait's."""
    studies = [card.study for card in cards]
    curves = comparable_curves(studies)
    transfers = [
        (card, name, card.rows[0].auroc, measured)
        for card in cards
        if card.rows
        for name, measured in card.rows[0].elsewhere.items()
        if measured.is_known
    ]
    labelled = [(f"{card.study.name}: {name}", own, other) for card, name, own, other in transfers]
    several, matrix = len(curves) > 1, follow_matrix(studies)
    return Comparison(
        model=studies[0].model,
        facts=facts(cards),
        summary=summary(cards, matrix, transfers),
        studies=studies,
        curves=curves,
        curves_figure=all_curves(curves) if several else None,
        landmark_figure=landmark_figure(curves) if several else None,
        differences=onset_differences(curves, emergence_files),
        matrix=matrix,
        transfers=transfers,
        transfer_figure=transfer_figure(labelled) if labelled else None,
        probe_transfers=[
            (name, curve, other)
            for name, curve in curves.items()
            if (other := curve.on_other_sentences()) is not None
        ],
    )


def comparable_curves(studies: list[TraitStudy]) -> dict[str, EmergenceCurve]:
    curves = {study.name: study.emergence for study in studies if study.emergence is not None}
    metrics = [curve.metric for curve in curves.values()]
    return {name: curve for name, curve in curves.items() if curve.metric == metrics[0]}
