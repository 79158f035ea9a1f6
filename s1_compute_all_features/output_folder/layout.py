"""What lies where in a `<trait>_features` folder."""

import json
from pathlib import Path

from output_folder.held_folder import INPUTS, FolderKind

FORMAT_VERSION = 1
SCRATCH = "scratch"  # what a run that is not finished knows of its finished SAEs
RESIDUAL_STREAM = "residual_stream"  # in float32, from which SAEs are encoded, now and when the folder grows
TOKEN_LOG_PROBS = "gradients/token_log_probs.npz"
FEATURE_FOLDER = FolderKind(
    "feature folder",
    files=("run.json", "sentences.csv", "tokens.npz", "embeddings.npz"),
    folders=(SCRATCH, RESIDUAL_STREAM, "hidden_states", "sae_activations", "gradients", "sae_effects"),
    earlier={"encoder": "dense"},  # of a time when there was no other
)


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
