"""What was run: the command behind every part of the page, when it finished, and with which libraries."""

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from experiments.experiment_folder import read_json
from study_report.trait_study import TraitStudy

POSITIONAL = ("experiment", "datasets")
REPEATED = {"settings": "--set", "transfer": "--transfer"}  # one option per value
WITH_OPPOSITE = {"require_monotonic"}  # switches that are on unless --no-… is given


@dataclass(frozen=True)
class StageRun:
    """One finished command."""

    stage: str
    command: str
    record: Path  # run.json
    content: dict

    @property
    def finished(self) -> str:
        """Day and minute at which run.json, the last file of a run, was written (UTC)."""
        return f"{datetime.fromtimestamp(self.record.stat().st_mtime, UTC):%Y-%m-%d %H:%M}"

    @property
    def seconds(self) -> float | None:
        runs = self.content.get("runs")  # stage 1 goes on where it was stopped
        if runs:
            return sum(run.get("seconds") or 0.0 for run in runs)
        return self.content.get("seconds")


def stage_runs(study: TraitStudy) -> list[StageRun]:
    """The commands behind a trait's part of the page, in the order of the stages."""
    found = []
    if study.features is not None:
        found.append(stage_run("s1", "extract_sae_features.py", study.features.folder))
    if study.steering is not None:
        found.append(stage_run("s1", "steer_features.py", study.steering.folder))
    if study.findings is not None:
        found.append(stage_run("s2", "analyze_features.py", study.findings.folder))
    if study.plots is not None:
        found.append(stage_run("s3", "visualize_activations.py", study.plots))
    found += [stage_run("s5", "framework/train.py", probe.folder) for probe in study.probes]
    if study.emergence is not None:
        found.append(stage_run("s5", "framework/emergence.py", study.emergence.path.parent))
    return found


def stage_run(stage: str, script: str, folder: Path) -> StageRun:
    record = folder / "run.json"
    content = read_json(record, "run that stage again")
    return StageRun(stage, command_line(script, content.get("arguments", {})), record, content)


def command_line(script: str, arguments: dict) -> str:
    """The command with every argument that had a value, whether it was typed or a default."""
    arguments = {name: value for name, value in arguments.items() if value not in (None, [], "")}
    if arguments.get("demo"):
        arguments.pop("model", None)  # the embedded model takes its place
    words = ["python", script]
    for name in POSITIONAL:
        value = arguments.pop(name, [])
        words += value if isinstance(value, list) else [value]
    for name, value in arguments.items():
        option = REPEATED.get(name, f"--{name.replace('_', '-')}")
        if value is False:
            words += [f"--no-{name.replace('_', '-')}"] if name in WITH_OPPOSITE else []
        elif value is True:
            words += [option]
        elif isinstance(value, list) and name in REPEATED:
            words += [word for item in value for word in (option, item)]
        else:
            words += [option, *(value if isinstance(value, list) else [value])]
    return shlex.join(map(str, words))


def library_table(runs: list[StageRun]) -> dict[str, list[str]]:
    """Versions of Python and of each library behind the runs; more than one where runs differ."""
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.content.get("libraries", {}).items():
            versions.setdefault(name, set()).add(version)
    return {name: sorted(found) for name, found in versions.items()}
