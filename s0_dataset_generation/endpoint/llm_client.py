"""Questions to an OpenAI-compatible endpoint: retried where that helps, every answer on disk before use."""

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import openai
from endpoint.answer_journal import Journal
from endpoint.chat_request import Question, ServerDialect
from endpoint.request_failures import NoCompletionError, Remedy, failure_of
from endpoint.settings import Settings
from endpoint.usage import Usage
from openai.types.chat import ChatCompletion
from prompts.answer_forms import BadAnswerError, Item
from twins_s0.progress import progress

BACKOFF_SECONDS = 0.5  # before the first retry; doubled each time
MAX_BACKOFF_SECONDS = 30.0

Result = TypeVar("Result")


class EndpointError(RuntimeError):
    """The endpoint cannot serve this run: wrong key, unknown model, spent quota, or out of reach."""


class RequestFailedError(RuntimeError):
    """One request that brought no answer: refused, or failed as often as it may be tried."""

    def __init__(self, reason: str, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class GivenUp:
    """Why a question has no answer; `key` is that of the attempt which is not made (any more)."""

    key: str
    reason: str
    refused: bool  # by the server, for good; else all tries were used up


@dataclass(frozen=True)
class Reply:
    """The valid entries of an answer: none where it was unusable, or the question given up."""

    items: list[Item]
    given_up: GivenUp | None = None


class LLMClient:
    """Asks questions concurrently, out of the journal first; use as an async context manager."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.settings = settings
        self.journal = journal
        self.usage = Usage(settings.prices)
        self._api = openai.AsyncOpenAI(
            api_key=settings.api_key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,  # retried here, where a spent quota can be told from a rate limit
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._dialect = ServerDialect()
        self._not_before = 0.0  # loop time until which a rate limit holds everyone back
        self._failures_in_a_row = 0
        self._answered = False  # whether the server has answered anything in this run

    async def __aenter__(self) -> "LLMClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    async def ask_all(
        self, questions: Sequence[Question], description: str, answers: int | None = None
    ) -> list[Reply]:
        """The reply to each question, in the order of the questions.

        answers: of each question, how many unusable ones are taken before it is given up, None for as many
        as may be retried; with 1 an unusable answer is an empty reply, for the caller to ask differently.
        What is given up is in the journal before it is returned. Raises EndpointError when the endpoint
        cannot serve the run, OSError when the journal fails.
        """
        stopped = None
        with progress(len(questions), "request", description) as bar:

            async def ask_and_count(question: Question) -> Reply:
                reply = await self._ask(question, answers)
                bar.set_postfix_str(self.usage.short(), refresh=False)
                bar.update()
                return reply

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
        replies = [task.result() for task in tasks]
        self._settle([reply.given_up for reply in replies if reply.given_up])
        return replies

    def _settle(self, given_up: Sequence[GivenUp]) -> None:
        """Go on without these answers, and let a resumed run do so too."""
        if given_up and not self.journal.answers:
            raise EndpointError(f"{self.settings.url}: {given_up[0].reason}; no request was answered")
        for one in given_up:
            if self.journal.given_up(one.key, self.settings.max_retries) is None:
                self.journal.add_given_up(one.key, one.reason, one.refused, self.settings.max_retries)

    async def _ask(self, question: Question, answers: int | None) -> Reply:
        """The entries of the first usable answer, asking again with another seed after an unusable one.

        A failed request and an unusable answer count alike against the retries.
        """
        retries = self.settings.max_retries
        attempt = 0
        while True:
            key = question.key(self.settings.seed, attempt)
            try:
                record, retries = await self._recorded(question, key, attempt, retries)
            except RequestFailedError as error:
                return self._give_up(key, str(error), error.refused)
            self.usage.count_tokens(record)
            try:
                if record["problem"]:
                    raise BadAnswerError(record["problem"])
                return Reply(question.form.parse(record["content"]))
            except BadAnswerError as error:
                self.usage.bad_answers[str(error)] += 1
            attempt += 1
            if attempt == answers:
                return Reply([])
            if retries == 0:
                next_key = question.key(self.settings.seed, attempt)
                return self._give_up(next_key, "no usable answer", refused=False)
            retries -= 1

    def _give_up(self, key: str, reason: str, refused: bool) -> Reply:
        self.usage.failed[reason] += 1
        return Reply([], GivenUp(key, reason, refused))

    async def _recorded(self, question: Question, key: str, attempt: int, retries: int) -> tuple[dict, int]:
        """The answer out of the journal, or from the server and into it; and the retries that are left."""
        if record := self.journal.answers.get(key):
            self.usage.from_journal += 1
            return record, retries
        if entry := self.journal.given_up(key, self.settings.max_retries):
            raise RequestFailedError(entry["reason"], entry["refused"])
        async with self._slots:
            try:
                record, retries = await self._send(question, attempt, retries)
            except RequestFailedError as error:
                self._stop_if_hopeless(error)
                raise
        self.journal.add_answer(key, record)
        return record, retries

    def _stop_if_hopeless(self, error: RequestFailedError) -> None:
        """Raises EndpointError where failures in a row, or none but failures, say that others will fail."""
        self._failures_in_a_row += 1
        many = self._failures_in_a_row > 2 * self.settings.concurrency
        if error.refused and many:
            raise EndpointError(
                f"{self.settings.url}: {error}; {self._failures_in_a_row} requests in a row failed"
            )
        if not error.refused and (many or not self._answered):
            raise EndpointError(
                f"{self.settings.url}: {error}; {self.settings.max_retries} retries did not help"
            )

    async def _send(self, question: Question, attempt: int, retries: int) -> tuple[dict, int]:
        """The journal's record of the answer, and the retries left of `retries`.

        Raises RequestFailedError or EndpointError when none comes.
        """
        loop = asyncio.get_running_loop()
        delay = BACKOFF_SECONDS
        while True:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            parameters = self._dialect.parameters(question, self.settings.seed + attempt)
            self.usage.requests += 1
            try:
                async with asyncio.timeout(self.settings.timeout):
                    completion = await self._api.chat.completions.create(**parameters)
                record = self._record(question, completion)
            except (openai.OpenAIError, TimeoutError, json.JSONDecodeError, NoCompletionError) as error:
                if self._dialect.learn(error, parameters):
                    continue
                failure = failure_of(error, self.settings.url, question.model)
            else:
                self._answered, self._failures_in_a_row = True, 0
                return record, retries
            detail = f": {self.redact(failure.detail)[:300]}" if failure.detail else ""
            if failure.remedy is Remedy.STOP:
                raise EndpointError(failure.problem + detail)
            if failure.remedy is Remedy.REFUSED or retries == 0:
                raise RequestFailedError(failure.problem + detail, failure.remedy is Remedy.REFUSED)
            retries -= 1
            self.usage.retries[failure.problem] += 1
            wait, delay = delay, min(2 * delay, MAX_BACKOFF_SECONDS)
            if failure.wait is not None:
                wait = failure.wait
                self._not_before = max(self._not_before, loop.time() + wait)
            await asyncio.sleep(wait + wait * 0.25 * random.random())  # jitter: do not all come back at once

    def _record(self, question: Question, completion: object) -> dict:
        """What the journal keeps of an answer. Raises NoCompletionError for anything but a completion."""
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise NoCompletionError
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

    def redact(self, text: str) -> str:
        """A server's message on one line, without the key or anything that looks like one."""
        text = text.replace(self.settings.api_key, "[key]")
        return " ".join(re.sub(r"\bsk-[\w*.-]{6,}", "[key]", text).split())

    def redact_content(self, text: str) -> str:
        """An answer without the key; one that a sentence could hold stays, or sentences were rewritten."""
        return text.replace(self.settings.api_key, "[key]") if self.settings.key_is_no_text else text


def ask(
    settings: Settings, journal: Journal, work: Callable[[LLMClient], Awaitable[Result]]
) -> tuple[Result, Usage]:
    """Run `work` with a client; its result and what was asked for it."""

    async def with_client() -> tuple[Result, Usage]:
        async with LLMClient(settings, journal) as client:
            return await work(client), client.usage

    return asyncio.run(with_client())
