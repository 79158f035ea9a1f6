"""Configurations files: which SAEs there are, and where they lie."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoders.params_file import NAMES

SAE_LENS = "sae-lens"


@dataclass(frozen=True)
class SaeEntry:
    """One SAE of a configurations file."""

    layer: int
    average_l0: int
    path: str  # folder of the SAE's file, or of sae-lens' files, below the release
    d_sae: int | None  # None: what the file has
    neuronpedia_id: str | None


@dataclass(frozen=True)
class Configurations:
    """A configurations file."""

    file: Path
    release: str
    model: str
    repo_id: str | None
    format: str  # name of an SAE's file, or `sae-lens`: read and encoded by it
    saes: tuple[SaeEntry, ...]

    @property
    def uses_sae_lens(self) -> bool:
        return self.format == SAE_LENS

    def on_layers(self, layers: Sequence[int] | None) -> list[SaeEntry]:
        """Return the SAEs on these layers, or on all, layer by layer."""
        chosen = [entry for entry in self.saes if layers is None or entry.layer in layers]
        return sorted(chosen, key=lambda entry: (entry.layer, entry.average_l0))

    def require_layers_below(self, n_layers: int) -> None:
        """Raise ValueError if an SAE lies beyond the last of a model's `n_layers` blocks."""
        beyond = next((entry for entry in self.saes if entry.layer >= n_layers), None)
        if beyond is not None:
            raise ValueError(
                f"{self.file}: {beyond.path} is on layer {beyond.layer}, "
                f"the model has layers 0 to {n_layers - 1}"
            )


def read_configurations(path: Path) -> Configurations:
    """Read a configurations JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not JSON, an entry lacks a key, or two entries have the same layer and average L0.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configurations file; build_configurations.py writes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        configurations = Configurations(
            file=path,
            release=str(content["release"]),
            model=str(content["model"]),
            repo_id=content.get("repo_id"),
            format=read_format(content),
            saes=tuple(map(read_entry, content["saes"])),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a configurations file ({type(error).__name__}: {error})") from error
    places = [(sae.layer, sae.average_l0) for sae in configurations.saes]
    if len(set(places)) < len(places):
        layer, l0 = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"{path}: layer {layer} has two SAEs of L0 {l0}, so their files would have one name")
    return configurations


def read_format(content: dict) -> str:
    name = content.get("format", NAMES[0])
    if name not in (*NAMES, SAE_LENS):
        raise ValueError(f"format {name!r}; there are {', '.join((*NAMES, SAE_LENS))}")
    return name


def read_entry(content: dict) -> SaeEntry:
    d_sae = content["d_sae"]
    return SaeEntry(
        layer=int(content["layer"]),
        average_l0=int(content["average_l0"]),
        path=str(content["path"]),
        d_sae=None if d_sae is None else int(d_sae),
        neuronpedia_id=content.get("neuronpedia_id"),
    )
