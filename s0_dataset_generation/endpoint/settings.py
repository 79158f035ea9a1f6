"""Where and how to ask: out of the options, the environment and `.env`."""

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from dotenv import load_dotenv
from prompts.rubric import Trait, slug

STAGE = Path(__file__).resolve().parents[1]
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key-needed"  # sent to a server of one's own where no key is set
SHORTEST_SECRET = 16  # characters; a shorter key may well be a word, such as `none` or `test`


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in any currency."""

    tokens_in: float
    tokens_out: float

    def cost(self, n_in: int, n_out: int) -> float:
        return (n_in * self.tokens_in + n_out * self.tokens_out) / 1e6


@dataclass(frozen=True)
class Settings:
    api_key: str = field(repr=False)
    base_url: str
    concurrency: int
    max_retries: int
    timeout: float  # seconds
    seed: int
    prices: Prices | None

    @property
    def url(self) -> str:
        """The base URL as it may be shown."""
        return public_url(self.base_url)

    @property
    def key_is_no_text(self) -> bool:
        """Whether the key is such that no sentence could hold it."""
        return len(self.api_key) >= SHORTEST_SECRET and any(c.isdigit() for c in self.api_key)


def load_environment() -> None:
    """Take from `.env` beside the scripts what the environment lacks: OPENAI_API_KEY, OPENAI_BASE_URL."""
    load_dotenv(STAGE / ".env")


def no_key_message(trait: Trait) -> str:
    """What to do without a key, naming the dataset that is shipped for the trait where there is one."""
    shipped = STAGE / "expanded_data" / f"{slug(trait.name)}.csv"
    instead = (
        f"a finished dataset of this trait is shipped as {os.path.relpath(shipped)}"
        if shipped.is_file()
        else "no dataset of this trait is shipped"
    )
    return (
        f"no API key: set OPENAI_API_KEY or write it into {os.path.relpath(STAGE / '.env')} (see "
        f".env.example), or name a local OpenAI-compatible server with --base-url; {instead}"
    )


def endpoint_is_set(base_url: str | None) -> bool:
    """Whether the option, the environment or `.env` name a server or a key."""
    load_environment()
    return bool(base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY"))


def prices_from(arguments: argparse.Namespace) -> Prices | None:
    """The two prices, or None where none is given; ValueError for one alone."""
    if (arguments.price_in is None) != (arguments.price_out is None):
        raise ValueError("--price-in and --price-out go together: give both or neither")
    return None if arguments.price_in is None else Prices(arguments.price_in, arguments.price_out)


def settings_from(arguments: argparse.Namespace, trait: Trait) -> Settings:
    """Settings out of the parsed options, the environment and `.env`.

    Raises ValueError when OpenAI's own endpoint is asked without a key, and for an unusable URL or key.
    """
    load_environment()
    base_url = arguments.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
        raise ValueError(
            f"--base-url {public_url(base_url)}: expected a URL such as http://localhost:8000/v1"
        )
    api_key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not api_key:
        if urlsplit(base_url).hostname == urlsplit(OPENAI_URL).hostname:
            raise ValueError(no_key_message(trait))
        api_key = NO_KEY
    if not api_key.isascii() or not api_key.isprintable():
        raise ValueError("OPENAI_API_KEY holds characters that no key has; copy the key again")
    return Settings(
        api_key,
        base_url,
        arguments.concurrency,
        arguments.max_retries,
        arguments.timeout,
        arguments.seed,
        prices_from(arguments),
    )


def public_url(url: str) -> str:
    """`url` without a user name, password or query that it may carry."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
