"""Questions to an OpenAI-compatible endpoint, each answer in the journal before use; the key nowhere."""

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import openai
from dotenv import load_dotenv
from openai.types.chat import ChatCompletion

from .answer_journal import AnswerJournal, request_key

STAGE = Path(__file__).resolve().parents[1]
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key-needed"  # sent to a server of one's own where no key is set
SHORTEST_SECRET = 16  # characters; a shorter key may well be a word of an answer

Answer = TypeVar("Answer")


class EndpointError(RuntimeError):
    """The endpoint cannot serve this run now."""


class UnansweredError(RuntimeError):
    """One question that brought no usable answer; others may."""


@dataclass(frozen=True)
class EndpointSettings:
    """Whom to ask, and how patiently."""

    api_key: str = field(repr=False)
    base_url: str
    model: str
    concurrency: int
    max_retries: int
    timeout: float  # seconds

    @property
    def url(self) -> str:
        """The base URL as it may be shown: without a user name, password or query."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def redacted(self, text: str) -> str:
        """A server's message on one line, without the key or anything that looks like one."""
        text = text.replace(self.api_key, "[key]")
        return " ".join(re.sub(r"\bsk-[\w*.-]{6,}", "[key]", text).split())[:300]


def endpoint_settings(
    base_url: str | None, model: str, concurrency: int, max_retries: int, timeout: float
) -> EndpointSettings:
    """Settings of the options, the environment and `.env` beside the command.

    Raises ValueError where OpenAI's own endpoint is asked without a key, and for an unusable URL or key.
    """
    load_dotenv(STAGE / ".env")
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    settings = EndpointSettings(key or NO_KEY, base_url, model, concurrency, max_retries, timeout)
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
        raise ValueError(f"--base-url {settings.url}: expected a URL such as http://localhost:8000/v1")
    if not key and urlsplit(base_url).hostname == urlsplit(OPENAI_URL).hostname:
        raise ValueError(
            f"no API key: set OPENAI_API_KEY or write it into {os.path.relpath(STAGE / '.env')}, or name a "
            "local OpenAI-compatible server with --base-url"
        )
    if not settings.api_key.isascii() or not settings.api_key.isprintable():
        raise ValueError("OPENAI_API_KEY holds characters that no key has; copy the key again")
    return settings


class ChatEndpoint:
    """Asks out of the journal first; may be shared by threads."""

    def __init__(self, settings: EndpointSettings, journal: AnswerJournal) -> None:
        self.settings = settings
        self.journal = journal
        self.used: dict[str, dict] = {}  # the records behind this run's answers, by their key
        self._stopped = threading.Event()
        self._api = openai.OpenAI(
            api_key=settings.api_key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=settings.max_retries,  # of failures that may pass; Retry-After is honoured
        )

    def ask(self, messages: list[dict[str, str]], parse: Callable[[str], Answer]) -> Answer:
        """What `parse` makes of the answer; one that it refuses with ValueError is asked for again.

        Raises UnansweredError where none can be used or the server refuses this question, EndpointError
        where the server cannot be had.
        """
        for attempt in range(self.settings.max_retries + 1):
            key = request_key(self.settings.model, messages, attempt)
            record = self.journal.answers.get(key)
            if record is None:
                record = self._send(messages)
                self.journal.add(key, record)
            self.used[key] = record
            try:
                return parse(record["content"])
            except ValueError:
                continue
        raise UnansweredError(
            f"no usable answer in {self.settings.max_retries + 1} tries; a larger --max-retries tries on"
        )

    def _send(self, messages: list[dict[str, str]]) -> dict:
        """The journal's record of an answer."""
        settings = self.settings
        if self._stopped.is_set():
            raise EndpointError("stopped")
        try:
            completion = self._api.chat.completions.create(model=settings.model, messages=messages)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            said = settings.redacted(error.message)
            raise UnansweredError(f"the server refused a question: {said}") from None
        except openai.APIStatusError as error:
            said = settings.redacted(error.message)
            raise EndpointError(f"{settings.url}: HTTP {error.status_code}: {said}; {self._kept()}") from None
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is no JSON
            cause = type(error.__cause__ or error).__name__
            raise EndpointError(f"{settings.url}: no answer ({cause}); {self._kept()}") from None
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise EndpointError(f"{settings.url}: an answer that is no chat completion; {self._kept()}")
        content = completion.choices[0].message.content or ""
        if len(settings.api_key) >= SHORTEST_SECRET:
            content = content.replace(settings.api_key, "[key]")
        usage = completion.usage
        return {
            "model": completion.model,
            "messages": messages,
            "content": content,
            "tokens_in": usage.prompt_tokens if usage else None,
            "tokens_out": usage.completion_tokens if usage else None,
        }

    def _kept(self) -> str:
        return f"{len(self.journal.answers)} answers are kept, the same command continues"

    def tokens(self) -> tuple[int, int]:
        """Tokens of all answers used, in and out, those of earlier starts included."""
        records = list(self.used.values())
        return tuple(sum(record[name] or 0 for record in records) for name in ("tokens_in", "tokens_out"))

    def stop(self) -> None:
        """Send nothing more: questions that threads still have fail at once."""
        self._stopped.set()

    def close(self) -> None:
        self._api.close()
