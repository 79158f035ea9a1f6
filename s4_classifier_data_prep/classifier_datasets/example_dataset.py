"""A dataset that was made before, whose inputs another one is to have for other sentences."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from twins_s4.chosen_elsewhere import require_same_origin
from twins_s4.feature_folder import FeatureFolder
from twins_s4.provenance import sha256_of

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ExampleDataset:
    """What an NPZ of this stage says of itself."""

    path: Path
    metadata: dict

    @property
    def features(self) -> list[dict] | None:
        """The inputs in order, where they are SAE features: layer, average_l0, feature_id, encoder_sha256."""
        return self.metadata["features"]

    @property
    def target(self) -> dict | None:
        """The feature that is predicted, as the target of every such dataset; None where it is the label."""
        target = self.metadata["target"]
        return target if isinstance(target, dict) else None

    @property
    def saes(self) -> list[dict]:
        """The SAEs behind inputs and target: layer, average_l0, encoder_sha256."""
        of_target = self.metadata.get("target_encoder_sha256")
        return [
            *(self.features or []),
            *([self.target | {"encoder_sha256": of_target}] if self.target else []),
        ]

    @property
    def record(self) -> dict:
        return {"path": str(self.path), "sha256": sha256_of(self.path)}


def read_example(path: Path, features: FeatureFolder) -> ExampleDataset:
    """Read what a dataset says of itself, and check that `features` can give the same inputs.

    Raises FileNotFoundError, or ValueError for a file that is no dataset, one of another model or other SAEs,
    and one of the very sentences of `features`, whose labels may have chosen its inputs.
    """
    example = ExampleDataset(path, read_metadata(path))
    source = example.metadata["source"]
    if source["input_sha256"] == features.run["input_sha256"]:
        raise ValueError(
            f"--like {path} was made from the sentences of {features.folder} themselves, and --like is for "
            "others: make it again with --strategy"
        )
    require_same_origin(features, source, example.saes, path)
    return example


def read_metadata(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"--like {path}: no such file; expected an NPZ that this stage wrote")
    try:
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, TypeError) as error:
        raise ValueError(
            f"--like {path} is no dataset of this stage ({error}); expected an NPZ that it wrote"
        ) from None
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"--like {path} has format_version {version!r}, expected {FORMAT_VERSION}; make it again"
        )
    return metadata
