"""What an experiment is: its configuration, its dataset, its split, and the folder that holds its results."""

import difflib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from models.estimators import OWN_TYPES, grouped_folds, models_for, parameter_names

STAGE = Path(__file__).resolve().parents[2]
TASKS = ("classification", "regression")
LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "skops", "matplotlib", "torch")
GENERATE = "run s4_classifier_data_prep/generate_datasets.py"
# Parts of our models that skops leaves to its caller's judgement, because scikit-learn does not export them.
SKLEARN_INTERNALS = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.tree._tree.Tree",
)
DATASET_KEYS = ("X", "y", "sentence_index", "group", "layers", "d_model", "sentences", "part", "metadata")

# key -> (default, accepted types); a key without a default has to be given
CONFIG_SCHEMA: dict[str, tuple[object, tuple[type, ...]]] = {
    "dataset": (None, (str,)),
    "task": (None, (str,)),
    "model": (None, (str,)),
    "parameters": ({}, (dict,)),
    "grid": ({}, (dict,)),
    "select_k": (None, (int, type(None))),
    "first_inputs": (None, (int, type(None))),
    "seed": (0, (int,)),
    "folds": (5, (int,)),
    "test_share": (0.2, (float,)),
    "bootstrap": (1000, (int,)),
    "shuffles": (5, (int,)),
}
REQUIRED = ("dataset", "task", "model")


@dataclass(frozen=True)
class Dataset:
    """One NPZ of stage 4."""

    path: Path
    sha256: str
    metadata: dict
    X: np.ndarray  # [n, d] float32
    y: np.ndarray  # [n] float32 activation or int64 label
    sentence_index: np.ndarray  # [n] int64
    groups: np.ndarray  # [n] int64
    sentences: np.ndarray  # [n] str
    part: np.ndarray  # [n] str
    layers: np.ndarray  # [N] int64
    d_model: int

    @property
    def task(self) -> str:
        return self.metadata["task"]


@dataclass(frozen=True)
class Split:
    """Row indices of the two parts and how they were chosen."""

    train: np.ndarray  # [n_train] int64, rising
    test: np.ndarray  # [n_test] int64, rising
    method: str


def resolve_experiment(name: str) -> Path:
    """The folder of an experiment: a path, or a name inside this stage."""
    for folder in (Path(name), STAGE / name):
        if (folder / "working").is_dir():
            return folder.resolve()
    known = ", ".join(path.name for path in sorted(STAGE.glob("d*")) if (path / "working").is_dir())
    raise FileNotFoundError(f"{name} is no experiment (no working/ folder in it); experiments here: {known}")


def versions_of(experiment: Path) -> list[Path]:
    """Frozen versions `v{N}_{NAME}` in order of N."""
    found = [
        path for path in experiment.glob("v*_*") if re.fullmatch(r"v\d+_.+", path.name) and path.is_dir()
    ]
    return sorted(found, key=lambda path: int(path.name[1:].split("_")[0]))


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


def apply_overrides(config: dict, settings: list[str]) -> dict:
    """Return the configuration with `key=value` settings applied; `parameters.C=0.1` reaches inside.

    Values are read as JSON, and as plain text where they are not.
    """
    config = json.loads(json.dumps(config))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} is not key=value")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        outer, dot, inner = key.partition(".")
        if not dot:
            config[key] = value
        elif outer in ("parameters", "grid"):
            config.setdefault(outer, {})[inner] = value
        else:
            raise ValueError(f"--set {setting!r}: only parameters.NAME and grid.NAME reach inside a key")
    return config


def _unknown(kind: str, name: str, valid: list[str], source: str) -> ValueError:
    near = difflib.get_close_matches(name, valid, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ValueError(f"{source}: unknown {kind} {name!r}{hint}; valid: {', '.join(valid)}")


def validate_config(config: dict, source: str) -> dict:
    """Check every key and value and fill in defaults; ValueError names the key and what is valid."""
    for key in config:
        if key not in CONFIG_SCHEMA:
            raise _unknown("key", key, list(CONFIG_SCHEMA), source)
    for key in REQUIRED:
        if key not in config:
            raise ValueError(f"{source}: key {key!r} is missing; required: {', '.join(REQUIRED)}")
    full = {key: config.get(key, default) for key, (default, _) in CONFIG_SCHEMA.items()}
    for key, (_, types) in CONFIG_SCHEMA.items():
        value = full[key]
        if float in types and isinstance(value, int) and not isinstance(value, bool):
            value = full[key] = float(value)
        if not isinstance(value, types) or isinstance(value, bool):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise ValueError(f"{source}: {key} is {value!r}, expected {names}")
    if full["task"] not in TASKS:
        raise _unknown("task", full["task"], list(TASKS), source)
    if full["model"] not in models_for(full["task"]):
        raise _unknown(f"{full['task']} model", full["model"], models_for(full["task"]), source)
    valid = parameter_names(full["model"], full["task"])
    for section in ("parameters", "grid"):
        for name in full[section]:
            if name not in valid:
                raise _unknown(f"{full['model']} parameter", name, valid, f"{source}: {section}")
    for name, values in full["grid"].items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{source}: grid.{name} is {values!r}, expected a list of values to try")
    if not 0 < full["test_share"] < 1:
        raise ValueError(
            f"{source}: test_share is {full['test_share']}, expected between 0 and 1, for example 0.2"
        )
    minimum = {"folds": 2, "bootstrap": 100, "shuffles": 1, "seed": 0, "select_k": 1, "first_inputs": 1}
    for key, least in minimum.items():
        if full[key] is not None and full[key] < least:
            raise ValueError(f"{source}: {key} is {full[key]}, expected at least {least}")
    return full


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_dataset(path: Path) -> Dataset:
    """Read an NPZ of stage 4 and check that it can be learned from.

    Raises FileNotFoundError, or ValueError for a missing array, inputs or targets that are not finite, a
    constant target, and one text under two groups.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset {path} does not exist; {GENERATE} with --output {path}, or give --dataset"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an NPZ file; {GENERATE} again")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in DATASET_KEYS if key not in file]
            if missing:
                raise ValueError(f"{path} has no array {', '.join(missing)}; {GENERATE} again")
            arrays = {key: file[key] for key in DATASET_KEYS}
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); {GENERATE} again") from None
    metadata = json.loads(str(arrays["metadata"]))
    X, y, groups, index = (arrays[key] for key in ("X", "y", "group", "sentence_index"))
    if not len(X) == len(y) == len(groups) == len(index) == len(arrays["sentences"]) == len(arrays["part"]):
        raise ValueError(f"{path}: arrays differ in their number of rows; {GENERATE} again")
    for name, values in (("X", X), ("y", y)):
        rows_finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not rows_finite.all():
            first = index[np.argmin(rows_finite)]
            raise ValueError(
                f"{path}: {name} is not finite in {(~rows_finite).sum()} rows, the first at "
                f"sentence_index {first}; {GENERATE} again"
            )
    if len(np.unique(y)) < 2:
        raise ValueError(
            f"{path}: every target is {y[0]}, so there is nothing to learn; choose another target"
        )
    check_texts_stay_in_one_group(path, arrays["sentences"], groups, index)
    return Dataset(
        path=path,
        sha256=sha256_of(path),
        metadata=metadata,
        X=X,
        y=y,
        sentence_index=index,
        groups=groups,
        sentences=arrays["sentences"],
        part=arrays["part"],
        layers=arrays["layers"],
        d_model=int(arrays["d_model"]),
    )


def check_texts_stay_in_one_group(
    path: Path, sentences: np.ndarray, groups: np.ndarray, index: np.ndarray
) -> None:
    """Raise ValueError if two rows with the same words belong to different groups: a split could separate
    them.
    """
    first_row: dict[str, int] = {}
    for row, sentence in enumerate(sentences):
        words = " ".join(re.findall(r"\w+", str(sentence).casefold()))
        earlier = first_row.setdefault(words, row)
        if groups[earlier] != groups[row]:
            raise ValueError(
                f"{path}: sentences {index[earlier]} and {index[row]} have the same words but different "
                "groups, so one could be trained on and the other tested; give both one group in the CSV"
            )


def strata_of(y: np.ndarray, task: str) -> np.ndarray:
    """Integer codes [n] that splits balance: the classes, or quartiles of a continuous target."""
    if task == "classification":
        return np.unique(y, return_inverse=True)[1]
    return np.digitize(y, np.unique(np.quantile(y, [0.25, 0.5, 0.75])), right=True)


def split_rows(dataset: Dataset, config: dict) -> Split:
    """Choose the test rows once: whole groups, classes balanced.

    Inputs that stage 2 chose on its discovery sentences are tested on its confirmation sentences only,
    whatever `test_share` says. Raises ValueError where a class has too few groups or a group is on both
    sides.
    """
    strata = strata_of(dataset.y, dataset.task)
    selected = dataset.metadata.get("inputs_selected_on") == "discovery"
    if selected and (dataset.part == "confirmation").any():
        test = np.flatnonzero(dataset.part == "confirmation")
        method = "confirmation sentences of stage 2, which took no part in choosing the inputs"
    else:
        share = Fraction(config["test_share"]).limit_denominator(20)
        n_groups = len(np.unique(dataset.groups))
        if n_groups < share.denominator:
            raise ValueError(
                f"{dataset.path} has {n_groups} groups; a test share of {config['test_share']} needs at "
                f"least {share.denominator}: label more sentences or change test_share"
            )
        blocks = grouped_folds(strata, dataset.groups, share.denominator, config["seed"])
        test = np.sort(np.concatenate([block for _, block in blocks[: max(1, share.numerator)]]))
        method = f"{share} of the groups, stratified"
    train = np.setdiff1d(np.arange(len(dataset.y)), test)
    straddling = np.intersect1d(dataset.groups[train], dataset.groups[test])
    if len(straddling):
        raise ValueError(
            f"{dataset.path}: group {straddling[0]} is in both parts of the split; {GENERATE} again"
        )
    if dataset.task == "classification":
        check_class_sizes(dataset, train, test, config["folds"])
    elif len(np.unique(dataset.groups[train])) < config["folds"]:
        raise ValueError(f"{dataset.path}: the training part has fewer groups than folds ({config['folds']})")
    return Split(train, test, method)


def check_class_sizes(dataset: Dataset, train: np.ndarray, test: np.ndarray, folds: int) -> None:
    """Raise ValueError unless every class has a group per fold in training and a row in the test part."""
    for label in np.unique(dataset.y):
        own = dataset.y == label
        n_groups = len(np.unique(dataset.groups[train][own[train]]))
        if n_groups < folds or not own[test].any():
            raise ValueError(
                f"{dataset.path}: class {label} has {own.sum()} rows, with {n_groups} groups in the "
                f"training part and {own[test].sum()} rows in the test part; {folds}-fold cross-validation "
                f"needs {folds} groups and a test row: label more sentences of this class, or lower folds"
            )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose behaviour the results depend on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in LIBRARIES
    }


def json_ready(value: object) -> object:
    """Plain Python values for JSON; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(inner) for inner in value]
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(path: Path, content: object) -> None:
    """Write indented JSON, NaN as null."""
    text = json.dumps(json_ready(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def replaced_together(folder: Path, last: str) -> Iterator[Path]:
    """Yield an empty folder; on success its files replace those of `folder`, `last` at the end.

    A failure inside leaves `folder` as it was. `last` is removed first, so it exists only beside its own
    files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".fresh.{os.getpid()}.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        (folder / last).unlink(missing_ok=True)
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def save_model(fitted: object, path: Path) -> None:
    """Write a fitted model without pickle."""
    import skops.io  # imports every scikit-learn module, seconds that only a written or read model is worth

    skops.io.dump(fitted, path)


def load_model(path: Path, sha256: str) -> object:
    """Load a model file written by `save_model`.

    Raises ValueError if the bytes are not those recorded, or if the file names a type that is neither
    scikit-learn's nor one of this stage's.
    """
    import skops.io

    if sha256_of(path) != sha256:
        raise ValueError(f"{path} is not the file that was recorded with these results; train again")
    trusted = {f"{kind.__module__}.{kind.__qualname__}" for kind in OWN_TYPES} | set(SKLEARN_INTERNALS)
    foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - trusted)
    if foreign:
        raise ValueError(f"{path} holds types that are not trusted: {', '.join(foreign)}; do not open it")
    return skops.io.load(path, trusted=sorted(trusted))
