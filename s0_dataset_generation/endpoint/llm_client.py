"""Questions to an OpenAI-compatible endpoint: retried where that helps, every answer on disk before use."""

import argparse
import asyncio
import email.utils
import hashlib
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import openai
from dotenv import load_dotenv
from openai.types.chat import ChatCompletion
from pydantic import ValidationError
from rubric import AnswerForm, Item, Trait, slug
from sentence_tables import sha256_of
from tqdm import tqdm

DEFAULT_MODEL = "gpt-5.6-terra"
OPENAI_URL = "https://api.openai.com/v1"
JOURNAL_FORMAT = 1
BACKOFF_SECONDS = 0.5  # before the first retry; doubled each time
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 120.0  # a server that asks for more is better called again later
STOP_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
RESPONSE_FORMATS = ("json_schema", "json_object", "text")  # from strict to lax


class EndpointError(RuntimeError):
    """The endpoint cannot serve this run: wrong key, unknown model, spent quota, or out of reach."""


class RequestFailedError(RuntimeError):
    """One request that retrying did not bring through."""


class BadAnswerError(ValueError):
    """An answer that came but cannot be used: not JSON, cut off, refused, or of another form."""


@dataclass(frozen=True)
class Settings:
    """Where and how to ask; prices are per million tokens, in any currency."""

    api_key: str = field(repr=False)
    base_url: str
    concurrency: int
    max_retries: int
    timeout: float  # seconds
    seed: int
    price_in: float | None
    price_out: float | None


@dataclass(frozen=True)
class Question:
    """One request. `nonce` tells apart questions that would otherwise read the same (rounds, votes)."""

    model: str
    messages: list[dict[str, str]]
    form: AnswerForm
    nonce: str
    temperature: float | None = None

    def key(self, seed: int, attempt: int) -> str:
        content = [
            self.model,
            self.messages,
            self.form.json_schema(),
            self.temperature,
            self.nonce,
            seed,
            attempt,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


@dataclass
class Usage:
    requests: int = 0  # sent over the network in this run, retries included
    from_journal: int = 0  # answers that an earlier run had already paid for
    retries: Counter = field(default_factory=Counter)  # reason -> how often
    bad_answers: Counter = field(default_factory=Counter)  # problem -> how often, earlier runs included
    failed: Counter = field(default_factory=Counter)  # reason -> requests given up
    tokens_in: int = 0
    tokens_out: int = 0
    without_token_counts: int = 0


def add_endpoint_arguments(parser: argparse.ArgumentParser, judge: bool, generator: bool = True) -> None:
    """The options for the endpoint; `judge` and `generator` say which of the two roles the script has."""
    group = parser.add_argument_group(
        "endpoint", "The key is read from OPENAI_API_KEY, or from .env beside the scripts."
    )
    if generator:
        group.add_argument("--model", default=DEFAULT_MODEL, help="model that writes (default: %(default)s)")
    if judge:
        default = "the value of --model" if generator else DEFAULT_MODEL
        group.add_argument(
            "--judge-model",
            default=None if generator else DEFAULT_MODEL,
            help=f"model that labels (default: {default})",
        )
    group.add_argument(
        "--base-url",
        help="URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1 (default: OPENAI_BASE_URL, "
        "then OpenAI's own); a server that needs no key is used without one",
    )
    group.add_argument(
        "--concurrency", type=int, default=8, help="requests under way at once (default: %(default)s)"
    )
    group.add_argument(
        "--max-retries",
        type=int,
        default=6,
        help="further tries of a request that failed, and of an answer that cannot be used (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--timeout", type=float, default=120.0, help="seconds to wait for one answer (default: %(default)s)"
    )
    if generator:
        group.add_argument(
            "--temperature",
            type=float,
            help="sampling temperature of the writing model (default: the model's own)",
        )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of all shuffling, also sent to the server (default: %(default)s)",
    )
    group.add_argument("--price-in", type=float, help="price of a million input tokens, to show the cost")
    group.add_argument("--price-out", type=float, help="price of a million output tokens, to show the cost")


def load_environment() -> None:
    """Take from `.env` beside the scripts what the environment lacks: OPENAI_API_KEY, OPENAI_BASE_URL."""
    load_dotenv(Path(__file__).with_name(".env"))


def no_key_message(trait: Trait) -> str:
    """What to do without a key, naming the dataset that is shipped for the trait where there is one."""
    stage = Path(__file__).parent
    shipped = stage / "expanded_data" / f"{slug(trait.name)}.csv"
    instead = (
        f"a finished dataset of this trait is shipped as {os.path.relpath(shipped)}"
        if shipped.is_file()
        else "no dataset of this trait is shipped"
    )
    return (
        f"no API key: set OPENAI_API_KEY or write it into {os.path.relpath(stage / '.env')} (see "
        f".env.example), or name a local OpenAI-compatible server with --base-url; {instead}"
    )


def endpoint_is_set(arguments: argparse.Namespace) -> bool:
    """Whether the options or the environment name a server or a key."""
    return bool(arguments.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY"))


def settings_from(arguments: argparse.Namespace, trait: Trait) -> Settings:
    """Settings out of the parsed options and the environment.

    Raises ValueError when OpenAI's own endpoint is asked without a key, and for an option out of range.
    """
    for option, lowest in (("concurrency", 1), ("max_retries", 0)):
        if getattr(arguments, option) < lowest:
            value = getattr(arguments, option)
            raise ValueError(f"--{option.replace('_', '-')} {value}: expected {lowest} or more")
    if not arguments.timeout > 0:
        raise ValueError(f"--timeout {arguments.timeout}: expected a number of seconds above 0")
    if (arguments.price_in is None) != (arguments.price_out is None):
        raise ValueError("--price-in and --price-out go together: give both or neither")
    base_url = arguments.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
        raise ValueError(
            f"--base-url {public_url(base_url)}: expected a URL such as http://localhost:8000/v1"
        )
    api_key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not api_key:
        if urlsplit(base_url).hostname == urlsplit(OPENAI_URL).hostname:
            raise ValueError(no_key_message(trait))
        api_key = "no-key-needed"
    if not api_key.isascii() or not api_key.isprintable():
        raise ValueError("OPENAI_API_KEY holds characters that no key has; copy the key again")
    return Settings(
        api_key=api_key,
        base_url=base_url,
        concurrency=arguments.concurrency,
        max_retries=arguments.max_retries,
        timeout=arguments.timeout,
        seed=arguments.seed,
        price_in=arguments.price_in,
        price_out=arguments.price_out,
    )


def public_url(url: str) -> str:
    """`url` without a user name, password or query that it may carry."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def parse_items(content: str, form: AnswerForm) -> tuple[list[Item], int]:
    """The valid entries of an answer and the number of invalid ones.

    Text around the JSON object (a code fence, a preface, thoughts with braces) is tolerated; of several such
    objects the last counts. Raises BadAnswerError when there is none, it is cut off, or it has not the form's
    list or no valid entry.
    """
    starts = [match.start() for match in re.finditer(rf'\{{\s*"{form.name}"', content)]
    start = starts[-1] if starts else content.find("{")
    if start < 0:
        raise BadAnswerError("no JSON in the answer")
    try:
        answer, _ = json.JSONDecoder().raw_decode(content[start:])
    except json.JSONDecodeError:
        raise BadAnswerError("malformed or truncated JSON") from None
    entries = answer.get(form.name)
    if not isinstance(entries, list):
        raise BadAnswerError(f"no list {form.name!r} in the answer")
    items = []
    for entry in entries:
        try:
            items.append(form.item.model_validate(entry))
        except ValidationError:
            continue
    if not items:
        raise BadAnswerError(f"no valid entry in {form.name!r}")
    return items, len(entries) - len(items)


class Journal:
    """Every answer of a run, one JSON line each, on disk (fsync) before anything is made of it.

    A last line cut off by a crash is dropped on opening. Raises ValueError when the file belongs to another
    trait or is no journal.
    """

    def __init__(self, path: Path, trait: str) -> None:
        self.path = path
        self.answers: dict[str, dict] = {}  # key of the question and attempt -> record
        self._outputs: set[str] = set()  # SHA-256 of the files written from this journal
        existing = path.read_bytes() if path.exists() else b""
        whole = existing[: existing.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                if number == 1:
                    self._check_header(record, trait)
                elif "key" in record:
                    self.answers[record["key"]] = record
                elif "output_sha256" in record:
                    self._outputs.add(record["output_sha256"])
            except (json.JSONDecodeError, TypeError, UnicodeDecodeError):
                raise ValueError(f"{path}, line {number}: not a journal line; move the file away") from None
        self._file = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not whole:
            self._append({"journal_format": JOURNAL_FORMAT, "trait": trait})

    def _check_header(self, record: dict, trait: str) -> None:
        if record.get("journal_format") != JOURNAL_FORMAT:
            raise ValueError(f"{self.path}: not a journal of format {JOURNAL_FORMAT}; move the file away")
        if record["trait"] != trait:
            raise ValueError(
                f"{self.path}: the journal of another trait ({record['trait']}, not {trait}); choose another "
                "--output"
            )

    def _append(self, record: dict) -> None:
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def add_answer(self, key: str, record: dict) -> None:
        self._append({"key": key} | record)
        self.answers[key] = record

    def add_output(self, path: Path) -> None:
        """Remember a finished output, so that the next run may replace it."""
        digest = sha256_of(path)
        if digest not in self._outputs:
            self._append({"output": path.name, "output_sha256": digest})
            self._outputs.add(digest)

    def wrote(self, path: Path) -> bool:
        """Whether the file is, unchanged, one that a run with this journal wrote."""
        return sha256_of(path) in self._outputs

    def close(self) -> None:
        """Close the file, and delete it when no answer ever came."""
        self._file.close()
        if not self.answers:
            self.path.unlink()


def open_journal(output: Path, trait: str, overwrite: bool, also: Sequence[Path] = ()) -> Journal:
    """The journal beside `output`, after a check that the outputs can be written and are nobody else's files.

    Raises FileExistsError when `output` or one of `also` exists and no run with this journal wrote it, unless
    `overwrite`.
    """
    if output.is_dir():
        raise IsADirectoryError(f"{output}: a folder; --output names the CSV file to write")
    output.parent.mkdir(parents=True, exist_ok=True)
    existing = [path for path in (output, *also) if path.exists() and not overwrite]
    path = output.with_suffix(".journal.jsonl")
    journal = Journal(path, trait) if path.exists() or not existing else None
    for other in existing:
        if journal is None or not journal.wrote(other):
            if journal is not None:
                journal.close()
            raise FileExistsError(
                f"{other} exists and no earlier start of this command wrote it; choose another file with "
                "--output, or replace it with --overwrite"
            )
    return journal


def retry_after_seconds(headers) -> float | None:
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


class LLMClient:
    """Asks questions concurrently, out of the journal first; use as an async context manager."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.settings = settings
        self.journal = journal
        self.usage = Usage()
        self._api = openai.AsyncOpenAI(
            api_key=settings.api_key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,  # retried here, where a spent quota can be told from a rate limit
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._refused: set[str] = set()  # optional parameters that the server does not take
        self._response_format = 0  # index into RESPONSE_FORMATS
        self._not_before = 0.0  # loop time until which a rate limit holds everyone back
        self._failures_in_a_row = 0
        self._answered = False  # whether the server has answered anything in this run

    async def __aenter__(self) -> "LLMClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    def redact(self, text: str) -> str:
        """`text` on one line, without the key or anything that looks like one."""
        text = text.replace(self.settings.api_key, "[key]")
        return " ".join(re.sub(r"\bsk-[\w*.-]{6,}", "[key]", text).split())

    def cost(self) -> float | None:
        """Price of the tokens counted so far, those of earlier runs in the journal included."""
        if self.settings.price_in is None or self.settings.price_out is None:
            return None
        usage = self.usage
        return (usage.tokens_in * self.settings.price_in + usage.tokens_out * self.settings.price_out) / 1e6

    def usage_line(self) -> str:
        usage = self.usage
        parts = [
            f"{usage.requests} requests sent",
            f"{usage.from_journal} answers from the journal",
            f"{usage.retries.total()} retries{listed(usage.retries)}",
            f"{usage.bad_answers.total()} answers asked again{listed(usage.bad_answers)}",
            f"tokens {usage.tokens_in:,} in, {usage.tokens_out:,} out",
        ]
        if usage.failed:
            parts.append(f"{usage.failed.total()} requests given up{listed(usage.failed)}")
        if usage.without_token_counts:
            parts.append(f"{usage.without_token_counts} answers without token counts")
        if (cost := self.cost()) is not None:
            parts.append(f"cost {cost:.4f}")
        return "; ".join(parts)

    async def ask_all(self, questions: Sequence[Question], description: str) -> list[list[Item]]:
        """The valid entries of each question's answer, in the order of the questions; [] where none came.

        Raises EndpointError when the endpoint cannot serve the run, OSError when the journal fails.
        """
        stopped = None
        with tqdm(total=len(questions), desc=description, unit="request", disable=None) as bar:

            async def ask_and_count(question: Question) -> list[Item]:
                items = await self._ask(question)
                cost = self.cost()
                bar.set_postfix_str(
                    f"{self.usage.tokens_in + self.usage.tokens_out:,} tokens"
                    + ("" if cost is None else f", cost {cost:.4f}"),
                    refresh=False,
                )
                bar.update()
                return items

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(ask_and_count(question)) for question in questions]
            except* (EndpointError, OSError) as errors:
                stopped = errors.exceptions[0]
        if isinstance(stopped, EndpointError) and self.journal.answers:
            raise EndpointError(
                f"{stopped}; {len(self.journal.answers)} answers are kept in {self.journal.path}, the same "
                "command continues from them"
            )
        if stopped is not None:
            raise stopped
        return [task.result() for task in tasks]

    async def _ask(self, question: Question) -> list[Item]:
        """The entries of the first usable answer, asking again with another seed after an unusable one."""
        for attempt in range(self.settings.max_retries + 1):
            key = question.key(self.settings.seed, attempt)
            record = self.journal.answers.get(key)
            if record is None:
                async with self._slots:
                    try:
                        record = await self._send(question, attempt)
                    except RequestFailedError as error:
                        self._give_up(str(error))
                        return []
                self.journal.add_answer(key, record)
            else:
                self.usage.from_journal += 1
            self._count_tokens(record)
            try:
                if record["problem"]:
                    raise BadAnswerError(record["problem"])
                return parse_items(record["content"], question.form)[0]
            except BadAnswerError as error:
                self.usage.bad_answers[str(error)] += 1
        self.usage.failed["no usable answer"] += 1
        return []

    def _give_up(self, reason: str) -> None:
        self.usage.failed[reason] += 1
        self._failures_in_a_row += 1
        if not self._answered or self._failures_in_a_row > 2 * self.settings.concurrency:
            url, retries = public_url(self.settings.base_url), self.settings.max_retries
            raise EndpointError(f"{url}: {reason}; {retries} retries did not help")

    def _count_tokens(self, record: dict) -> None:
        if record["tokens_in"] is None:
            self.usage.without_token_counts += 1
        else:
            self.usage.tokens_in += record["tokens_in"]
            self.usage.tokens_out += record["tokens_out"]

    async def _send(self, question: Question, attempt: int) -> dict:
        """The journal record of the answer. Raises RequestFailedError or EndpointError when none comes."""
        loop = asyncio.get_running_loop()
        retry = 0
        while True:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            parameters = self._parameters(question, attempt)
            self.usage.requests += 1
            wait = None
            try:
                async with asyncio.timeout(self.settings.timeout):
                    completion = await self._api.chat.completions.create(**parameters)
                if isinstance(completion, ChatCompletion) and completion.choices:
                    self._answered, self._failures_in_a_row = True, 0
                    return self._record(question, completion)
                problem = "an answer that is no chat completion"
            except openai.APIStatusError as error:
                if self._drop_refused(error, parameters):
                    continue
                problem = self._transient_problem(error, question)  # raises for all that retrying cannot mend
                wait = retry_after_seconds(error.response.headers)
                if wait is not None:
                    if wait > MAX_RETRY_AFTER_SECONDS:
                        raise EndpointError(
                            f"{problem}: the server asks to wait {wait:.0f} s; start the same command again "
                            "later"
                        ) from None
                    self._not_before = max(self._not_before, loop.time() + wait)
            except (openai.APITimeoutError, TimeoutError):
                problem = "no answer within the time-out"
            except openai.APIConnectionError as error:
                problem = f"connection failed ({type(error.__cause__).__name__})"
            except (openai.APIResponseValidationError, json.JSONDecodeError):
                problem = "an answer that is no JSON"
            if retry == self.settings.max_retries:
                raise RequestFailedError(problem)
            self.usage.retries[problem] += 1
            if wait is None:
                wait = min(BACKOFF_SECONDS * 2**retry, MAX_BACKOFF_SECONDS)
            await asyncio.sleep(wait + wait * 0.25 * random.random())  # jitter: do not all come back at once
            retry += 1

    def _parameters(self, question: Question, attempt: int) -> dict:
        messages = question.messages
        schema = question.form.json_schema()
        kind = RESPONSE_FORMATS[self._response_format]
        optional = {"temperature": question.temperature, "seed": self.settings.seed + attempt}
        if kind == "json_schema":
            json_schema = {"name": question.form.name, "strict": True, "schema": schema}
            optional["response_format"] = {"type": kind, "json_schema": json_schema}
        else:
            instruction = f"Answer with nothing but JSON of this schema: {json.dumps(schema)}"
            system = messages[0] | {"content": f"{messages[0]['content']}\n\n{instruction}"}
            messages = [system, *messages[1:]]
            if kind == "json_object":
                optional["response_format"] = {"type": kind}
        sent = {
            name: value for name, value in optional.items() if value is not None and name not in self._refused
        }
        return {"model": question.model, "messages": messages} | sent

    def _drop_refused(self, error: openai.APIStatusError, sent: dict) -> bool:
        """Whether the server refused an optional parameter of `sent`; it is then left out from now on."""
        if error.status_code not in (400, 422):
            return False
        text = f"{error.param} {error.message}"
        for name in ("temperature", "seed"):
            if name in sent and re.search(rf"\b{name}\b", text):
                if name not in self._refused:
                    self._refused.add(name)
                    tqdm.write(f"the server does not take {name!r}: left out from now on")
                return True
        if "response_format" in sent and re.search(
            r"response_format|json_schema|json_object|structured.output|guided|grammar", text, re.IGNORECASE
        ):
            used = RESPONSE_FORMATS.index(sent["response_format"]["type"])
            if self._response_format == used:
                self._response_format += 1
                tqdm.write(
                    f"the server does not take response_format {RESPONSE_FORMATS[used]!r}: "
                    f"{RESPONSE_FORMATS[used + 1]!r} from now on"
                )
            return True
        return False

    def _transient_problem(self, error: openai.APIStatusError, question: Question) -> str:
        """A short name for an error that may pass; raises EndpointError or RequestFailedError for others."""
        url = public_url(self.settings.base_url)
        body = error.body if isinstance(error.body, dict) else {}
        detail = self.redact(str(body.get("message") or error.message))[:300]
        status = error.status_code
        if status in (401, 403):
            raise EndpointError(f"{url} refuses the key (HTTP {status}): {detail}")
        if status == 404:
            raise EndpointError(
                f"{url} does not know the model {question.model!r} or the address (HTTP 404): {detail}"
            )
        if status == 402 or {error.code, error.type} & STOP_CODES:
            raise EndpointError(f"{url}: the quota is spent (HTTP {status}): {detail}")
        if status in (408, 409, 429) or status >= 500:
            return f"HTTP {status}"
        raise RequestFailedError(f"HTTP {status}: {detail}")

    def _record(self, question: Question, completion: ChatCompletion) -> dict:
        choice = completion.choices[0]
        problem = None
        if getattr(choice.message, "refusal", None):
            problem = "the model refused"
        elif choice.finish_reason == "content_filter":
            problem = "stopped by a content filter"
        elif choice.finish_reason == "length":
            problem = "cut off at the token limit"
        return {
            "form": question.form.name,
            "nonce": question.nonce,
            "model": completion.model,
            "messages": question.messages,
            "content": self.redact_content(choice.message.content or choice.message.refusal or ""),
            "finish_reason": choice.finish_reason,
            "problem": problem,
            "tokens_in": completion.usage.prompt_tokens if completion.usage else None,
            "tokens_out": completion.usage.completion_tokens if completion.usage else None,
        }

    def redact_content(self, text: str) -> str:
        return text.replace(self.settings.api_key, "[key]")


def exit_status(run: Callable[[], int]) -> int:
    """The status of `run`; an error that names its remedy becomes one line on stderr and status 2."""
    try:
        return run()
    except (ValueError, OSError, EndpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; every answer so far is in the journal, the same command continues", file=sys.stderr
        )
        return 130


def listed(counter: Counter) -> str:
    """` (reason count, ...)`, the most frequent first, or nothing for an empty counter."""
    return (
        f" ({', '.join(f'{reason}: {count}' for reason, count in counter.most_common())})" if counter else ""
    )
