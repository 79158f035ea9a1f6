"""Continuations with a judge's ratings: which are asked for, and where they go."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from continuation_judge.judge_endpoint import Judge, ask
from continuation_judge.rating_journal import append_ratings, key_of, read_journal
from continuation_judge.ratings import (
    CONCEPT,
    FLUENCY,
    INSTRUCT,
    Question,
    UnusableAnswerError,
    messages_for,
    read_ratings,
    with_harmonic_mean,
)
from twins_s1.progress import progress

AT_ONCE = 10  # texts of a request
REQUESTS_AT_ONCE = 8
ROUNDS = 3  # in which ratings that an answer lacks are asked for again


def with_ratings(continuations: list[dict], judge: Judge, journal: Path, seed: int) -> list[dict]:
    """Each continuation with its `rating`: an aspect's rating each and their harmonic mean, or null.

    A text without a word gets none, nor one that the judge would not rate in `ROUNDS` rounds. The judge sees
    neither feature nor dose, and each text once.

    Raises:
        JudgeError: the endpoint cannot serve the run; what it has said is in the journal.
    """
    asked_of = [questions_of(entry, judge) for entry in continuations]
    questions = list(dict.fromkeys(question for questions in asked_of for question in questions))
    rated = ratings_of(questions, judge, journal, seed)

    def rating(own: list[Question]) -> dict | None:
        if not own or any(question not in rated for question in own):
            return None
        return with_harmonic_mean({question.aspect: rated[question] for question in own})

    return [entry | {"rating": rating(own)} for entry, own in zip(continuations, asked_of)]


def questions_of(entry: dict, judge: Judge) -> list[Question]:
    """What is asked about a continuation."""
    text = entry["text"].strip()
    if not text:
        return []
    questions = [Question(CONCEPT, text), Question(FLUENCY, text)]
    return [*questions, Question(INSTRUCT, text, entry["prompt"])] if judge.rates_instructions else questions


def ratings_of(questions: Sequence[Question], judge: Judge, journal: Path, seed: int) -> dict[Question, int]:
    """Ratings out of the journal, and from the endpoint as far as it lacks them."""
    keys = {question: key_of(question, judge.model, judge.concept) for question in questions}
    known = read_journal(journal)
    rng = np.random.default_rng([seed, 4])
    client = judge.client()

    def rate(batch: Sequence[Question]) -> None:
        try:
            content = ask(judge, client, messages_for(batch, judge.concept))
            found = {keys[batch[i]]: rating for i, rating in read_ratings(content, len(batch)).items()}
        except UnusableAnswerError:
            found = {}
        if found:
            append_ratings(journal, found)
            known.update(found)
        bar.update()

    for round_number in range(1, ROUNDS + 1):
        batches = in_batches([question for question in questions if keys[question] not in known], rng)
        if not batches:
            break
        description = "rating" if round_number == 1 else f"rating, round {round_number}"
        with progress(len(batches), "request", description) as bar, at_once(REQUESTS_AT_ONCE) as pool:
            list(pool.map(rate, batches))
    return {question: known[key] for question, key in keys.items() if key in known}


@contextmanager
def at_once(n_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose waiting tasks are dropped when one fails or the user interrupts."""
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def in_batches(questions: list[Question], rng: np.random.Generator) -> list[list[Question]]:
    """Requests of one aspect each, texts in random order."""
    shuffled = [questions[i] for i in rng.permutation(len(questions))]
    batches = []
    for aspect in (CONCEPT, FLUENCY, INSTRUCT):
        own = [question for question in shuffled if question.aspect == aspect]
        batches += [own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE)]
    return batches
