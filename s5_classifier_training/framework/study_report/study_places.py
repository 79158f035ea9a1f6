"""Where the files of a study lie: the layout of run_pipeline.sh, each folder replaceable."""

from dataclasses import dataclass
from pathlib import Path

STAGE = Path(__file__).resolve().parents[2]
REPOSITORY = STAGE.parent
RESULTS_SUFFIX, FEATURES_SUFFIX = "_results", "_features"


@dataclass(frozen=True)
class StudyPlaces:
    """The folders that hold what the stages write, a name each: `<name>_features`, `<name>_results`, …"""

    features: Path = REPOSITORY / "s1_compute_all_features"  # also `<name>_steering`
    results: Path = REPOSITORY / "s2_find_top_features" / "results"
    plots: Path = REPOSITORY / "s3_feature_activation_graphs" / "plots"
    experiments: Path = STAGE
    emergence: Path = STAGE / "emergence"

    def features_of(self, name: str) -> Path:
        return self.features / f"{name}{FEATURES_SUFFIX}"

    def steering_of(self, name: str) -> Path:
        return self.features / f"{name}_steering"

    def results_of(self, name: str) -> Path:
        return self.results / f"{name}{RESULTS_SUFFIX}"

    def plots_of(self, name: str) -> Path:
        return self.plots / name

    def emergence_of(self, name: str) -> Path:
        return self.emergence / name

    def pages_of(self, name: str) -> list[tuple[str, Path]]:
        """The pages of other stages about a name, as far as they are there, each with its title."""
        pages = [
            ("ranking report", self.results_of(name) / "report.html"),
            ("token by token", self.plots_of(name) / "trajectories.html"),
            ("what the steered model wrote", self.plots_of(f"{name}_steering") / "continuations.html"),
        ]
        return [(title, path) for title, path in pages if path.is_file()]

    def names(self) -> list[str]:
        """Every name with results of stage 2, in alphabetical order."""
        found = self.results.glob(f"*{RESULTS_SUFFIX}/run.json")
        return sorted(path.parent.name.removesuffix(RESULTS_SUFFIX) for path in found)


def chosen_names(places: StudyPlaces, asked: list[str]) -> list[str]:
    """The names of the page; of all studies in `places` where none is asked for.

    Raises FileNotFoundError where there is nothing to show, ValueError for a name given twice.
    """
    if not asked:
        names = places.names()
        if not names:
            raise FileNotFoundError(
                f"{places.results} holds no finished <trait>_results, so there is no study to show; "
                "run ./run_pipeline.sh TRAIT, or say with --results where they lie"
            )
        return names
    if len(set(asked)) < len(asked):
        raise ValueError(f"a trait is named twice: {' '.join(asked)}; name each once")
    return asked
