"""What the checks before a run share: the plan, what they found of it so far, and how they word it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from autoencoders.configurations import SaeEntry
from autoencoders.encoding import Encoder, encode
from extraction.extraction_plan import Plan
from language_model.residual_stream import EMBEDDINGS, residual_stream_batches
from language_model.tokens import TokenizedSentences, tokenize

SENTENCES = (
    "No.",
    "The shop was closed.",
    "My grandmother kept bees.",
    "She divided the money evenly, although nobody would have noticed.",
    "Rain is expected after noon, with clearer skies later in the week.",
    "The train was late again, so we sat on the platform and shared the last of the oranges.",
    "He told the committee that the figures were final, and spent the evening changing them.",
    "When the museum opened its new wing, the guards let the children of the street in first.",
)
# Largest difference between two ways to compute a token's residual stream, relative to its norm, and largest
# share of an SAE's active features that may change with it. Rounding stays below, faulty masks go far above.
LIMITS = {
    "float32": (1e-5, 1e-3),
    "TF32": (2e-2, 2e-2),  # as many mantissa bits as float16
    "float16": (2e-2, 2e-2),
    "bfloat16": (1e-1, 5e-2),
}
REINSTALL = "install the versions this project pins: `uv sync`, or `pip install -r requirements.txt`"


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    NOT_CHECKED = "not checked"


@dataclass
class Examination:
    """The planned run, and what the checks have found of it so far."""

    plan: Plan
    skeleton: torch.nn.Module | None = None  # the model without weights
    model: torch.nn.Module | None = None
    encoder: Encoder | None = None  # of the first planned SAE
    model_bytes_to_fetch: int = 0
    saes_to_fetch: list[SaeEntry] = field(default_factory=list)
    decoders_to_fetch: list[SaeEntry] = field(default_factory=list)

    @property
    def is_gemma(self) -> bool:
        return self.plan.text_config.model_type.startswith("gemma")

    @property
    def limits(self) -> tuple[float, float]:
        compute = self.plan.compute
        tf32 = compute.dtype_name == "float32" and compute.allow_tf32 and compute.device.type == "cuda"
        return LIMITS["TF32" if tf32 else compute.dtype_name]

    @cached_property
    def tokenized(self) -> TokenizedSentences:
        return tokenize(SENTENCES, self.plan.tokenizer, self.plan.text_config.max_position_embeddings)

    @cached_property
    def together(self) -> dict[int | str, np.ndarray]:
        """The residual stream of all built-in sentences in one padded batch."""
        return self.residual_stream([np.arange(len(SENTENCES))])

    @cached_property
    def one_by_one(self) -> dict[int | str, np.ndarray]:
        return self.residual_stream([np.array([index]) for index in range(len(SENTENCES))])

    def residual_stream(self, batches: list[np.ndarray]) -> dict[int | str, np.ndarray]:
        """Return what enters block 0 and planned layers' residual stream, each `[T, d_model]` float32."""
        layers = self.plan.layers
        shape = (len(self.tokenized.token_ids), self.plan.d_model)
        arrays = {key: np.empty(shape, np.float32) for key in (EMBEDDINGS, *layers)}
        for rows, states in residual_stream_batches(self.model, self.tokenized, layers, batches):
            for key, values in states.items():
                arrays[key][rows] = values
        return arrays

    def activations(self, resid_post: np.ndarray) -> scipy.sparse.csr_matrix:
        """Return `[T, d_sae]` float32 of the first SAE. resid_post: `[T, d_model]`."""
        compute = self.plan.compute
        x = torch.from_numpy(resid_post).to(compute.device, compute.dtype)
        encoder = self.encoder.to(compute.device, compute.dtype)
        rows = encode(lambda start, stop: x[start:stop], len(x), encoder, len(x), [])
        lengths, columns, values = (np.concatenate(part) for part in zip(*rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])  # [T + 1]
        return scipy.sparse.csr_matrix((values, columns, offsets), shape=(len(x), encoder.d_sae))

    def fires(self, resid_post: np.ndarray) -> np.ndarray:
        """Return `[T, d_sae]` bool: which features of the first SAE fire. resid_post: `[T, d_model]`."""
        return self.activations(resid_post).toarray() != 0


def size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{math.ceil(n_bytes / 1e6)} MB"


def ranges(numbers: Sequence[int]) -> str:
    """Return `[0, 1, 2, 5]` as `0-2,5`."""
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
