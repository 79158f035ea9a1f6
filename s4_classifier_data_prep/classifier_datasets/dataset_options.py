"""Which learning problem a dataset poses, and what its inputs and target are."""

import argparse
from dataclasses import dataclass, fields

from .example_dataset import ExampleDataset


@dataclass(frozen=True)
class DatasetOptions:
    """The options of `generate_datasets.py` on which the rows depend; None is the strategy's own default."""

    strategy: str
    binary: tuple[int, int] | None
    pool: str | None
    layer: int | None
    layers: list[int] | None
    input_layer: int | None
    k: int | None
    target_layer: int | None
    target_l0: int | None
    target_feature: int | None
    target_pool: str | None
    like: ExampleDataset | None  # whose features, of inputs and target, are taken

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "DatasetOptions":
        return cls(**{field.name: getattr(args, field.name, None) for field in fields(cls)})

    @classmethod
    def from_example(cls, example: ExampleDataset) -> "DatasetOptions":
        """The options that give the inputs of `example`, in their order, for other sentences."""
        metadata = example.metadata
        binary = metadata["arguments"].get("binary")
        chosen = {
            "strategy": metadata["strategy"],
            "binary": tuple(binary) if binary else None,
            "pool": metadata["pool"],
            "layers": metadata["layers"],
            "input_layer": metadata["layers"][0] if example.target and metadata["layers"] else None,
            "target_pool": metadata["target_pool"],
            "like": example,
        }
        return cls(**{field.name: chosen.get(field.name) for field in fields(cls)})
