"""Versions of an experiment: frozen from `working/` and never written again, started from, and read."""

import json
import os
import re
import shutil
from argparse import ArgumentTypeError
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from experiments.experiment_config import ExperimentConfig
from experiments.experiment_folder import (
    FORMAT_VERSION,
    LIBRARIES,
    TRAIN,
    delete_files,
    listed_files,
    read_record,
    verified_files,
    version_name,
    version_number,
    versions_of,
)
from twins_s5.atomic_files import write_json
from twins_s5.provenance import library_versions, sha256_of

RESULTS = {"results.json", "predictions.csv", "model.skops", "run.json"}


@dataclass(frozen=True)
class Version:
    """One trained state of an experiment, with its test predictions."""

    experiment: str
    name: str  # of the folder: `v{N}_{name}` or `working`
    message: str
    results: dict
    test: pd.DataFrame  # rows of predictions.csv with part == test, by sentence_index

    @property
    def task(self) -> str:
        return self.results["config"]["task"]

    @property
    def source_and_target(self) -> tuple[str, str]:
        """Equal for two versions exactly if they predict the same target for the sentences of one CSV."""
        metadata = self.results["dataset"]["metadata"]
        return metadata["source"]["input_sha256"], json.dumps(metadata["target"], sort_keys=True)

    @property
    def test_identity(self) -> tuple:
        """Equal for two versions exactly if they were tested on the same sentences with the same targets."""
        return *self.source_and_target, tuple(self.test["sentence_index"]), tuple(self.test["y_true"])


def short_name(text: str) -> str:
    """An argparse type: the name of a version."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text):
        raise ArgumentTypeError(f"{text!r}: use lower-case letters, digits, _ and -, for example svm_rbf")
    return text


def find_version(experiment: Path, name: str) -> Path:
    """The version folder called `v1` or `v1_svm`."""
    versions = versions_of(experiment)
    for version in versions:
        if name in (version.name, f"v{version_number(version)}"):
            return version
    known = ", ".join(version.name for version in versions) or "none yet; freeze one with checkpoint.py"
    raise FileNotFoundError(f"{experiment.name} has no version {name!r}; versions: {known}")


def holder_of(experiment: Path, results_sha256: str, name: str | None = None) -> Path | None:
    """The version that holds these results: the newest one called `name`, or else any with another name.

    An older version of the same name does not count: its newest one should hold what was trained last.
    """
    newest = {version_name(version): version for version in versions_of(experiment)}
    own = [newest[name]] if name in newest else []
    others = [version for version in versions_of(experiment) if version_name(version) != name]
    for version in own + others:
        files = read_record(version / "version.json", "restore the file, or delete the version")["files"]
        if files.get("results.json") == results_sha256:
            return version
    return None


def freeze(experiment: Path, name: str, message: str = "") -> tuple[Path, bool]:
    """Copy the verified results into the next `v{N}_{name}/`, read-only.

    Returns the folder and whether it is new: results that a version holds are not frozen twice.
    """
    working = experiment / "working"
    files = verified_files(working, "run.json")
    run = read_record(working / "run.json", TRAIN)
    holder = holder_of(experiment, files["results.json"], name)
    if holder is not None:
        return holder, False
    earlier = versions_of(experiment)
    number = version_number(earlier[-1]) + 1 if earlier else 0
    target = experiment / f"v{number}_{name}"
    partial = experiment / f".{target.name}.{os.getpid()}.part"
    partial.mkdir()
    try:
        for file in (*files, "run.json"):
            shutil.copyfile(working / file, partial / file)
        # The configuration that was run, with any change made on the command line.
        write_json(partial / "config.json", run["config"])
        record = {
            "format_version": FORMAT_VERSION,
            "version": number,
            "name": name,
            "message": message,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dataset_sha256": run["dataset_sha256"],
            "libraries": run["libraries"],
            "frozen_with": library_versions(*LIBRARIES),
            "files": {path.name: sha256_of(path) for path in sorted(partial.iterdir())},
        }
        write_json(partial / "version.json", record)
        for path in partial.iterdir():
            path.chmod(0o444)
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target, True


def start_from(experiment: Path, config: ExperimentConfig, discard: bool) -> None:
    """Write `working/config.json` and clear the results there; other files, such as notes, stay.

    Raises ValueError for results that no version holds, unless they are to be discarded.
    """
    working = experiment / "working"
    results = working / "results.json"
    if results.is_file() and not discard and holder_of(experiment, sha256_of(results)) is None:
        raise ValueError(
            f"{working} holds results that no version keeps; freeze them with checkpoint.py, or "
            "give --discard"
        )
    outdated = listed_files(working) | RESULTS
    write_json(working / "config.json", config.as_json())
    delete_files(working, outdated)


def load_version(folder: Path) -> Version:
    """Read a frozen version, or `working/`, after checking that no file changed since it was written."""
    record = "run.json" if folder.name == "working" else "version.json"
    verified_files(folder, record)
    predictions = pd.read_csv(folder / "predictions.csv")
    return Version(
        experiment=folder.parent.name,
        name=folder.name,
        message=read_record(folder / record, TRAIN).get("message", "not frozen"),
        results=read_record(folder / "results.json", TRAIN),
        test=predictions[predictions["part"] == "test"].sort_values("sentence_index", ignore_index=True),
    )


def load_versions(experiment: Path) -> list[Version]:
    """All frozen versions, then `working/` if it holds results that no version does."""
    folders = versions_of(experiment)
    working = experiment / "working"
    if (working / "run.json").is_file():
        results_sha256 = verified_files(working, "run.json")["results.json"]
        if holder_of(experiment, results_sha256) is None:
            folders.append(working)
    return [load_version(folder) for folder in folders]
