"""Of SAEs on the hub only the arrays that are needed, kept in a cache folder."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from hub.cache_folder import cache_root
from hub.failures import named_failures, wait_or_raise
from hub.partial_files import WholeFileNeededError, fetch_half
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    FileMetadataError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock
from twins_s1.atomic_files import named_file, write_text

LOOK_UPS = 8


class SaeRepository:
    """The files of SAEs in a hub repository, `.npz` or `.safetensors`, all of one commit.

    What is fetched is kept below `folder`: `refs/<revision>` holds a commit, `<commit>/<file>.etag` the
    hub's content hash of a file, `encoders/<hash>` with the file's suffix its encoder and `decoders/<hash>`
    its decoder, so that a new commit which leaves the weights alone fetches nothing.
    """

    def __init__(self, repo_id: str, revision: str | None, local_files_only: bool):
        self.repo_id = repo_id
        self.revision = revision or constants.DEFAULT_REVISION
        self.local_files_only = local_files_only
        self.commit = self.revision if re.fullmatch("[0-9a-f]{40}", self.revision) else None
        name = repo_folder_name(repo_id=repo_id, repo_type="model")
        self.folder = cache_root() / "encoders" / name
        self.whole_blobs = Path(constants.HF_HUB_CACHE, name, "blobs")

    def encoder_file(self, filename: str) -> Path:
        """Return a local file with the encoder of `filename`; see `_file`."""
        return self._file(filename, "encoders")

    def decoder_file(self, filename: str) -> Path:
        """Return a local file with the decoder of `filename`; see `_file`."""
        return self._file(filename, "decoders")

    def _file(self, filename: str, half: str) -> Path:
        """Return a local file with one half of `filename`; from the hub only if no cache has it.

        A whole file in the Hugging Face cache is used as it is.

        Raises:
            FileNotFoundError: it cannot be had; the message names cause and remedy.
            OSError: the cache cannot be written.
        """
        with self._named(filename):
            found = self._look_up(filename, half)
            return found if isinstance(found, Path) else self._fetch(filename, half, *found)

    def content_hash(self, filename: str, half: str = "encoders") -> str:
        """Return the hub's hash of a file's content; asks the hub only if no cache has it.

        Raises:
            FileNotFoundError: it cannot be had; the message names cause and remedy.
        """
        with self._named(filename):
            found = self._look_up(filename, half)
        # Cached files are named by it, here and in the Hugging Face cache.
        return found.resolve().stem if isinstance(found, Path) else found[0]

    def require(self, filenames: Sequence[str], half: str = "encoders") -> None:
        """Raise now what fetching a half of these files would raise later: one is missing, offline, refused.

        The first one settles the commit, the others are looked up `LOOK_UPS` at a time.
        """
        for filename in filenames[:1]:
            self.content_hash(filename, half)
        with ThreadPoolExecutor(LOOK_UPS) as pool:
            for _ in pool.map(lambda filename: self.content_hash(filename, half), filenames[1:]):
                pass

    def _named(self, filename: str):
        return named_failures(
            self.repo_id,
            filename,
            self.revision,
            option="--sae-release",
            local_files_only=self.local_files_only,
        )

    def _look_up(self, filename: str, half: str) -> Path | tuple[str, int | None]:
        """Return the file if a cache has it, else the content hash and size that the hub says it has."""
        offline = self.local_files_only or is_offline_mode()
        if (offline or self.commit) and (cached := self._cached(filename, half)):
            return cached
        if offline:
            raise LocalEntryNotFoundError(filename)
        url = hf_hub_url(self.repo_id, filename, revision=self.commit or self.revision)
        failures = 0
        while True:
            try:
                metadata = get_hf_file_metadata(url)
                break
            except HTTPError as error:
                gone = isinstance(error, (RevisionNotFoundError, RemoteEntryNotFoundError))
                if not gone and (cached := self._cached(filename, half)):
                    return cached
                failures += 1
                wait_or_raise(error, failures)
        if not metadata.commit_hash or not metadata.etag:
            raise FileMetadataError
        self.commit = metadata.commit_hash
        self._record(self.folder / "refs" / self.revision, self.commit)
        self._record(self.folder / self.commit / f"{filename}.etag", metadata.etag)
        return self._cached(filename, half) or (metadata.etag, metadata.size)

    def _cached(self, filename: str, half: str) -> Path | None:
        recorded = self.folder / "refs" / self.revision
        commits = [self.commit] if self.commit else [self.revision]
        if not self.commit and recorded.is_file():
            commits.insert(0, recorded.read_text(encoding="utf-8"))
        for commit in commits:
            whole = try_to_load_from_cache(self.repo_id, filename, revision=commit)
            if isinstance(whole, str):
                return Path(whole)
            etag = self.folder / commit / f"{filename}.etag"
            if etag.is_file():
                kept = self._kept(filename, half, etag.read_text(encoding="utf-8"))
                if kept.is_file():
                    return kept
        return None

    def _fetch(self, filename: str, half: str, etag: str, size: int | None) -> Path:
        target = self._kept(filename, half, etag)
        url = hf_hub_url(self.repo_id, filename, revision=self.commit)
        try:
            if size is None or (self.whole_blobs / etag).exists():  # whole under another commit
                raise WholeFileNeededError
            target.parent.mkdir(parents=True, exist_ok=True)
            with named_file(target), WeakFileLock(target.with_suffix(".lock")):
                if not target.exists():
                    fetch_half(url, size, half, target)
            return target
        except WholeFileNeededError:
            return Path(hf_hub_download(self.repo_id, filename, revision=self.commit))

    def _kept(self, filename: str, half: str, etag: str) -> Path:
        return self.folder / half / f"{etag}{Path(filename).suffix}"

    def _record(self, path: Path, text: str) -> None:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


@cache
def sae_repository(repo_id: str, revision: str | None, local_files_only: bool) -> SaeRepository:
    """Return the repository object of this process, which asks the hub for the commit once."""
    return SaeRepository(repo_id, revision, local_files_only)
