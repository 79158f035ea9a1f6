"""The configuration of an experiment: what may stand in it, and changes from a command line."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import get_args, get_type_hints

from models.model_choice import Recipe, models_for, parameter_names

TASKS = ("classification", "regression")
LOWEST = {"folds": 2, "bootstrap": 100, "shuffles": 1, "seed": 0, "select_k": 1, "first_inputs": 1}
TEST_SHARES = (0.05, 0.95)


@dataclass(frozen=True)
class ExperimentConfig:
    """The content of a config.json; keys and defaults are those of the file."""

    dataset: str  # relative to the folder that holds the experiments
    task: str
    model: str
    parameters: dict = field(default_factory=dict)
    grid: dict = field(default_factory=dict)
    select_k: int | None = None
    first_inputs: int | None = None
    seed: int = 0
    folds: int = 5
    test_share: float = 0.2
    bootstrap: int = 1000
    shuffles: int = 5

    @property
    def recipe(self) -> Recipe:
        """What decides a fit, apart from the rows."""
        return Recipe(self.model, self.task, self.parameters, self.grid, self.select_k, self.folds, self.seed)

    def as_json(self) -> dict:
        """Key by key, as config.json has it."""
        return asdict(self)


KEYS = get_type_hints(ExperimentConfig)  # key -> accepted type
REQUIRED = ("dataset", "task", "model")


def changed_config(
    content: dict, *, model: str | None = None, dataset: str | None = None, settings: Sequence[str] = ()
) -> dict:
    """Return the content of a config.json with the changes of a command line.

    A new model starts with its default parameters. `settings` are `key=value`; `parameters.C=0.1` reaches
    inside, values are read as JSON, and as plain text where they are not.
    """
    content = json.loads(json.dumps(content))
    if model is not None:
        content |= {"model": model, "parameters": {}, "grid": {}}
    if dataset is not None:
        content["dataset"] = dataset
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
            content[key] = value
        elif outer in ("parameters", "grid") and isinstance(content.setdefault(outer, {}), dict):
            content[outer][inner] = value
        else:
            raise ValueError(f"--set {setting!r}: only parameters.NAME and grid.NAME reach inside a key")
    return content


def parse_config(content: dict, source: str) -> ExperimentConfig:
    """Check every key and value; ValueError begins with `source`, names the key and what is valid."""
    for key in content:
        if key not in KEYS:
            raise _unknown("key", key, list(KEYS), source)
    for key in REQUIRED:
        if key not in content:
            raise ValueError(f"{source}: key {key!r} is missing; required: {', '.join(REQUIRED)}")
    config = ExperimentConfig(**{key: _typed(key, value, source) for key, value in content.items()})
    _check_model(config, source)
    _check_numbers(config, source)
    return config


def _typed(key: str, value: object, source: str) -> object:
    """The value if its type is that of the key; a whole number is a number too."""
    accepted = get_args(KEYS[key]) or (KEYS[key],)
    if accepted == (float,) and type(value) is int:
        return float(value)
    if not isinstance(value, accepted) or isinstance(value, bool):
        names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in accepted)
        raise ValueError(f"{source}: {key} is {value!r}, expected {names}")
    return value


def _check_model(config: ExperimentConfig, source: str) -> None:
    if config.task not in TASKS:
        raise _unknown("task", config.task, list(TASKS), source)
    if config.model not in models_for(config.task):
        raise _unknown(f"{config.task} model", config.model, models_for(config.task), source)
    valid = parameter_names(config.model, config.task)
    for section in ("parameters", "grid"):
        for name in getattr(config, section):
            if name not in valid:
                raise _unknown(f"{config.model} parameter", name, valid, f"{source}: {section}")
    for name, values in config.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{source}: grid.{name} is {values!r}, expected a list of values to try")


def _check_numbers(config: ExperimentConfig, source: str) -> None:
    least, most = TEST_SHARES
    if not least <= config.test_share <= most:
        raise ValueError(
            f"{source}: test_share is {config.test_share}, expected between {least} and {most}, "
            "for example 0.2"
        )
    for key, lowest in LOWEST.items():
        value = getattr(config, key)
        if value is not None and value < lowest:
            raise ValueError(f"{source}: {key} is {value}, expected at least {lowest}")


def _unknown(kind: str, name: str, valid: list[str], source: str) -> ValueError:
    near = difflib.get_close_matches(name, valid, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ValueError(f"{source}: unknown {kind} {name!r}{hint}; valid: {', '.join(valid)}")
