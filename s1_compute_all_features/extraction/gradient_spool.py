"""Rows of the gradient pass on disk, so that a pass that is stopped goes on at the batch where it was."""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from extraction.extraction_plan import Plan
from language_model.likelihood_gradients import BatchGradients
from output_folder.arrays import create_rows, part_of, read_rows, row_chunks, write_npz, write_rows
from output_folder.layout import SCRATCH, TOKEN_LOG_PROBS, gradients_file
from twins_s1.atomic_files import write_json

LOG_PROBS, FINISHED = "token_log_probs", "finished"  # what is spooled beside the layers' gradients
LAYERS = "layers.json"


@dataclass(frozen=True)
class GradientSpool:
    """Where a pass collects its rows until all are there: what a run that is stopped has done, it keeps.

    A sentence counts as finished once its row of `FINISHED` says so, which is written after all the others;
    `LAYERS` is written once all row files are there.
    """

    folder: Path
    layers: list[int]
    n_tokens: int
    n_sentences: int
    d_model: int

    @classmethod
    def of(cls, plan: Plan, layers: list[int]) -> "GradientSpool":
        """That of a pass over `layers`, or of one that was stopped and had all of them."""
        folder = plan.output / SCRATCH / "gradients"
        begun = begun_layers(folder)
        chosen = begun if set(layers) <= set(begun) else layers
        return cls(folder, chosen, plan.n_tokens, len(plan.sentences), plan.d_model)

    @cached_property
    def shapes(self) -> dict[int | str, tuple[int, int]]:
        of_layers = dict.fromkeys(self.layers, (self.n_tokens, self.d_model))
        return of_layers | {LOG_PROBS: (self.n_tokens, 1), FINISHED: (self.n_sentences, 1)}

    def rows(self, key: int | str) -> Path:
        return self.folder / f"{key}.npy"

    def create(self) -> None:
        """Make the row files, unless a pass over these layers was stopped and left them."""
        if begun_layers(self.folder) != self.layers:
            shutil.rmtree(self.folder, ignore_errors=True)
            for key, shape in self.shapes.items():
                create_rows(self.rows(key), shape)
            write_json(self.folder / LAYERS, self.layers)

    @property
    def finished(self) -> np.ndarray:
        """Which sentences have all their rows, bool [n]."""
        return read_rows(part_of(self.rows(FINISHED)), None, None)[:, 0] > 0

    def write(self, batch: BatchGradients) -> None:
        for layer, values in batch.by_layer.items():
            write_rows(self.rows(layer), batch.rows, values.numpy())
        write_rows(self.rows(LOG_PROBS), batch.rows, batch.log_probs.numpy()[:, None])
        write_rows(self.rows(FINISHED), batch.sentences, np.ones((len(batch.sentences), 1), np.float32))

    def write_files(self, output: Path) -> None:
        """Turn the rows into the NPZ files that stay."""
        for layer in self.layers:
            self._write_file(output / gradients_file(layer), "gradients", layer, self.shapes[layer])
        self._write_file(output / TOKEN_LOG_PROBS, LOG_PROBS, LOG_PROBS, (self.n_tokens,))

    def _write_file(self, target: Path, name: str, key: int | str, shape: tuple[int, ...]) -> None:
        pieces = (chunk.data for chunk in row_chunks(part_of(self.rows(key))))
        write_npz(target, {name: (shape, np.dtype(np.float32), pieces)})


def begun_layers(folder: Path) -> list[int]:
    """The layers whose row files are all in `folder`; none where there are no such files."""
    marker = folder / LAYERS
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else []
