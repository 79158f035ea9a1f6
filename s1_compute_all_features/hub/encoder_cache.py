"""Files of hub repositories: every failure with its remedy, and of an SAE only the arrays that encode."""

import json
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from demo_model import cache_root
from feature_files import named_file
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    is_offline_mode,
    logging,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the base of all failures to get an answer, whichever HTTP library the hub's client uses
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
)
from tqdm import tqdm

ENCODER_MEMBERS = ("W_enc.npy", "b_enc.npy", "threshold.npy")
DIRECTORY_BYTES = 1 << 14  # read from the end of a params.npz: its directory is a few hundred bytes
CHUNK_BYTES = 1 << 20
RETRIES = 5  # in a row without a byte of progress
LONGEST_WAIT = 300  # seconds; the hub's rate limits last five minutes
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


class WholeFileNeededError(Exception):
    """The members of this file cannot be had alone."""


def is_local_folder(model: str) -> bool:
    """Return whether `model` is a folder, or may be a hub id.

    Raises:
        FileNotFoundError: it is written as a path, and there is no such folder.
    """
    if Path(model).is_dir():
        return True
    if model.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{model}: no such folder; --model takes a hub id or a folder with config.json"
        )
    return False


def require_hub_file(repo_id: str, filename: str, revision: str | None, local_files_only: bool) -> str:
    """Fetch one small file of a model's repository, so that trouble with access shows before gigabytes do.

    Raises:
        FileNotFoundError: it cannot be had; the message names cause and remedy.
    """
    with named_failures(repo_id, filename, revision, option="--model", local_files_only=local_files_only):
        return hf_hub_download(repo_id, filename, revision=revision, local_files_only=local_files_only)


def weights_are_cached(repo_id: str, revision: str | None) -> bool:
    """Return whether all files of a model's weights are in the Hugging Face cache."""
    from transformers.utils import (
        SAFE_WEIGHTS_INDEX_NAME,
        SAFE_WEIGHTS_NAME,
        WEIGHTS_INDEX_NAME,
        WEIGHTS_NAME,
    )

    def cached(name: str) -> str | None:
        file = try_to_load_from_cache(repo_id, name, revision=revision)
        return file if isinstance(file, str) else None

    for index in filter(None, map(cached, (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME))):
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        return all(map(cached, set(shards)))
    return any(map(cached, (SAFE_WEIGHTS_NAME, WEIGHTS_NAME)))


def require_weights(repo_id: str, revision: str | None, local_files_only: bool) -> None:
    """Say that a model's weights cannot be fetched; transformers would say that it has none.

    Raises:
        FileNotFoundError: they are not in the cache, and fetching them is forbidden.
    """
    if (local_files_only or is_offline_mode()) and not weights_are_cached(repo_id, revision):
        raise FileNotFoundError(
            f"{repo_id}: its weights are not in the local cache, and --local-files-only or HF_HUB_OFFLINE "
            "forbids fetching them: run once online"
        )


@contextmanager
def network_forbidden(forbidden: bool) -> Iterator[None]:
    """Keep huggingface_hub, and all that goes through it, from every request while `forbidden`.

    `local_files_only` concerns files alone: the library still asks its hub other things.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or forbidden
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def named_failures(
    repo_id: str,
    filename: str | None,
    revision: str | None,
    *,
    option: str,
    local_files_only: bool = False,
) -> Iterator[None]:
    """Turn what huggingface_hub and transformers raise into a FileNotFoundError of one line.

    The line names the repository, the cause and the remedy; `option` is the argument that named the
    repository. Errors that do not come from the hub, a full disk for example, pass through.
    """
    logging.set_verbosity_error()  # what failed is said once, here
    try:
        yield
    except (HTTPError, EntryNotFoundError, OSError, HFValidationError) as error:
        offline = local_files_only or is_offline_mode()
        message = explain(error, repo_id, filename, revision, option, offline)
        if message is None:
            raise
        if option == "--model":
            message += ", or use the embedded default with --demo"
        raise FileNotFoundError(message) from error


def explain(
    error: BaseException, repo_id: str, filename: str | None, revision: str | None, option: str, offline: bool
) -> str | None:
    """Return cause and remedy of a failure that came from the hub, None for any other error."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__
    # transformers wraps the hub's errors, and the hub's client those of the connection; the first kind
    # in this order says most.
    kinds = (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, FileMetadataError, EntryNotFoundError)
    found = next((e for kind in (*kinds, HFValidationError) for e in causes if isinstance(e, kind)), None)
    page = f"{constants.ENDPOINT}/{repo_id}"
    file = f"{repo_id}/{filename}" if filename else repo_id
    status = found.response.status_code if isinstance(found, HfHubHTTPError) else None
    match found:
        case None:
            return None
        case GatedRepoError() if status == 401 or not get_token():
            return f"{repo_id} is gated: log in with `hf auth login`, accept its licence at {page}"
        case GatedRepoError():
            return f"{repo_id} is gated, and your account has no access yet: accept its licence at {page}"
        case RevisionNotFoundError():
            return (
                f"{repo_id} has no revision {revision!r}: "
                f"check {'--revision' if option == '--model' else option}; {page} lists branches and tags"
            )
        case RemoteEntryNotFoundError():
            missing = filename or "that is needed"
            return f"{repo_id} has no file {missing} at {revision or 'main'}: it is not what {option} needs"
        case HfHubHTTPError() if status == 401 and get_token():
            return f"{repo_id}: the hub refuses your token, or it may not read this: `hf auth login` again"
        case RepositoryNotFoundError() | HfHubHTTPError() if status in (401, 404):
            why = (
                "your token may not read it" if get_token() else "it is private: log in with `hf auth login`"
            )
            return f"{repo_id} is not on the hub, or {why}; check {option}"
        case HfHubHTTPError() if status == 403:
            return f"the hub forbids reading {file} (403): see {page}, or use a token with read access"
        case HfHubHTTPError() if status == 429:
            return (
                f"{file}: the hub's rate limit is reached (429): wait {seconds_asked(found) or LONGEST_WAIT} "
                "s and run again; with a login (`hf auth login`) the limit is higher"
            )
        case HfHubHTTPError():
            return f"{file}: the hub answers {status}, {RETRIES} retries did not help: run again later"
        case HTTPError():
            what = str(found) or type(found).__name__
            return (
                f"{file}: the connection to {constants.ENDPOINT} fails ({what}): check network, proxy and "
                "HF_ENDPOINT, and run again"
            )
        case FileMetadataError():
            return (
                f"{file}: {constants.ENDPOINT} does not answer as the hub does: check HF_ENDPOINT and proxy"
            )
        case HFValidationError():
            return f"{repo_id!r} is neither a folder nor a hub id: check {option}"
        case OfflineModeIsEnabled() | LocalEntryNotFoundError() if offline:
            return (
                f"{file} is not in the local cache, and --local-files-only or HF_HUB_OFFLINE forbids "
                "fetching it: run once online"
            )
        case _:
            return f"{file} is not in the local cache and the hub cannot be reached: check the network"


def seconds_asked(error: HTTPError) -> int | None:
    """Return how long the hub asks to wait before the next request, if it does."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    after = headers.get("Retry-After", "")
    return int(after) if after.isdigit() else None


def wait_or_raise(error: HTTPError, failures: int) -> None:
    """Wait before the next attempt, 1, 2, 4, 8 s or as the hub asks; raise `error` if it is of no use."""
    response = getattr(error, "response", None)
    lasting = response is not None and response.status_code not in TRANSIENT_STATUS
    seconds = seconds_asked(error) or min(2 ** (failures - 1), 8)
    if lasting or failures > RETRIES or seconds > LONGEST_WAIT:
        raise error
    if seconds > 10:
        tqdm.write(f"the hub asks to wait {seconds} s (status {response.status_code})")
    time.sleep(seconds)


def stream_range(url: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield bytes `start` to `stop` of a file on the hub; a connection that is cut is resumed where it broke.

    Raises:
        WholeFileNeededError: the server does not answer range requests.
        HTTPError: refused, or no progress in several attempts.
    """
    failures = 0
    while start < stop:
        # The hub redirects large files to signed addresses elsewhere, and the client drops the token there.
        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            ) as response:
                hf_raise_for_status(response)
                # A server that ignores ranges answers 200 with the whole file.
                if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise WholeFileNeededError
                before = start
                for chunk in response.iter_bytes():  # as they come: a cut loses none
                    start += len(chunk)
                    failures = 0
                    yield chunk
            if not before < start <= stop:
                raise WholeFileNeededError  # a server that means something else by ranges
        except HTTPError as error:
            failures += 1
            wait_or_raise(error, failures)


def fetch_encoder(url: str, size: int, target: Path) -> None:
    """Write an NPZ of `W_enc`, `b_enc` and `threshold` of a remote `params.npz` of `size` bytes.

    The NPZ's directory stands at its end, and tells where each member lies. The spans go to their places
    in a sparse file without a name, which zipfile then reads as if it were whole, checksums included.

    Raises:
        WholeFileNeededError: no ranges, a member is compressed or missing, or the bytes are damaged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with tempfile.TemporaryFile(dir=target.parent) as sparse:
        sparse.truncate(size)

        def fill(start: int, stop: int) -> None:
            sparse.seek(start)
            for chunk in stream_range(url, start, stop):
                sparse.write(chunk)

        directory = max(0, size - DIRECTORY_BYTES)
        fill(directory, size)
        try:
            with zipfile.ZipFile(sparse) as source, zipfile.ZipFile(part, "w") as encoder:
                ends = sorted([*(info.header_offset for info in source.infolist()), source.start_dir])
                members = [source.getinfo(name) for name in ENCODER_MEMBERS]
                if any(info.compress_type != zipfile.ZIP_STORED for info in members):
                    raise WholeFileNeededError
                for info in members:
                    end = next(end for end in ends if end > info.header_offset)
                    fill(info.header_offset, min(end, directory))
                    with (
                        source.open(info) as stored,
                        encoder.open(info.filename, "w", force_zip64=True) as copy,
                    ):
                        shutil.copyfileobj(stored, copy, CHUNK_BYTES)
            part.replace(target)
        except (zipfile.BadZipFile, KeyError) as error:
            raise WholeFileNeededError from error
        finally:
            part.unlink(missing_ok=True)


class SaeRepository:
    """The `params.npz` files of a hub repository, all of one commit.

    What is fetched is kept below `folder`: `refs/<revision>` holds a commit, `<commit>/<file>.etag` the
    hub's content hash of a file, `encoders/<hash>.npz` its encoder, so that a new commit which leaves the
    weights alone fetches nothing.
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
        """Return a local NPZ with the encoder of `filename`; from the hub only if no cache has it.

        A whole file in the Hugging Face cache is used as it is.

        Raises:
            FileNotFoundError: it cannot be had; the message names cause and remedy.
            OSError: the cache cannot be written.
        """
        with self._named(filename):
            found = self._look_up(filename)
            return found if isinstance(found, Path) else self._fetch(filename, *found)

    def require(self, filenames: Sequence[str]) -> None:
        """Raise now what fetching these files would raise later: not cached while offline, or no access."""
        for filename in filenames:
            with self._named(filename):
                if not isinstance(self._look_up(filename), Path):
                    return  # the hub has answered for this one: access is given

    def _named(self, filename: str):
        return named_failures(
            self.repo_id,
            filename,
            self.revision,
            option="--sae-release",
            local_files_only=self.local_files_only,
        )

    def _look_up(self, filename: str) -> Path | tuple[str, int | None]:
        """Return the file if a cache has it, else the content hash and size that the hub says it has."""
        offline = self.local_files_only or is_offline_mode()
        if (offline or self.commit) and (cached := self._cached(filename)):
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
                if not gone and (cached := self._cached(filename)):
                    return cached
                failures += 1
                wait_or_raise(error, failures)
        if not metadata.commit_hash or not metadata.etag:
            raise FileMetadataError
        self.commit = metadata.commit_hash
        self._record(self.folder / "refs" / self.revision, self.commit)
        self._record(self.folder / self.commit / f"{filename}.etag", metadata.etag)
        return self._cached(filename) or (metadata.etag, metadata.size)

    def _cached(self, filename: str) -> Path | None:
        recorded = self.folder / "refs" / self.revision
        commits = [self.commit] if self.commit else [self.revision]
        if not self.commit and recorded.is_file():
            commits.insert(0, recorded.read_text(encoding="utf-8"))
        for commit in commits:
            whole = try_to_load_from_cache(self.repo_id, filename, revision=commit)
            if isinstance(whole, str):
                return Path(whole)
            etag = self.folder / commit / f"{filename}.etag"
            if etag.is_file() and (encoder := self._encoder(etag.read_text(encoding="utf-8"))).is_file():
                return encoder
        return None

    def _fetch(self, filename: str, etag: str, size: int | None) -> Path:
        target = self._encoder(etag)
        url = hf_hub_url(self.repo_id, filename, revision=self.commit)
        try:
            if size is None or (self.whole_blobs / etag).exists():  # whole under another commit
                raise WholeFileNeededError
            target.parent.mkdir(parents=True, exist_ok=True)
            with named_file(target), WeakFileLock(target.with_suffix(".lock")):
                if not target.exists():
                    fetch_encoder(url, size, target)
            return target
        except WholeFileNeededError:
            return Path(hf_hub_download(self.repo_id, filename, revision=self.commit))

    def _encoder(self, etag: str) -> Path:
        return self.folder / "encoders" / f"{etag}.npz"

    def _record(self, path: Path, text: str) -> None:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may record this
            part.write_text(text, encoding="utf-8")
            part.replace(path)


@cache
def sae_repository(repo_id: str, revision: str | None, local_files_only: bool) -> SaeRepository:
    """Return the repository object of this process, which asks the hub for the commit once."""
    return SaeRepository(repo_id, revision, local_files_only)
