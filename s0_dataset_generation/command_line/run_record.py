"""Provenance of an output: what a `<name>.run.json` says of the run that wrote it."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from endpoint.settings import public_url
from endpoint.usage import Usage
from prompts.rubric import Trait
from twins_s0.atomic_files import write_json
from twins_s0.provenance import library_versions, plain_arguments, sha256_of

LIBRARIES = ("openai", "numpy", "scipy", "scikit-learn", "matplotlib")


@dataclass(frozen=True)
class RunRecord:
    """Begun when the inputs are read, written beside the output."""

    head: dict
    definition: str
    started: float

    @classmethod
    def begin(cls, arguments: argparse.Namespace, trait: Trait, inputs: Sequence[Path]) -> "RunRecord":
        """Arguments, versions and hashes of the inputs, by name where no two have the same. No key."""
        names = [path.name for path in inputs]
        values = plain_arguments(arguments)
        head = {
            "format_version": 1,
            "arguments": values
            | ({"base_url": public_url(values["base_url"])} if values.get("base_url") else {}),
            "seed": arguments.seed,
            "libraries": library_versions(*LIBRARIES),
            "input_sha256": {
                path.name if names.count(path.name) == 1 else str(path): sha256_of(path) for path in inputs
            },
        }
        return cls(head, trait.definition, time.monotonic())

    def write(
        self, output: Path, results: dict | None = None, usage: Usage | None = None, url: str | None = None
    ) -> None:
        """Write `<output>.run.json`; `usage` and `url` of the endpoint where one was asked."""
        record = dict(self.head)
        if usage is not None:
            record["arguments"] = record["arguments"] | {"base_url": url}
            record["usage"] = usage.record()
        record |= {"seconds": round(time.monotonic() - self.started, 1), "definition": self.definition}
        write_json(output.with_suffix(".run.json"), record | (results or {}))
