"""Which learning problem a dataset poses, and what its inputs and target are."""

import argparse
from dataclasses import dataclass, fields


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

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "DatasetOptions":
        return cls(**{field.name: getattr(args, field.name, None) for field in fields(cls)})
