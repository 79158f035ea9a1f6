"""What a study could not show, in words."""

from study_report.feature_findings import FeatureFindings
from study_report.probe_findings import MEASURE_NAMES, ProbeFinding
from study_report.trait_study import TraitStudy
from study_report.wording import METRIC_NAMES, counted, is_number, number


def shortfalls(study: TraitStudy) -> list[str]:
    """One sentence for each thing that was looked for and not found."""
    found = feature_shortfalls(study.findings) if study.findings is not None else []
    curve = study.emergence
    if curve is not None and curve.figures["onset"] is None:
        found.append(
            "No onset: no two consecutive layers of the leading probe clear every floor "
            f"({METRIC_NAMES[curve.metric]}, peak {number(curve.figures['peak_value'])}, "
            f"TF-IDF {number(curve.floor('tfidf')['value'])})."
        )
    return found + [sentence for probe in study.probes for sentence in probe_shortfalls(probe)]


def feature_shortfalls(findings: FeatureFindings) -> list[str]:
    summary, alpha = findings.run["summary"], findings.run["arguments"]["alpha"]
    found = []
    if summary["n_eligible"] == 0:
        return ["No feature is eligible: none fires in enough discovery sentences."]
    if summary["n_significant_maxt"] == 0:
        found.append(
            f"No feature follows the label beyond what the best of {summary['n_eligible']:,} reaches by "
            f"chance (p maxT ≤ {alpha})."
        )
    if summary["n_ranked"] == 0:
        found.append(
            "No feature passed the filters; the nearest misses are listed with the filters they failed."
        )
    elif summary["n_confirmed"] == 0:
        found.append(
            f"Of {counted(summary['n_ranked'], 'ranked feature')} none is confirmed on held-out sentences."
        )
    if summary["n_confirmed"] is None:
        found.append("Nothing was held out: no figure here is from sentences that took no part in choosing.")
    if findings.has_effects and summary["n_ranked"] and summary.get("n_steers") == 0:
        found.append(
            "No ranked feature is confirmed to steer: on held-out sentences, raising it does not make the "
            "trait's sentences likelier beyond chance."
        )
    return found


def probe_shortfalls(probe: ProbeFinding) -> list[str]:
    """Where words alone do as well, or the interval reaches the constant guess."""
    measure, name = probe.measure, MEASURE_NAMES[probe.measure]
    test, tfidf = probe.test(measure), probe.baseline("tfidf", measure)
    found = []
    if test.is_known and is_number(tfidf) and test.value <= tfidf:
        found.append(
            f"{probe.experiment} does no better than TF-IDF: {name} {number(test.value)}, "
            f"TF-IDF {number(tfidf)}."
        )
    if is_number(test.low) and test.low <= 0:
        found.append(
            f"{probe.experiment}: the interval of {name} reaches zero, a constant guess ({test.words})."
        )
    return found
