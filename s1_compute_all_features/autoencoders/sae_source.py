"""Where a run's SAEs lie, and how each is had: from a folder or the hub, directly or through sae-lens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from autoencoders.configurations import SAE_LENS, Configurations, SaeEntry
from autoencoders.encoding import Encoder
from autoencoders.jump_relu import read_decoder, read_encoder
from autoencoders.params_file import NAMES, params_digest
from autoencoders.sae_lens_encoder import (
    read_sae_lens_decoder,
    read_sae_lens_encoder,
    require_sae_lens,
    sae_lens_weights_id,
)
from autoencoders.sae_lens_registry import hub_repository
from hub.encoder_cache import sae_repository


@dataclass(frozen=True)
class SaeSource:
    """A folder or hub repository, or for SAEs that sae-lens reads, its release."""

    place: str
    name: str  # what run.json calls it: a folder's path there would tie the result to this machine
    format: str  # as in the configurations
    revision: str | None
    local_files_only: bool

    @classmethod
    def of(
        cls,
        configurations: Configurations,
        release: str | None,
        revision: str | None = None,
        local_files_only: bool = False,
        default_place: str | None = None,
    ) -> "SaeSource":
        """Return the source that `--sae-release` names, or where that is None, the configurations.

        default_place: where the SAEs lie if neither names a place on the hub.

        Raises:
            ValueError: neither says.
        """
        uses_sae_lens = configurations.uses_sae_lens
        named = configurations.release if uses_sae_lens else configurations.repo_id
        place = release or named or default_place
        if place is None:
            raise ValueError(
                f"{configurations.file} names no repo_id: say where its SAEs lie with --sae-release"
            )
        if not (uses_sae_lens or "/" in place or Path(place).is_dir()):
            place = hub_repository(place)
        return cls(
            place, release or configurations.release, configurations.format, revision, local_files_only
        )

    @property
    def uses_sae_lens(self) -> bool:
        return self.format == SAE_LENS

    @property
    def is_folder(self) -> bool:
        return Path(self.place).is_dir()

    def require(self, entries: Sequence[SaeEntry], half: str = "encoders") -> None:
        """Raise at once what `read` would raise hours later: a missing file, no access, not cached.

        half: "decoders" asks for what `read_decoder` reads.

        Raises:
            FileNotFoundError: an SAE cannot be had; the message says which and why.
            ValueError: a revision was named for SAEs that sae-lens fetches.
        """
        by_sae_lens = [entry.path for entry in entries if self._through_sae_lens(entry)]
        if by_sae_lens:
            if self.revision:
                raise ValueError("--sae-revision: sae-lens fetches these SAEs, always at the newest revision")
            require_sae_lens(by_sae_lens, self.place, local_files_only=self.local_files_only)
        direct = [entry for entry in entries if entry.path not in set(by_sae_lens)]
        if self.is_folder:
            for entry in direct:
                self._params_file(entry)
        else:
            self._repository.require([self._on_hub(entry) for entry in direct], half)

    def is_cached(self, entry: SaeEntry, half: str = "encoders") -> bool:
        """Return whether `read`, or of "decoders" `read_decoder`, would need no network."""
        try:
            replace(self, local_files_only=True).require([entry], half)
        except FileNotFoundError:
            return False
        return True

    def read(self, entry: SaeEntry, d_model: int) -> Encoder:
        """Return an SAE on the CPU; from the hub only the encoder's arrays are fetched, where they can be.

        Raises:
            FileNotFoundError: it cannot be had.
            ValueError: it is damaged or does not fit the model.
        """
        if self._through_sae_lens(entry):
            return read_sae_lens_encoder(
                entry.path,
                self.place,
                entry.layer,
                d_model,
                entry.d_sae,
                local_files_only=self.local_files_only,
            )
        return read_encoder(self._params_file(entry), entry, d_model)

    def read_decoder(self, entry: SaeEntry, d_model: int | None) -> torch.Tensor:
        """Return the directions [d_sae, d_model] float32 in which an SAE's features write, on the CPU.

        d_model: `None` where no model is at hand, and the file decides.

        Raises:
            FileNotFoundError: it cannot be had.
            ValueError: it is damaged, does not fit the model, or writes in no fixed direction.
        """
        if self._through_sae_lens(entry):
            return read_sae_lens_decoder(
                entry.path,
                self.place,
                entry.layer,
                d_model,
                entry.d_sae,
                local_files_only=self.local_files_only,
            )
        return read_decoder(self._params_file(entry, "decoders"), entry, d_model)

    def weights_id(self, entry: SaeEntry) -> str:
        """Return what changes with an SAE's weights and costs little to find: a digest of its files.

        Different ones may hold the same encoder, for example in a folder and on the hub.

        Raises:
            FileNotFoundError: it cannot be had.
        """
        if self._through_sae_lens(entry):
            return sae_lens_weights_id(entry.path, self.place, local_files_only=self.local_files_only)
        if self.is_folder:
            return params_digest(self._params_file(entry))
        return self._repository.content_hash(self._on_hub(entry))

    def _through_sae_lens(self, entry: SaeEntry) -> bool:
        """Whether sae-lens reads and encodes this SAE; in a folder its files decide."""
        if self.is_folder:
            folder = Path(self.place, entry.path)
            has_params = any((folder / name).is_file() for name in NAMES)
            return not has_params and (folder / "cfg.json").is_file()
        return self.uses_sae_lens

    def _on_hub(self, entry: SaeEntry) -> str:
        return f"{entry.path}/{self.format}"

    def _params_file(self, entry: SaeEntry, half: str = "encoders") -> Path:
        if not self.is_folder:
            repository, name = self._repository, self._on_hub(entry)
            return repository.decoder_file(name) if half == "decoders" else repository.encoder_file(name)
        files = [Path(self.place, entry.path, name) for name in NAMES]
        for file in files:
            if file.is_file():
                return file
        raise FileNotFoundError(f"{files[0]}: no such SAE file; check --sae-release and --config")

    @property
    def _repository(self):
        return sae_repository(self.place, self.revision, self.local_files_only)
