"""An OpenAI-compatible endpoint that judges: where it is, and one request to it."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import openai
from continuation_judge.ratings import UnusableAnswerError
from dotenv import load_dotenv
from openai.types.chat import ChatCompletion

STAGE = Path(__file__).resolve().parents[1]
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key-needed"  # sent to a server of one's own where no key is set
RETRIES = 6  # of a request, by the client library: rate limits, server errors, time-outs
TIMEOUT = 120.0  # seconds
REFUSES_THE_REQUEST = (400, 413, 422)  # these texts, for example by a content filter; others may do


class JudgeError(ValueError):
    """The endpoint cannot serve this run: wrong key, unknown model, spent quota, or out of reach."""


@dataclass(frozen=True)
class Judge:
    """Who judges, and by what concept."""

    model: str
    concept: str
    rates_instructions: bool
    base_url: str
    api_key: str = field(repr=False)

    @property
    def url(self) -> str:
        """The base URL as it may be shown, without a user name, password or query that it may carry."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=self.api_key, base_url=self.base_url, timeout=TIMEOUT, max_retries=RETRIES
        )

    def redact(self, text: str) -> str:
        """A server's message on one line, without the key or anything that looks like one."""
        text = text.replace(self.api_key, "[key]")
        return " ".join(re.sub(r"\bsk-[\w*.-]{6,}", "[key]", text).split())[:300]


def read_judge(
    model: str | None, concept: str, rates_instructions: bool, base_url: str | None
) -> Judge | None:
    """The judge that the options, the environment and `.env` beside the scripts name; None without a model.

    Raises:
        ValueError: OpenAI's own endpoint without a key, or what is no URL or no key.
    """
    if model is None:
        return None
    load_dotenv(STAGE / ".env")
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    host = urlsplit(base_url).hostname
    api_key = os.environ.get("OPENAI_API_KEY", "").strip()
    judge = Judge(model, concept, rates_instructions, base_url, api_key or NO_KEY)
    if urlsplit(base_url).scheme not in ("http", "https") or not host:
        raise ValueError(f"--base-url {judge.url}: expected a URL such as http://localhost:8000/v1")
    if not api_key and host == urlsplit(OPENAI_URL).hostname:
        raise ValueError(
            "--judge needs a key: set OPENAI_API_KEY, or name a server that needs none with --base-url"
        )
    if not api_key.isascii() or not api_key.isprintable():
        raise ValueError("OPENAI_API_KEY holds characters that no key has; copy the key again")
    return judge


def ask(judge: Judge, client: openai.OpenAI, messages: list[dict[str, str]]) -> str:
    """The answer's text.

    Raises:
        UnusableAnswerError: the server answered, but refused these texts or sent no answer to them.
        JudgeError: no request of this run will do.
    """
    try:
        completion = client.chat.completions.create(model=judge.model, messages=messages)
    except openai.APIStatusError as error:
        detail = judge.redact(error.message)
        if error.status_code in REFUSES_THE_REQUEST:
            raise UnusableAnswerError(f"HTTP {error.status_code}") from None
        raise JudgeError(
            f"the judge at {judge.url} answers with HTTP {error.status_code} ({detail}): check --judge, "
            "--base-url, key and quota; ratings so far are kept"
        ) from None
    except openai.APIConnectionError as error:
        cause = type(error.__cause__ or error).__name__
        raise JudgeError(
            f"the judge at {judge.url} cannot be reached ({cause}): check --base-url and the network; "
            "ratings so far are kept"
        ) from None
    except (openai.APIResponseValidationError, json.JSONDecodeError):
        raise UnusableAnswerError("an answer that is no JSON") from None
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise UnusableAnswerError("an answer that is no chat completion")
    return completion.choices[0].message.content or ""
