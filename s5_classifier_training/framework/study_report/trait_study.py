"""All that is there of one trait, and what is not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from study_report import remedies
from study_report.emergence_findings import EmergenceCurve, curves_of
from study_report.feature_findings import FeatureFindings, read_findings
from study_report.probe_findings import ProbeFinding, experiments_in, probes_of
from study_report.run_identity import Missing, RunIdentity
from study_report.steering_findings import SteeringFindings, read_steering
from study_report.study_places import StudyPlaces
from twins_s5.feature_folder import FeatureFolder, open_feature_folder

OTHER_SENTENCES = "what is there belongs to other sentences or another model"
NOT_RUN = "not run yet"
Part = TypeVar("Part")


@dataclass(frozen=True)
class TraitStudy:
    """One trait's results; None, or empty, where a stage has not run on these sentences."""

    name: str
    model: str
    features: FeatureFolder | None
    findings: FeatureFindings | None
    steering: SteeringFindings | None
    emergence: EmergenceCurve | None
    probes: list[ProbeFinding]
    plots: Path | None
    pages: list[tuple[str, Path]]  # of other stages, with their titles
    missing: list[Missing]


@dataclass
class PartsOfOneRun:
    """Takes the parts that come from one run's sentences and model, and notes the others as missing."""

    run: RunIdentity
    missing: list[Missing] = field(default_factory=list)

    def take(self, what: str, found: Sequence[tuple[RunIdentity, Part]], remedy: str) -> Part | None:
        """The first of what was found, each with the run it belongs to, that belongs to this run."""
        for run, part in found:
            if run == self.run:
                return part
        self.missing.append(Missing(what, OTHER_SENTENCES if found else NOT_RUN, remedy))
        return None


def read_trait(name: str, places: StudyPlaces, emergence_files: dict[Path, dict]) -> TraitStudy:
    """Read what the stages left of a trait; its ranking, or else its features, say which sentences count.

    Raises FileNotFoundError or ValueError, with the file, where a finished part is damaged.
    """
    results, folder, steered = places.results_of(name), places.features_of(name), places.steering_of(name)
    findings = [(part.identity, part) for part in map(read_findings, finished(results))]
    features = [(RunIdentity.of(part.run), part) for part in map(open_feature_folder, finished(folder))]
    steering = [(part.identity, part) for part in map(read_steering, finished(steered))]
    curves = [(part.identity, part) for part in curves_of(name, places, emergence_files)]
    runs = [run for run, _ in (*findings, *features, *curves)]
    if not runs:
        known = ", ".join(places.names()) or "none"
        raise FileNotFoundError(
            f"nothing of {name} is there: no finished {results}, no {folder} and no emergence curve; "
            f"run ./run_pipeline.sh {name}, or choose among: {known}"
        )
    parts = PartsOfOneRun(runs[0])
    asks_for_steering = steering or (findings and findings[0][1].has_effects)
    return TraitStudy(
        name=name,
        model=runs[0].model or "unknown model",
        features=parts.take("feature folder", features, remedies.extract(name)),
        findings=parts.take("ranking of features", findings, remedies.analyze(name)),
        steering=parts.take("steering", steering, remedies.steer(name)) if asks_for_steering else None,
        emergence=parts.take("emergence curve", curves, remedies.emerge(name)),
        probes=take_probes(name, places, parts),
        plots=parts.take(
            "pictures, token by token",
            [(runs[0], path) for path in finished(places.plots_of(name))],
            remedies.draw(name),
        ),
        pages=places.pages_of(name),
        missing=parts.missing,
    )


def finished(folder: Path) -> list[Path]:
    """The folder, or nothing: every stage writes run.json last."""
    return [folder] if (folder / "run.json").is_file() else []


def take_probes(name: str, places: StudyPlaces, parts: PartsOfOneRun) -> list[ProbeFinding]:
    """The newest probe of each experiment; the pipeline's experiments are missed where they have none."""
    taken = []
    for experiment in experiments_in(places.experiments):
        found = [(probe.identity, probe) for probe in probes_of(name, experiment)]
        if found or experiment.name in remedies.DATASETS:
            remedy = remedies.train(name, experiment.name)
            taken.append(parts.take(f"probe {experiment.name}", found, remedy))
    return [probe for probe in taken if probe is not None]
