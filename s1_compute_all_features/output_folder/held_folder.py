"""An output folder that one run at a time writes, and only runs with the inputs that it was begun with."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from twins_s1.atomic_files import json_ready, write_json
from twins_s1.folder_lock import only_writer

INPUTS = "inputs.json"  # what the folder's content depends on, written before anything else
LOCK = ".lock"


@dataclass(frozen=True)
class FolderKind:
    """What a command's output folder is called, and what it may hold."""

    name: str
    files: tuple[str, ...]  # the record first: without it nothing counts as finished
    folders: tuple[str, ...]
    earlier: dict = field(default_factory=dict)  # inputs that folders of an earlier version do not name

    @contextmanager
    def opened_for_writing(self, folder: Path, inputs: dict, overwrite: bool) -> Iterator[None]:
        """Hold `folder` for a run with these inputs: new, emptied, or one that has them already.

        Raises:
            ValueError: another process writes it, it was made with other inputs, or it holds something else;
                the message names what differs.
        """
        self.require_ours_or_empty(folder)
        inputs = json_ready(inputs)
        with only_writer(folder / LOCK, str(folder)):
            marker = folder / INPUTS
            if overwrite:
                self.delete_content(folder)
            if marker.exists():
                before = self.earlier | json.loads(marker.read_text(encoding="utf-8"))
                require_same_inputs(folder, before, inputs)
                for unfinished in folder.rglob(".*.part"):  # of a run that was killed
                    unfinished.unlink()
            else:
                write_json(marker, inputs)
            yield

    def require_ours_or_empty(self, folder: Path) -> None:
        """Raise ValueError if the folder holds something, and nothing says that this stage made it."""
        if folder.exists() and not (folder / INPUTS).exists() and {p.name for p in folder.iterdir()} - {LOCK}:
            raise ValueError(f"{folder} is not empty and not a {self.name}: choose another --output")

    def delete_content(self, folder: Path) -> None:
        """Delete what runs wrote, the record first, what it was made with last."""
        (folder / self.files[0]).unlink(missing_ok=True)
        for name in self.folders:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (*self.files, INPUTS):
            (folder / name).unlink(missing_ok=True)


def require_same_inputs(folder: Path, before: dict, inputs: dict) -> None:
    for name, value in inputs.items():
        if before.get(name, value) != value:  # folders of an earlier version say less
            raise ValueError(
                f"{folder} was made with {name} {before[name]!r}, this run has {value!r}: "
                "choose another --output, or --overwrite to start anew"
            )
