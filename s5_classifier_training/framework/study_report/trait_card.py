"""What the page shows of one trait: funnel, best features and their sentences, figures, what is missing."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from study_report.emergence_figures import trait_curve
from study_report.feature_findings import PLACE, FeatureFindings
from study_report.measured import Measured
from study_report.quoted_words import Quote
from study_report.result_figures import probe_figure
from study_report.shortfalls import shortfalls
from study_report.stage_runs import StageRun, stage_runs
from study_report.strongest_sentences import ShownSentence, strongest_sentences
from study_report.trait_study import TraitStudy
from study_report.wording import counted

N_WITH_SENTENCES = 3


@dataclass(frozen=True)
class FeatureRow:
    """One feature of the table."""

    figures: dict  # the row of the CSV, None where it has no value
    auroc: Measured  # held out
    by_difficulty: dict[str, Measured]
    elsewhere: dict[str, Measured]
    steering: dict | None  # the row of slopes.csv
    sentences: list[ShownSentence]
    peak: float  # the strongest token of these sentences: the full shade
    quotes: list[Quote]

    @property
    def verdict(self) -> str:
        confirmed = self.figures.get("confirmed")
        if confirmed is None:
            return "not held out"
        if "evidence" in self.figures:
            return self.figures["evidence"] or "neither"
        return "confirmed" if confirmed else "not confirmed"


@dataclass(frozen=True)
class TraitCard:
    study: TraitStudy
    funnel: list[tuple[int, str]]
    rows: list[FeatureRow]  # ranked features, or the nearest misses
    are_misses: bool
    shortfalls: list[str]
    emergence_figure: Markup | None
    probe_figure: Markup | None
    runs: list[StageRun]

    @property
    def sentences_file(self) -> Path:
        """The file that the sentences come from: a miss has none in the examples of stage 2."""
        if self.are_misses:
            return self.study.features.folder / "tokens.npz"
        return self.study.findings.folder / "feature_examples.json"

    @property
    def table_file(self) -> str:
        """The file that the rows come from."""
        return "discovery_ranking.csv" if self.are_misses else "ranked_features.csv"


def trait_card(study: TraitStudy) -> TraitCard:
    findings = study.findings
    return TraitCard(
        study=study,
        funnel=funnel(findings) if findings is not None else [],
        rows=feature_rows(study) if findings is not None else [],
        are_misses=findings is not None and findings.ranked.empty,
        shortfalls=shortfalls(study),
        emergence_figure=trait_curve(study.name, study.emergence) if study.emergence is not None else None,
        probe_figure=probe_figure(study.probes) if study.probes else None,
        runs=stage_runs(study),
    )


def funnel(findings: FeatureFindings) -> list[tuple[int, str]]:
    """How many features each step leaves, and what it asks; steps that were not taken are left out."""
    summary, arguments = findings.run["summary"], findings.run["arguments"]
    alpha = arguments["alpha"]
    steps = [
        (summary["n_features"], f"scanned, in {summary['n_saes']} SAEs"),
        (summary["n_eligible"], f"eligible: fire in at least {arguments['min_firing']} sentences"),
        (summary["n_significant_maxt"], f"significant: p maxT ≤ {alpha}, over all eligible"),
        (summary["n_passing"], "pass the filters"),
        (summary["n_ranked"], f"ranked, in {counted(summary['n_families'], 'family', 'families')}"),
        (summary["n_confirmed"], "confirmed on held-out sentences: follow the label"),
        (summary.get("n_steers"), "steer, on held-out sentences"),
        (summary.get("n_both"), "do both"),
    ]
    return [(count, words) for count, words in steps if count is not None]


def feature_rows(study: TraitStudy) -> list[FeatureRow]:
    findings = study.findings
    table = findings.best() if len(findings.ranked) else findings.nearest_misses()
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [feature_row(study, row, place < N_WITH_SENTENCES) for place, row in enumerate(rows)]


def feature_row(study: TraitStudy, row: dict, with_sentences: bool) -> FeatureRow:
    sentences = strongest_sentences(row, study.findings, study.features) if with_sentences else []
    return FeatureRow(
        figures=row,
        auroc=Measured.of(row, "confirm_auroc"),
        by_difficulty={
            kind: Measured.of(row, f"confirm_auroc_{kind}")
            for kind in ("plain", "hard")
            if f"confirm_auroc_{kind}" in row
        },
        elsewhere={name: Measured.of(row, f"transfer_{name}_auroc") for name in study.findings.transfers},
        steering=slope_of(study, row),
        sentences=sentences,
        peak=max((sentence.peak for sentence in sentences), default=1.0),
        quotes=study.findings.words.of(row),
    )


def slope_of(study: TraitStudy, row: dict) -> dict | None:
    """What steering with this feature did, where it was a finalist."""
    if study.steering is None:
        return None
    wanted = pd.DataFrame([{key: row[key] for key in PLACE}]).astype(float)
    found = study.steering.finalists.astype(dict.fromkeys(PLACE, float)).merge(wanted, on=PLACE)
    return None if found.empty else found.iloc[0].to_dict()
