"""What a judge is asked about a text, and what its answers amount to.

The aspects and their harmonic mean are AxBench's (Wu et al. 2025, arXiv 2501.17148, section 3): each is rated
apart with 0, 1 or 2, and a text that fails in one of them scores 0.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean

SCALE = (0, 1, 2)
FLUENCY, CONCEPT, INSTRUCT = "fluency", "concept", "instruct"
CRITERIA = {
    CONCEPT: "how clearly the fragment shows this concept: {concept}. 0: not at all; 1: in passing or only "
    "partly; 2: clearly. Grammar and sense do not matter.",
    FLUENCY: "how fluent the fragment is. 0: not fluent, such as unintelligible, unnatural or repetitive; 1: "
    "partly, with noticeable errors or odd phrasing; 2: fluent, almost without a fault. Its subject does not "
    "matter, nor that it begins or ends in the middle of a sentence.",
    INSTRUCT: "how closely the fragment keeps to the subject of its instruction. 0: not at all; 1: loosely; "
    "2: clearly. Grammar and quality do not matter.",
}
TASK = """Rate each of the following fragments with 0, 1 or 2. They come in random order; each stands alone.
Answer with nothing but JSON of this form, one entry for each fragment:
{"judgements": [{"sentence_id": "1", "label": 0}]}
"""


class UnusableAnswerError(ValueError):
    """An answer that holds no rating."""


@dataclass(frozen=True)
class Question:
    """One aspect of one text."""

    aspect: str
    text: str
    instruction: str | None = None  # what the text answers, where that is rated


def messages_for(questions: Sequence[Question], concept: str) -> list[dict[str, str]]:
    """The request for ratings of one aspect; the texts are numbered from 1."""
    (aspect,) = {question.aspect for question in questions}
    criterion = CRITERIA[aspect].format(concept=concept)
    entries = []
    for number, question in enumerate(questions, start=1):
        entry = {"sentence_id": str(number), "sentence": question.text}
        entries.append(entry | ({"instruction": question.instruction} if question.instruction else {}))
    return [
        {
            "role": "system",
            "content": "You judge fragments of text that a language model wrote, impartially and by one "
            f"criterion alone: {criterion}",
        },
        {"role": "user", "content": TASK + json.dumps(entries, ensure_ascii=False)},
    ]


def read_ratings(content: str, n_questions: int) -> dict[int, int]:
    """The ratings of an answer, by the text's place from 0 on.

    Words around the JSON are tolerated. What is no rating is left out, and so is a text that got two.

    Raises:
        UnusableAnswerError: nothing in it can be used.
    """
    starts = [match.start() for match in re.finditer(r'\{\s*"judgements"', content)]
    try:
        answer, _ = json.JSONDecoder().raw_decode(content[starts[-1] :])
        entries = [
            (entry["sentence_id"], entry["label"]) for entry in answer["judgements"] if is_entry(entry)
        ]
    except (IndexError, ValueError, TypeError):
        raise UnusableAnswerError("an answer without JSON of the form asked for") from None
    found: dict[int, set[int]] = {}
    for name, rating in entries:
        if name.isdecimal() and 1 <= int(name) <= n_questions:
            found.setdefault(int(name) - 1, set()).add(rating)
    return {place: ratings.pop() for place, ratings in found.items() if len(ratings) == 1}


def is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    rating = entry.get("label")
    return isinstance(entry.get("sentence_id"), str) and type(rating) is int and rating in SCALE


def with_harmonic_mean(ratings: Mapping[str, int]) -> dict[str, float]:
    """The ratings and their harmonic mean, 0 where one of them is 0."""
    return {**ratings, "harmonic_mean": float(harmonic_mean(ratings.values()))}
