"""The folder of an experiment: `working/` with its records, frozen versions `v{N}_{name}/` beside it."""

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from twins_s5.atomic_files import replaced_together, write_json
from twins_s5.folder_lock import only_writer
from twins_s5.provenance import sha256_of

STAGE = Path(__file__).resolve().parents[2]
FORMAT_VERSION = 1
LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "skops", "matplotlib", "torch")  # behind the results
TRAIN = "run framework/train.py first"


def is_experiment(folder: Path) -> bool:
    return (folder / "working").is_dir()


def experiments_here() -> list[Path]:
    """The experiments of this stage."""
    return [path for path in sorted(STAGE.glob("d*")) if is_experiment(path)]


def resolve_experiment(name: str) -> Path:
    """The folder of an experiment: a path, or a name inside this stage."""
    for folder in (Path(name), STAGE / name):
        if is_experiment(folder):
            return folder.resolve()
    known = ", ".join(path.name for path in experiments_here())
    raise FileNotFoundError(f"{name} is no experiment (no working/ folder in it); experiments here: {known}")


def versions_of(experiment: Path) -> list[Path]:
    """Frozen versions `v{N}_{name}` in order of N."""
    found = [path for path in experiment.glob("v*_*") if re.fullmatch(r"v\d+_.+", path.name)]
    return sorted(filter(Path.is_dir, found), key=version_number)


def version_number(version: Path) -> int:
    return int(version.name[1:].partition("_")[0])


def version_name(version: Path) -> str:
    return version.name.partition("_")[2]


def only_user(experiment: Path) -> AbstractContextManager[None]:
    """Keep other commands from writing or freezing `working/` meanwhile."""
    return only_writer(experiment / "working" / ".lock", f"{experiment.name}/working")


def read_json(path: Path, remedy: str) -> dict:
    """Read a JSON object; the error names the file and what to do."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object {{…}}")
    return content


def read_record(path: Path, remedy: str) -> dict:
    """Read a run.json, version.json or results.json and check its format version."""
    content = read_json(path, remedy)
    found = content.get("format_version")
    if found != FORMAT_VERSION:
        raise ValueError(f"{path} has format_version {found!r}, expected {FORMAT_VERSION}; {remedy}")
    return content


def verified_files(folder: Path, record: str) -> dict[str, str]:
    """File names and SHA-256 that `record` (run.json or version.json) lists; ValueError where one differs."""
    files = read_record(folder / record, TRAIN).get("files", {})
    if "results.json" not in files:
        raise ValueError(f"{folder / record} lists no results.json; train again")
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing though {record} lists it; train again")
        if sha256_of(path) != sha256:
            raise ValueError(f"{path} was changed after it was written; train again, or restore the file")
    return files


def listed_files(folder: Path) -> set[str]:
    """Names of the result files that the run.json of a folder lists; none where there is no such record."""
    try:
        files = read_json(folder / "run.json", TRAIN).get("files", {})
    except (FileNotFoundError, ValueError):
        return set()
    return {Path(name).name for name in files}


@contextmanager
def results_replaced(folder: Path, record: dict) -> Iterator[Path]:
    """Yield an empty folder; on success its files replace the results in `folder`: all of them, or none.

    `record` is written beside them as run.json, with their checksums. Files that only the earlier run.json
    lists are deleted; what no run.json lists is not ours and stays.
    """
    earlier = listed_files(folder)
    with replaced_together(folder, last="run.json") as fresh:
        yield fresh
        files = {path.name: sha256_of(path) for path in sorted(fresh.iterdir())}
        write_json(fresh / "run.json", {"format_version": FORMAT_VERSION, **record, "files": files})
    delete_files(folder, earlier - set(files))


def delete_files(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
