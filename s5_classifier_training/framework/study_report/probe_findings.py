"""The trained probes of a trait, beside the baselines on the same test sentences."""

from dataclasses import dataclass
from pathlib import Path

from experiments.experiment_folder import TRAIN, is_experiment, read_record, versions_of
from study_report.measured import Measured
from study_report.run_identity import RunIdentity

QUESTIONS = {
    "embedding-to-feature": "the best feature, from the words (token embeddings)",
    "hidden-to-feature": "the best feature, from a hidden state",
    "hidden-to-concept": "the label, from hidden states",
    "features-to-concept": "the label, from the best features",
}
MEASURES = {"classification": ("kappa", "accuracy"), "regression": ("r2", "spearman")}  # the first is drawn
MEASURE_NAMES = {"kappa": "kappa", "accuracy": "accuracy", "r2": "R²", "spearman": "Spearman ρ"}
BASELINES = {
    "tfidf": "TF-IDF",
    "diff_means": "difference of means",
    "length": "sentence length",
    "majority": "constant guess",
    "shuffled": "shuffled labels",
}


@dataclass(frozen=True)
class ProbeFinding:
    """The newest results of one experiment for a trait."""

    experiment: str
    folder: Path  # `v{N}_{name}` or `working`
    results: dict  # results.json
    n_others: int  # older versions of the same trait and sentences

    @property
    def metadata(self) -> dict:
        return self.results["dataset"]["metadata"]

    @property
    def identity(self) -> RunIdentity:
        return RunIdentity.of(self.metadata["source"])

    @property
    def question(self) -> str:
        return QUESTIONS[self.metadata["strategy"]]

    @property
    def task(self) -> str:
        return self.results["config"]["task"]

    @property
    def measure(self) -> str:
        """The measure that is drawn: 0 for a constant guess, 1 for no error."""
        return self.measures[0]

    @property
    def measures(self) -> tuple[str, ...]:
        return MEASURES[self.task]

    def test(self, measure: str) -> Measured:
        return Measured.of(self.results, f"test_{measure}")

    def baseline(self, name: str, measure: str) -> float | None:
        return self.results["baselines"][name][f"test_{measure}"]

    def shuffled_range(self, measure: str) -> tuple[float | None, float | None]:
        """Smallest and largest value of the shuffles."""
        shuffled = self.results["baselines"]["shuffled"]
        return shuffled[f"test_{measure}_low"], shuffled[f"test_{measure}_high"]


def experiments_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("d*")) if is_experiment(path)]


def probes_of(name: str, experiment: Path) -> list[ProbeFinding]:
    """Every version of an experiment for a trait, whatever its sentences, the newest first.

    `working/` counts where it holds results, last: what it holds is mostly frozen too.
    """
    folders = [*versions_of(experiment)[::-1], experiment / "working"]
    found = [
        (folder, read_record(folder / "results.json", TRAIN))
        for folder in folders
        if (folder / "results.json").is_file()
    ]
    of_trait = [
        (folder, results) for folder, results in found if results["dataset"]["metadata"]["trait"] == name
    ]
    frozen = sum(folder.name != "working" for folder, _ in of_trait)
    return [
        ProbeFinding(experiment.name, folder, results, max(frozen - 1, 0)) for folder, results in of_trait
    ]
