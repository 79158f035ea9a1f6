"""Load sparse autoencoders one after the other and encode all tokens of a layer, as rows of a CSR matrix."""

import hashlib
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from hub_files import sae_repository

READ_AHEAD_BYTES = 1 << 30  # of encoders that wait in main memory
READERS = 4


class Encoder(Protocol):
    """What the extraction needs of an SAE."""

    @property
    def d_sae(self) -> int: ...

    def sha256(self) -> str:
        """Return the digest of all arrays that encoding uses, by which duplicates among SAEs are found."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Encoder": ...

    def activations(self, x: torch.Tensor, memory: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[chunk, d_sae]` values, and bool of the same shape: where a feature fires.

        x: `[chunk, d_in]` of this device and dtype. Values where no feature fires mean nothing. memory: empty
        at first; what a call leaves in it, the next one may compute in.
        """


@dataclass(frozen=True)
class SaeEntry:
    """One SAE of a configurations file."""

    layer: int
    average_l0: int
    path: str  # folder of params.npz, or of sae-lens' files, below the release
    d_sae: int | None  # None: what the file has
    neuronpedia_id: str | None


@dataclass(frozen=True)
class Configurations:
    """A configurations file: which SAEs there are and where they lie."""

    release: str
    model: str
    repo_id: str | None
    uses_sae_lens: bool  # read and encoded by sae-lens, not from params.npz
    saes: tuple[SaeEntry, ...]


@dataclass(frozen=True)
class JumpReluEncoder:
    """The three arrays that encoding needs."""

    w_enc: torch.Tensor  # [d_in, d_sae]
    b_enc: torch.Tensor  # [d_sae]
    threshold: torch.Tensor  # [d_sae]

    @property
    def d_sae(self) -> int:
        return len(self.threshold)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for array in (self.w_enc, self.b_enc, self.threshold):
            digest.update(array.contiguous().numpy().view(np.uint8).data)
        return digest.hexdigest()

    def to(self, device: torch.device, dtype: torch.dtype) -> "JumpReluEncoder":
        return JumpReluEncoder(
            *(a.to(device=device, dtype=dtype) for a in (self.w_enc, self.b_enc, self.threshold))
        )

    def activations(self, x: torch.Tensor, memory: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """JumpReLU (Gemma Scope, arXiv 2408.05147, equation 2): z = x @ W_enc + b_enc where z > threshold.

        Nothing is below zero, whatever the threshold: z is rectified as well.
        """
        shape = (len(x), self.d_sae)
        if not memory or len(memory[0]) < len(x) or memory[0].shape[1] != self.d_sae:
            # Memory fresh from the system costs more than the comparison that is written into it.
            memory[:] = [x.new_empty(shape), x.new_empty(shape, dtype=torch.bool)]
        z, fires = (array[: len(x)] for array in memory)  # [chunk, d_sae]
        torch.addmm(self.b_enc, x, self.w_enc, out=z)
        torch.gt(z, self.threshold.clamp(min=0), out=fires)
        return z, fires


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
        saes = tuple(
            SaeEntry(
                int(e["layer"]),
                int(e["average_l0"]),
                str(e["path"]),
                None if e["d_sae"] is None else int(e["d_sae"]),
                e.get("neuronpedia_id"),
            )
            for e in content["saes"]
        )
        configurations = Configurations(
            str(content["release"]),
            str(content["model"]),
            content.get("repo_id"),
            content.get("format", "params.npz") == "sae-lens",
            saes,
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a configurations file ({type(error).__name__}: {error})") from error
    names = [(sae.layer, sae.average_l0) for sae in saes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"{path}: layer {twice[0]} has two SAEs of L0 {twice[1]}, so their files would have one name"
        )
    return configurations


def locate_params(
    entry: SaeEntry, release: str, *, local_files_only: bool, revision: str | None = None
) -> Path:
    """Return an NPZ with the encoder of an SAE, below a local folder or of a hub repository.

    From the hub only the encoder's arrays are fetched, unless the whole file is in its cache.

    Raises:
        FileNotFoundError: it cannot be had; the message says why.
    """
    folder = Path(release)
    if folder.is_dir():
        file = folder / entry.path / "params.npz"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such SAE file; check --sae-release and --config")
        return file
    return sae_repository(release, revision, local_files_only).encoder_file(f"{entry.path}/params.npz")


def require_params(
    entries: Sequence[SaeEntry], release: str, *, local_files_only: bool, revision: str | None = None
) -> None:
    """Raise at once what `locate_params` would raise hours later: a missing file, no access, not cached.

    Raises:
        FileNotFoundError: an SAE cannot be had; the message says which and why.
    """
    if Path(release).is_dir():
        for entry in entries:
            locate_params(entry, release, local_files_only=local_files_only)
    else:
        files = [f"{entry.path}/params.npz" for entry in entries]
        sae_repository(release, revision, local_files_only).require(files)


def read_encoder(file: Path, entry: SaeEntry, d_model: int) -> JumpReluEncoder:
    """Read `W_enc`, `b_enc` and `threshold` of a `params.npz`; the decoder, half of the file, stays unread.

    Raises:
        ValueError: the file is damaged, lacks an array, or does not fit the model; the message says which.
    """
    try:
        with np.load(file, allow_pickle=False) as params:
            arrays = [torch.from_numpy(params[name]) for name in ("W_enc", "b_enc", "threshold")]
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{file}: damaged or truncated ({error}); fetch it again") from error
    except KeyError as error:
        raise ValueError(
            f"{file}: {error.args[0]}; expected W_enc, b_enc and threshold, Gemma Scope's layout"
        ) from error
    encoder = JumpReluEncoder(*arrays)
    d_sae = entry.d_sae or encoder.w_enc.shape[-1]
    expected = (d_model, d_sae)
    if tuple(encoder.w_enc.shape) != expected:
        raise ValueError(
            f"{file}: W_enc is {tuple(encoder.w_enc.shape)}, model and configuration need {expected}: "
            "this SAE belongs to another model"
        )
    for name, array in (("b_enc", encoder.b_enc), ("threshold", encoder.threshold)):
        if tuple(array.shape) != (d_sae,):
            raise ValueError(f"{file}: {name} is {tuple(array.shape)}, expected {(d_sae,)}")
    return encoder


def through_sae_lens(entry: SaeEntry, release: str, uses_sae_lens: bool) -> bool:
    """Return whether sae-lens reads and encodes this SAE; in a local folder its files decide."""
    if Path(release).is_dir():
        folder = Path(release) / entry.path
        return not (folder / "params.npz").is_file() and (folder / "cfg.json").is_file()
    return uses_sae_lens


def require_saes(
    entries: Sequence[SaeEntry],
    release: str,
    *,
    uses_sae_lens: bool,
    local_files_only: bool,
    revision: str | None = None,
) -> None:
    """Raise at once what `read_sae` would raise hours later: a missing file, no access, not cached.

    Raises:
        FileNotFoundError: an SAE cannot be had; the message says which and why.
        ValueError: a revision was named for SAEs that sae-lens fetches.
    """
    by_sae_lens = [entry.path for entry in entries if through_sae_lens(entry, release, uses_sae_lens)]
    if by_sae_lens:
        if revision:
            raise ValueError("--sae-revision: sae-lens fetches these SAEs, always at the newest revision")
        from sae_lens_formats import require_sae_lens

        require_sae_lens(by_sae_lens, release, local_files_only=local_files_only)
    direct = [entry for entry in entries if entry.path not in set(by_sae_lens)]
    require_params(direct, release, local_files_only=local_files_only, revision=revision)


def read_sae(
    entry: SaeEntry,
    release: str,
    d_model: int,
    *,
    uses_sae_lens: bool,
    local_files_only: bool,
    revision: str | None = None,
) -> Encoder:
    """Return an SAE on the CPU, from Gemma Scope's `params.npz` or through sae-lens.

    Raises:
        FileNotFoundError: it cannot be had.
        ValueError: it is damaged or does not fit the model.
    """
    if through_sae_lens(entry, release, uses_sae_lens):
        from sae_lens_formats import read_sae_lens_encoder

        return read_sae_lens_encoder(
            entry.path, release, entry.layer, d_model, entry.d_sae, local_files_only=local_files_only
        )
    file = locate_params(entry, release, local_files_only=local_files_only, revision=revision)
    return read_encoder(file, entry, d_model)


def prefetch(
    entries: Sequence[SaeEntry], read: Callable[[SaeEntry], Encoder], d_model: int, readers: int
) -> Iterator[tuple[SaeEntry, Encoder, str]]:
    """Yield `(entry, encoder, digest)` in order; up to `readers` threads read and hash the next ones.

    Encoders that wait hold `READ_AHEAD_BYTES` together, or are one.
    """

    def read_and_hash(entry: SaeEntry) -> tuple[SaeEntry, Encoder, str]:
        encoder = read(entry)
        return entry, encoder, encoder.sha256()

    remaining = iter(entries)
    with ThreadPoolExecutor(readers) as pool:
        ahead = deque(pool.submit(read_and_hash, entry) for entry in islice(remaining, 1))
        try:
            while ahead:
                item = ahead.popleft().result()
                room = min(readers, READ_AHEAD_BYTES // (4 * d_model * item[1].d_sae))
                for entry in islice(remaining, max(1, room) - len(ahead)):
                    ahead.append(pool.submit(read_and_hash, entry))
                yield item
        finally:
            for future in ahead:
                future.cancel()


def compact(z: torch.Tensor, fires: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of a chunk as CSR: row_lengths [chunk] int64, columns [k] int32, values [k] float32.

    z, fires: `[chunk, d_sae]`. Compaction happens on their device.
    """
    d_sae = z.shape[1]
    if z.device.type == "cpu":
        flat = torch.from_numpy(np.flatnonzero(fires.numpy()))  # [k] int64, far faster here than nonzero()
    else:
        flat = fires.flatten().nonzero().flatten()  # [k] int64
    ends = torch.searchsorted(flat, d_sae * torch.arange(1, len(z) + 1, device=z.device))  # [chunk]
    columns, values = (flat % d_sae).int(), z.flatten()[flat].float()  # [k]
    return np.diff(ends.cpu().numpy(), prepend=0), columns.cpu().numpy(), values.cpu().numpy()


@torch.inference_mode()
def encode(
    tokens: Callable[[int, int], torch.Tensor],
    n_tokens: int,
    encoder: Encoder,
    chunk_tokens: int,
    memory: list[torch.Tensor],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield an SAE's activations on `n_tokens` tokens as rows of a CSR matrix, chunk by chunk.

    tokens: returns `[stop - start, d_model]` of the residual stream on the encoder's device. Device memory
    holds the encoder and one dense chunk; a chunk that does not fit is halved, as are all after it. memory:
    empty at first; the next SAE computes in what is left in it.
    """
    start = 0
    while start < n_tokens:
        try:
            rows = compact(*encoder.activations(tokens(start, min(start + chunk_tokens, n_tokens)), memory))
        except torch.OutOfMemoryError:
            if chunk_tokens == 1:
                raise
            memory.clear()
            torch.cuda.empty_cache()
            chunk_tokens //= 2
            continue
        start += len(rows[0])
        yield rows
