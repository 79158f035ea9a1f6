"""Which language model, and from where: its configuration, tokenizer and weights."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from hub.failures import named_failures
from hub.model_files import is_local_folder, require_hub_file, require_weights, weights_are_cached
from language_model.fingerprint import weights_fingerprint
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar


@dataclass(frozen=True)
class ModelSource:
    """A causal language model on the hub or in a folder."""

    place: str  # hub id or folder
    name: str  # what run.json calls it
    revision: str | None = None
    local_files_only: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it lies in a folder; FileNotFoundError if it is written as a path that leads nowhere."""
        return is_local_folder(self.place)

    @property
    def is_cached(self) -> bool:
        """Whether all files of the hub's weights are in the Hugging Face cache."""
        return weights_are_cached(self.place, self.revision)

    @cached_property
    def fingerprint(self) -> str | None:
        """A digest of a folder's weights; None for a repository, whose commit says more."""
        return weights_fingerprint(Path(self.place)) if self.is_folder else None

    def read_config(self) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
        """Return `(config, tokenizer)`, without the weights.

        Raises:
            FileNotFoundError: they cannot be had; the message says whether the model is gated, unknown,
                offline or without such a revision, and what to do.
        """
        if not self.is_folder:
            require_hub_file(self.place, "config.json", self.revision, self.local_files_only)
        with self._named_failures():
            return (
                AutoConfig.from_pretrained(self.place, **self._which),
                AutoTokenizer.from_pretrained(self.place, **self._which),
            )

    def require_weights(self) -> None:
        """Raise FileNotFoundError if the hub's weights are not cached and fetching them is forbidden."""
        require_weights(self.place, self.revision, self.local_files_only)

    def load_weights(
        self, config: PretrainedConfig, *, dtype: torch.dtype, device: torch.device
    ) -> nn.Module:
        """Return the causal language model in evaluation mode on `device`.

        Attention is left at the architecture's own default except for Gemma 2, whose soft-capped logits
        only the eager kernel computes.

        Raises:
            FileNotFoundError: the weights cannot be had.
        """
        disable_progress_bar()  # its bar of weights would stand between ours
        attention = {"attn_implementation": "eager"} if config.model_type == "gemma2" else {}
        if not self.is_folder:
            self.require_weights()
        with self._named_failures():
            network = AutoModelForCausalLM.from_pretrained(
                self.place, dtype=dtype, **attention, **self._which
            )
        return network.eval().to(device)

    @property
    def _which(self) -> dict[str, str | bool | None]:
        return {"revision": self.revision, "local_files_only": self.local_files_only}

    def _named_failures(self):
        return named_failures(
            self.place, None, self.revision, option="--model", local_files_only=self.local_files_only
        )


def load_model(folder: str, *, dtype: torch.dtype, device: torch.device):
    """Return `(model, tokenizer)` of a hub id or local folder."""
    source = ModelSource(folder, folder)
    config, tokenizer = source.read_config()
    return source.load_weights(config, dtype=dtype, device=device), tokenizer
