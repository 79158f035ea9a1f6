"""Neuronpedia's web interface: what it says of a feature, and a list of one's own."""

import email.utils
import http.client
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.error import HTTPError, URLError

from .page_address import FeaturePage

TIMEOUT_SECONDS = 30
RETRIES = 4  # of one request
BACKOFF_SECONDS = 1.0  # before the first retry; doubled each time
LONGEST_WAIT_SECONDS = 120.0  # a server that asks for more is better asked again later
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class NeuronpediaError(RuntimeError):
    """The server cannot be had now, or does not answer as Neuronpedia does."""


class NoSuchPageError(RuntimeError):
    """The server has no page of this feature."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key along to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class NeuronpediaServer:
    """Where to ask, and as whom; the key goes into the header of the one request that needs it only."""

    address: str
    key: str | None = field(default=None, repr=False)

    def feature(self, page: FeaturePage) -> object:
        """The server's JSON about a feature. Raises NoSuchPageError or NeuronpediaError."""
        return self._answer(urllib.request.Request(f"{self.address}/api/feature/{page.key}"))

    def new_list(self, name: str, description: str, pages: Sequence[FeaturePage]) -> str:
        """Make a list in the key's account; the address of it. Raises NeuronpediaError."""
        features = [page.named() | {"index": page.index} for page in pages]
        content = {"name": name, "description": description, "features": features}
        request = urllib.request.Request(
            f"{self.address}/api/list/new-with-features",
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json", "x-api-key": self.key},
        )
        answer = self._answer(request)
        url = answer.get("url") if isinstance(answer, dict) else None
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise NeuronpediaError(f"{self.address} made no list: an answer without its address")
        return url

    def _answer(self, request: urllib.request.Request) -> object:
        opener = urllib.request.build_opener(NoRedirects)
        delay = BACKOFF_SECONDS
        for retries_left in range(RETRIES, -1, -1):
            try:
                with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                    return json.load(response)
            except HTTPError as error:
                with error:
                    wait = self._wait(error, request)
                problem = f"HTTP {error.code}"
            except (URLError, OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                wait, problem = None, f"the connection fails ({str(reason) or type(reason).__name__})"
            except ValueError:
                wait, problem = None, "an answer that is no JSON"
            if retries_left:
                time.sleep(delay if wait is None else wait)
                delay *= 2
        raise NeuronpediaError(f"{self.address}: {problem}, also after {RETRIES} retries")

    def _wait(self, error: HTTPError, request: urllib.request.Request) -> float | None:
        """Seconds that the server asks to wait; raises where waiting is of no use."""
        if error.code == 404 and request.get_method() == "GET":
            raise NoSuchPageError
        if error.code in (401, 403) and request.get_method() == "POST":
            raise NeuronpediaError(f"{self.address} refuses NEURONPEDIA_API_KEY (HTTP {error.code})")
        if 300 <= error.code < 400:
            raise NeuronpediaError(f"{self.address} redirects (HTTP {error.code}): name where it has gone to")
        if error.code not in PASSING_STATUS:
            raise NeuronpediaError(f"{self.address}: HTTP {error.code}")
        wait = retry_after_seconds(error.headers)
        if wait is not None and wait > LONGEST_WAIT_SECONDS:
            raise NeuronpediaError(f"{self.address}: HTTP {error.code}, it asks to wait {wait:.0f} s")
        return wait


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait a server asks for, in seconds or as an HTTP date; None where it does not say."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
