"""SAEs in every format that sae-lens loads, encoded by sae-lens itself.

sae-lens, which takes many seconds to import, is imported where an SAE is read.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from autoencoders.csr_rows import CsrRows, dense_rows
from autoencoders.sae_lens_registry import hub_repository, layer_of_hook, registered
from hub.encoder_cache import sae_repository
from hub.failures import named_failures, network_forbidden
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from twins_s1.provenance import sha256_of

if TYPE_CHECKING:
    from sae_lens import SAE

DISK_FORMAT = ("cfg.json", "sae_weights.safetensors")
ARCHITECTURES = ("standard", "jumprelu", "topk", "gated", "matching_pursuit")
RUN_TIME_NORMALISATION = ("none", "layer_norm", "constant_norm_rescale")  # what `encode` does by itself
FEATURES_AT_ONCE = 1024  # decoded together
ONE_AT_A_TIME = threading.Lock()  # reading changes settings of the process


@dataclass(frozen=True)
class SaeLensEncoder:
    """An SAE of sae-lens, and what the residual stream needs before it."""

    sae: SAE  # W_dec is on the meta device if encoding does not use it
    centre: bool  # subtract from each token's residual stream its mean over d_model

    @property
    def d_sae(self) -> int:
        return self.sae.cfg.d_sae

    def sha256(self) -> str:
        """Return the digest of all that encoding depends on, by which duplicates among SAEs are found."""
        cfg = self.sae.cfg
        unused = {"metadata", "device", "dtype"}
        settings = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name not in unused}
        settings |= {"architecture": cfg.architecture(), "centre": self.centre}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, array in sorted(self.sae.state_dict().items()):
            if not array.is_meta and (name != "b_dec" or cfg.apply_b_dec_to_input):
                digest.update(array.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device, dtype: torch.dtype) -> SaeLensEncoder:
        """Return a copy on another device; `SAE.to` would move this one."""
        cfg = replace(self.sae.cfg, device="meta", dtype=str(dtype).removeprefix("torch."))
        sae = type(self.sae)(cfg)
        arrays = {
            name: array if array.is_meta else array.to(device=device, dtype=dtype)
            for name, array in self.sae.state_dict().items()
        }
        sae.load_state_dict(arrays, assign=True)
        sae.device, cfg.device = device, str(device)
        return SaeLensEncoder(sae.requires_grad_(False), self.centre)

    def rows(self, x: torch.Tensor, memory: list[torch.Tensor]) -> CsrRows:
        return dense_rows(*self.activations(x))

    def activations(
        self, x: torch.Tensor, memory: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `(values, fires)`, both `[chunk, d_sae]`, fires bool, of residual streams `[chunk, d_in]`.

        A feature that TopK picks at an activation of zero does not fire. memory: unused, `encode` takes none.
        """
        if self.centre:
            x = x - x.mean(dim=-1, keepdim=True)
        values = self.sae.encode(x)
        return values, values != 0


def require_sae_lens(paths: Sequence[str], release: str, *, local_files_only: bool) -> None:
    """Raise at once what `read_sae_lens_encoder` would raise hours later: unknown, no access, not cached.

    Raises:
        FileNotFoundError: an SAE cannot be had; the message says which and why.
        ValueError: an SAE is not in the registry, or of an architecture that cannot be used.
    """
    if Path(release).is_dir():
        for path in paths:
            require_local_sae(Path(release, path))
        return
    repo_id = hub_repository(release)
    files = [registered(path, release)[2] for path in paths]
    sae_repository(repo_id, None, local_files_only).require(files)
    for file in files:
        folder, _, name = file.rpartition("/")
        if name == DISK_FORMAT[1]:  # whose configuration is small; other formats have no other architectures
            config = f"{folder}/{DISK_FORMAT[0]}"
            with named_failures(
                repo_id, config, None, option="--sae-release", local_files_only=local_files_only
            ):
                cached = hf_hub_download(repo_id, config, local_files_only=local_files_only)
            require_architecture(Path(cached), f"{repo_id}/{config}")


def sae_lens_weights_id(path: str, release: str, *, local_files_only: bool) -> str:
    """Return a digest of an SAE's files: of their bytes in a folder, the hub's own of its weights there."""
    folder = Path(release)
    if folder.is_dir():
        return "-".join(sha256_of(folder / path / name) for name in DISK_FORMAT)
    repository = sae_repository(hub_repository(release), None, local_files_only)
    return repository.content_hash(registered(path, release)[2])


def require_local_sae(folder: Path) -> None:
    for name in DISK_FORMAT:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such SAE file; check --sae-release and --config")
    require_architecture(folder / "cfg.json", str(folder / "cfg.json"))


def require_architecture(config: Path, name: str) -> None:
    """Raise ValueError if the SAE of a `cfg.json`, called `name`, is of no kind that this stage takes."""
    try:
        architecture = json.loads(config.read_text(encoding="utf-8")).get("architecture")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name}: not a configuration of sae-lens ({error})") from error
    if architecture == "abstopk":
        raise ValueError(
            f"{name}: architecture 'abstopk' gives its features a sign, and all later stages take an "
            "activation for how strongly a feature fires, from zero up: such SAEs are not supported"
        )
    if architecture not in (*ARCHITECTURES, None):  # files of sae-lens before version 4 name none
        raise ValueError(
            f"{name}: architecture {architecture!r} is not supported, only "
            f"{', '.join(ARCHITECTURES)}; sae-lens' save_inference_model writes those of SAEs in training"
        )


def read_sae_lens_encoder(
    path: str, release: str, layer: int, d_model: int, d_sae: int | None, *, local_files_only: bool
) -> SaeLensEncoder:
    """Read the SAE at `path` of a release, with every fold that sae-lens makes, in float32 on the CPU.

    TransformerLens can load a LayerNorm model (GPT-2) with centred writing weights, which takes from each
    token's residual stream its mean over d_model and changes nothing else; an SAE trained on that says so in
    its `model_from_pretrained_kwargs`. All their other keys (fold_ln, center_unembed, fold_value_biases,
    refactor_factored_attn_matrices, dtype, n_devices) leave the residual stream as it is, and where there
    are none the SAE saw the unprocessed model: sae-lens loads by `from_pretrained_no_processing`.

    d_sae: `None` if the configurations do not say.

    Raises:
        FileNotFoundError: it cannot be had; the message says why.
        ValueError: unknown, damaged, or not an SAE for the residual stream after this layer of this model.
    """
    sae = load_sae(path, release, layer, d_model, d_sae, local_files_only=local_files_only)
    processing = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    cfg = sae.cfg
    if cfg.architecture() != "matching_pursuit" and not getattr(cfg, "rescale_acts_by_decoder_norm", False):
        sae.W_dec = torch.nn.Parameter(sae.W_dec.to("meta"))  # half of the memory
    return SaeLensEncoder(sae.requires_grad_(False), bool(processing.get("center_writing_weights")))


@torch.no_grad()
def read_sae_lens_decoder(
    path: str, release: str, layer: int, d_model: int | None, d_sae: int | None, *, local_files_only: bool
) -> torch.Tensor:
    """Return what the SAE's own decoder writes per unit of each feature, [d_sae, d_model] float32.

    d_model: `None` where no model is at hand, and the file decides.

    Raises:
        FileNotFoundError, ValueError: as `read_sae_lens_encoder`, and where the SAE rescales each token at
            run time, so that its features write in no fixed direction.
    """
    sae = load_sae(path, release, layer, d_model, d_sae, local_files_only=local_files_only)
    if sae.cfg.normalize_activations != "none":
        raise ValueError(
            f"{release}/{path}: rescales each token at run time ({sae.cfg.normalize_activations}), so that "
            "its features write in no fixed direction: leave it out with --layers, or leave out --gradients"
        )
    nothing = sae.decode(torch.zeros(1, sae.cfg.d_sae))  # [1, d_model]: the bias
    written = torch.empty(sae.cfg.d_sae, sae.cfg.d_in)
    for start in range(0, sae.cfg.d_sae, FEATURES_AT_ONCE):
        features = torch.arange(start, min(start + FEATURES_AT_ONCE, sae.cfg.d_sae))
        one_each = torch.nn.functional.one_hot(features, sae.cfg.d_sae).float()
        written[features] = sae.decode(one_each) - nothing
    return written


def load_sae(
    path: str, release: str, layer: int, d_model: int | None, d_sae: int | None, *, local_files_only: bool
) -> SAE:
    """Load the SAE at `path` of a release on the CPU in float32, and check that it fits; errors as above."""
    folder = Path(release)
    if folder.is_dir():
        source, weights = str(folder / path), str(folder / path / DISK_FORMAT[1])
        require_local_sae(folder / path)
    else:
        repo_id = hub_repository(release)
        source = f"{repo_id}/{path}"
        name, sae_id, weights = registered(path, release)

    from sae_lens import SAE

    # What the warning asks for is done here.
    warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
    try:
        if folder.is_dir():
            sae = SAE.load_from_disk(folder / path, device="cpu", dtype="float32")
        else:
            with (
                named_failures(
                    repo_id, weights, None, option="--sae-release", local_files_only=local_files_only
                ),
                sae_lens_through_the_cache(local_files_only),
            ):
                sae = SAE.from_pretrained(name, sae_id, device="cpu", dtype="float32")
    except (
        SafetensorError,
        RuntimeError,  # arrays that are missing or do not fit the configuration
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        what = " ".join(str(error).split())
        file = weights if folder.is_dir() else try_to_load_from_cache(repo_id, weights)
        raise ValueError(
            f"{source}: damaged, or not an SAE that sae-lens reads ({type(error).__name__}: {what}); "
            f"if damaged, delete {file} and fetch it again"
        ) from error
    require_fit(sae, source, layer, d_model, d_sae)
    return sae


def require_fit(sae: SAE, source: str, layer: int, d_model: int | None, d_sae: int | None) -> None:
    cfg = sae.cfg
    if cfg.architecture() not in ARCHITECTURES or cfg.reshape_activations != "none":
        raise ValueError(
            f"{source}: a {cfg.architecture()} of {cfg.metadata.hook_name} does not encode the residual "
            "stream token by token"
        )
    if d_model not in (None, cfg.d_in):
        raise ValueError(
            f"{source}: d_in is {cfg.d_in}, the model needs {d_model}: this SAE belongs to another model"
        )
    if d_sae not in (None, cfg.d_sae):
        raise ValueError(f"{source}: d_sae is {cfg.d_sae}, the configuration says {d_sae}")
    hook = cfg.metadata.hook_name
    if hook is None or layer_of_hook(hook) != layer:
        raise ValueError(
            f"{source}: made for {hook or 'an unknown place (no hook_name)'}, the configuration needs the "
            f"residual stream after block {layer} (blocks.{layer}.hook_resid_post)"
        )
    if cfg.normalize_activations not in RUN_TIME_NORMALISATION:
        raise ValueError(
            f"{source}: trained on inputs scaled by {cfg.normalize_activations}, which is not folded into "
            "its weights, and the scale is not known; fold it with sae-lens and save it again"
        )


@contextmanager
def sae_lens_through_the_cache(local_files_only: bool) -> Iterator[None]:
    """Make sae-lens keep to the local cache where that is asked for, which it has no parameter for.

    For Gemma Scope 2, sae-lens asks for the shapes
    by requests of its own, which know neither cache nor offline mode nor the hub's errors: they are read from
    the file, which is loaded next anyway.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    with ONE_AT_A_TIME, network_forbidden(local_files_only):
        before = loaders.get_safetensors_tensor_shapes
        loaders.get_safetensors_tensor_shapes = tensor_shapes
        try:
            yield
        finally:
            loaders.get_safetensors_tensor_shapes = before


def tensor_shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
    """Return the shape of each array of a safetensors file on the hub, which is then in the cache."""
    with safe_open(hf_hub_download(repo_id, filename), framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
