"""The emergence curves of a study: found by trait, sentences and model in every emergence.json."""

from dataclasses import dataclass
from pathlib import Path

from experiments.experiment_folder import read_record
from study_report.measured import Measured
from study_report.run_identity import RunIdentity
from study_report.study_places import StudyPlaces

ENDS = "auroc"
EMERGENCE = "run s5_classifier_training/framework/emergence.py again"


@dataclass(frozen=True)
class EmergenceCurve:
    """One trait of one emergence.json."""

    path: Path
    entry: dict  # of the trait
    lead: str  # the probe that leads
    metric: str

    @property
    def figures(self) -> dict:
        """Value, bands and landmarks of the leading probe."""
        return self.entry["probes"][self.lead][self.metric]

    @property
    def identity(self) -> RunIdentity:
        return RunIdentity.of(self.entry["dataset"]["metadata"]["source"])

    def floor(self, name: str) -> dict:
        return self.entry["floors"][name][self.metric]

    def on_other_sentences(self) -> dict | None:
        """The leading probe, fitted on our sentences, where ours say it reads best, on other people's.

        AUROC of the highest against the lowest label: that much can be asked of sentences with two labels.
        None where emergence.py had no --transfer.
        """
        other = self.entry.get("transfer")
        if other is None:
            return None
        own, there = (probes["probes"][self.lead][ENDS] for probes in (self.entry, other))
        place = self.entry["layers"].index(own["peak"])
        return {
            "name": other["name"],
            "n_sentences": other["n_sentences"],
            "layer": own["peak"],
            "own": Measured(own["peak_value"], own["band_low"][place], own["band_high"][place]),
            "there": Measured(there["value"][place], there["band_low"][place], there["band_high"][place]),
            "tfidf_there": other["floors"]["tfidf"][ENDS]["value"],
        }


@dataclass(frozen=True)
class OnsetDifference:
    """How many layers later the second trait's onset is than the first's; no interval without a joint run."""

    first: str
    second: str
    layers_later: float | None
    interval: list[float | None] | None
    share_first_earlier: float | None
    share_second_earlier: float | None
    path: Path | None  # of the joint run


def read_emergence_files(places: StudyPlaces) -> dict[Path, dict]:
    """Every emergence.json of the stage, by its path; the default output first."""
    paths = [places.emergence / "emergence.json", *sorted(places.emergence.glob("*/emergence.json"))]
    return {path: read_record(path, EMERGENCE) for path in paths if path.is_file()}


def curves_of(name: str, places: StudyPlaces, files: dict[Path, dict]) -> list[EmergenceCurve]:
    """The curves of a trait, whatever sentences they come from; that of its own folder first."""
    own = places.emergence_of(name)
    return [
        EmergenceCurve(path, content["traits"][name], content["lead_probe"], content["metric"])
        for path, content in sorted(files.items(), key=lambda item: item[0].parent != own)
        if name in content["traits"]
    ]


def onset_differences(curves: dict[str, EmergenceCurve], files: dict[Path, dict]) -> list[OnsetDifference]:
    """The difference of each pair of traits, with an interval where one run of emergence.py had both."""
    names = list(curves)
    pairs = [(first, second) for k, first in enumerate(names) for second in names[k + 1 :]]
    return [_joint_difference(*pair, curves, files) or _plain_difference(*pair, curves) for pair in pairs]


def _joint_difference(
    first: str, second: str, curves: dict[str, EmergenceCurve], files: dict[Path, dict]
) -> OnsetDifference | None:
    for path, content in files.items():
        if not all(_same_curve(curves[name], content, name) for name in (first, second)):
            continue
        for found in content["onset_differences"]:
            if (found["first"], found["second"]) == (first, second):
                return OnsetDifference(**found, path=path)
            if (found["first"], found["second"]) == (second, first):
                return _turned(OnsetDifference(**found, path=path))
    return None


def _same_curve(curve: EmergenceCurve, content: dict, name: str) -> bool:
    """Whether another run has the same curve: the same figures of the same probe."""
    entry = content["traits"].get(name)
    measured_alike = (curve.lead, curve.metric) == (content["lead_probe"], content["metric"])
    return bool(entry) and measured_alike and entry["probes"][curve.lead][curve.metric] == curve.figures


def _turned(difference: OnsetDifference) -> OnsetDifference:
    """The same difference with the traits exchanged."""
    low, high = difference.interval
    later = difference.layers_later
    return OnsetDifference(
        first=difference.second,
        second=difference.first,
        layers_later=None if later is None else 0.0 - later,
        interval=[None if end is None else 0.0 - end for end in (high, low)],
        share_first_earlier=difference.share_second_earlier,
        share_second_earlier=difference.share_first_earlier,
        path=difference.path,
    )


def _plain_difference(first: str, second: str, curves: dict[str, EmergenceCurve]) -> OnsetDifference:
    onsets = [curves[name].figures["onset"] for name in (first, second)]
    later = None if None in onsets else onsets[1] - onsets[0]
    return OnsetDifference(first, second, later, None, None, None, None)
