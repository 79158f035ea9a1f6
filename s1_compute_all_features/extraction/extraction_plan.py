"""What a run is to do: the plan of the extraction, and of the checks before it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from autoencoders.configurations import Configurations, SaeEntry
from autoencoders.sae_source import SaeSource
from autoencoders.screened_jump_relu import is_faster_on
from input_sentences.input_file import InputSentences
from language_model.model_source import ModelSource
from language_model.tokens import TokenizedSentences, tokenize
from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ComputeOptions:
    """Where to compute, and how precisely."""

    device_name: str
    dtype_name: str
    allow_tf32: bool
    batch_tokens: int
    chosen_chunk_tokens: int | None
    chosen_encoder: str | None = None
    local_rank: int = 0
    encoder_of_folder: str | None = None  # with which the output folder was made

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype_name)

    @cached_property
    def device(self) -> torch.device:
        """The device; ValueError if PyTorch finds no such one here."""
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        name = self.device_name
        if name == "auto":
            name = "cuda" if cuda else "mps" if mps else "cpu"
        if (name == "cuda" and not cuda) or (name == "mps" and not mps):
            raise ValueError(f"--device {name}: PyTorch finds no such device here; use --device cpu or auto")
        return torch.device(name, self.local_rank % torch.cuda.device_count() if name == "cuda" else None)

    @property
    def chunk_tokens(self) -> int:
        """Tokens that are encoded together."""
        return self.chosen_chunk_tokens or (2048 if self.device.type == "cpu" else 8192)

    @cached_property
    def encoder(self) -> str:
        """`screened` (JumpReLU SAEs only) or `dense`: as chosen, as the folder has it, or as is faster here.

        Raises:
            ValueError: the screened encoder is chosen, and cannot be had.
        """
        can_screen = self.dtype == torch.float32 and not self.allow_tf32 and self.device.type != "mps"
        if self.chosen_encoder == "screened" and not can_screen:
            raise ValueError(
                "--encoder screened computes in float32 without TF32, on cpu or cuda: "
                "leave out --dtype, --allow-tf32 and --device mps, or use --encoder dense"
            )
        if self.chosen_encoder or not can_screen:
            return self.chosen_encoder or "dense"
        return self.encoder_of_folder or ("screened" if is_faster_on(self.device) else "dense")

    def prepare(self) -> None:
        """Allow or forbid TF32 in this process; ValueError if device or encoder cannot be had."""
        matmul = torch.backends.cuda.matmul
        matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.allow_tf32
        if self.encoder == "screened":
            matmul.allow_bf16_reduced_precision_reduction = False  # else its bound does not hold


@dataclass(frozen=True)
class Plan:
    """What the arguments say, with the local files they name; the model is asked when it is first needed."""

    arguments: dict  # for run.json
    sentences: InputSentences | None  # of --input
    output: Path | None
    model: ModelSource
    configurations: Configurations
    saes: SaeSource
    chosen_layers: list[int] | None
    compute: ComputeOptions
    with_effects: bool = False  # gradients of the likelihood, and the effects of all features

    @cached_property
    def _config_and_tokenizer(self) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
        return self.model.read_config()

    @property
    def config(self) -> PretrainedConfig:
        """Of the model; FileNotFoundError if it cannot be had."""
        return self._config_and_tokenizer[0]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._config_and_tokenizer[1]

    @property
    def text_config(self) -> PretrainedConfig:
        return self.config.get_text_config()

    @property
    def n_layers(self) -> int:
        return self.text_config.num_hidden_layers

    @property
    def d_model(self) -> int:
        return self.text_config.hidden_size

    @property
    def layers(self) -> list[int]:
        return self.chosen_layers or list(range(self.n_layers))

    @cached_property
    def entries(self) -> list[SaeEntry]:
        """The planned SAEs, layer by layer; `require_layers` says whether the model has these layers."""
        return self.configurations.on_layers(self.chosen_layers)

    def require_layers(self) -> None:
        """Raise ValueError if a chosen layer or a configured SAE lies beyond the model's last block."""
        if self.chosen_layers and self.chosen_layers[-1] >= self.n_layers:
            raise ValueError(
                f"--layers: the model has layers 0 to {self.n_layers - 1}, not {self.chosen_layers[-1]}"
            )
        self.configurations.require_layers_below(self.n_layers)

    @cached_property
    def tokenized(self) -> TokenizedSentences:
        return tokenize(self.sentences.texts, self.tokenizer, self.text_config.max_position_embeddings)

    @property
    def n_tokens(self) -> int:
        return int(self.tokenized.sentence_offsets[-1])
