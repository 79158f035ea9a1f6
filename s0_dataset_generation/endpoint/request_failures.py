"""What to do about a request that failed: a function of the error alone."""

import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import openai

MAX_RETRY_AFTER_SECONDS = 120.0  # a server that asks for more is better called again later
STOP_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
PASSING_STATUS = {408, 409, 429}  # and whatever is 500 or more


class NoCompletionError(ValueError):
    """The server answered with something that is no chat completion."""


class Remedy(Enum):
    RETRY = "it may pass"
    REFUSED = "this request will never do; others may"
    STOP = "no request of this run will do"


@dataclass(frozen=True)
class Failure:
    """`problem` reads the same for the same cause; `detail`: the server's words, not yet fit to be shown."""

    remedy: Remedy
    problem: str
    detail: str = ""
    wait: float | None = None  # seconds that the server asks for


def failure_of(error: Exception, url: str, model: str) -> Failure:
    """The failure behind what a request raised; any other exception is raised again.

    url, model: as they may be shown to the user.
    """
    match error:
        case openai.APIStatusError():
            return _status_failure(error, url, model)
        case openai.APITimeoutError() | TimeoutError():
            return Failure(Remedy.RETRY, "no answer within the time-out")
        case openai.APIConnectionError():
            return Failure(Remedy.RETRY, f"connection failed ({type(error.__cause__).__name__})")
        case openai.APIResponseValidationError() | json.JSONDecodeError():
            return Failure(Remedy.RETRY, "an answer that is no JSON")
        case NoCompletionError():
            return Failure(Remedy.RETRY, "an answer that is no chat completion")
    raise error


def _status_failure(error: openai.APIStatusError, url: str, model: str) -> Failure:
    status = error.status_code
    body = error.body if isinstance(error.body, dict) else {}
    detail = str(body.get("message") or error.message)
    if status in (401, 403):
        return Failure(Remedy.STOP, f"{url} refuses the key (HTTP {status})", detail)
    if status == 404:
        return Failure(
            Remedy.STOP, f"{url} does not know the model {model!r} or the address (HTTP 404)", detail
        )
    if status == 402 or {error.code, error.type} & STOP_CODES:
        return Failure(Remedy.STOP, f"{url}: the quota is spent (HTTP {status})", detail)
    if status not in PASSING_STATUS and status < 500:
        return Failure(Remedy.REFUSED, f"HTTP {status}", detail)
    wait = retry_after_seconds(error.response.headers)
    if wait is not None and wait > MAX_RETRY_AFTER_SECONDS:
        later = f"HTTP {status}: the server asks to wait {wait:.0f} s; start the same command again later"
        return Failure(Remedy.STOP, later)
    return Failure(Remedy.RETRY, f"HTTP {status}", wait=wait)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait a server asks for, in seconds or as an HTTP date; None where it does not say."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
