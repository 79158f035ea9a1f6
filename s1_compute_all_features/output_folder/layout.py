"""What lies where in a `<trait>_features` folder, and who may write into it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twins_s1.atomic_files import write_json
from twins_s1.folder_lock import only_writer

FORMAT_VERSION = 1
SCRATCH = "scratch"  # what a run that is not finished knows of its finished SAEs
RESIDUAL_STREAM = "residual_stream"  # in float32, from which SAEs are encoded, now and when the folder grows
INPUTS = "inputs.json"  # what the folder's content depends on, written before anything else
LOCK = ".lock"
TOKEN_LOG_PROBS = "gradients/token_log_probs.npz"
FILES = ("run.json", "sentences.csv", "tokens.npz", "embeddings.npz", INPUTS)
FOLDERS = (SCRATCH, RESIDUAL_STREAM, "hidden_states", "sae_activations", "gradients", "sae_effects")


def hidden_states_file(layer: int) -> str:
    return f"hidden_states/layer_{layer}.npz"


def residual_stream_file(key: int | str) -> str:
    return f"{RESIDUAL_STREAM}/{key if isinstance(key, str) else f'layer_{key}'}.npy"


def sae_activations_file(layer: int, average_l0: int) -> str:
    return f"sae_activations/layer_{layer}_l0_{average_l0}.npz"


def gradients_file(layer: int) -> str:
    return f"gradients/layer_{layer}.npz"


def sae_effects_file(layer: int, average_l0: int) -> str:
    return f"sae_effects/layer_{layer}_l0_{average_l0}.npz"


def sae_summary_file(layer: int, average_l0: int) -> str:
    return f"{SCRATCH}/layer_{layer}_l0_{average_l0}.json"


def read_record(folder: Path) -> dict:
    """Return run.json, or what it says before there is one."""
    file = folder / "run.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"saes": [], "runs": []}


def encoder_of(folder: Path) -> str | None:
    """Return the kind of encoder that the folder was made with; None where there is no folder yet."""
    marker = folder / INPUTS
    return json.loads(marker.read_text(encoding="utf-8")).get("encoder", "dense") if marker.exists() else None


@contextmanager
def opened_for_writing(folder: Path, inputs: dict, overwrite: bool) -> Iterator[None]:
    """Hold `folder` for a run with these inputs: new, emptied, or one that has them already.

    Raises:
        ValueError: another process writes it, it was made with other inputs, or it holds something else;
            the message names what differs.
    """
    require_ours_or_empty(folder)
    with only_writer(folder / LOCK, str(folder)):
        marker = folder / INPUTS
        if overwrite:
            delete_content(folder)
        if marker.exists():
            require_same_inputs(folder, json.loads(marker.read_text(encoding="utf-8")), inputs)
            for unfinished in folder.rglob(".*.part"):  # of a run that was killed
                unfinished.unlink()
        else:
            write_json(marker, inputs)
        yield


def require_ours_or_empty(folder: Path) -> None:
    """Raise ValueError if the folder holds something, and nothing says that this stage made it."""
    if folder.exists() and not (folder / INPUTS).exists() and {p.name for p in folder.iterdir()} - {LOCK}:
        raise ValueError(f"{folder} is not empty and not a feature folder: choose another --output")


def delete_content(folder: Path) -> None:
    """Delete what runs wrote, run.json first: without it nothing counts as finished."""
    (folder / "run.json").unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def require_same_inputs(folder: Path, before: dict, inputs: dict) -> None:
    before = {"encoder": "dense"} | before  # of a time when there was no other
    for name, value in inputs.items():
        if before.get(name, value) != value:  # folders of an earlier version say less
            raise ValueError(
                f"{folder} was made with {name} {before[name]!r}, this run has {value!r}: "
                "choose another --output, or --overwrite to start anew"
            )
