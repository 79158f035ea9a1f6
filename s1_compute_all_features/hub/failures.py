"""The hub's failures, each named with its remedy in one line, and the waits before another attempt."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token, is_offline_mode, logging
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
from huggingface_hub.utils import parse_ratelimit_headers
from tqdm import tqdm

RETRIES = 5  # in a row without a byte of progress
LONGEST_WAIT = 300  # seconds; the hub's rate limits last five minutes
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


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
