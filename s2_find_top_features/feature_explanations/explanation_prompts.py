"""The two questions about a feature: what it stands for, and where it would fire given an explanation.

After delphi's explainer and detection scorer (Paulo et al. 2024, arXiv 2410.13928), for whole sentences.
"""

import json
import re
from collections.abc import Sequence

from pydantic import BaseModel

from .shown_sentences import Evidence

MOST_WORDS = 40


class Explanation(BaseModel):
    explanation: str


class Detection(BaseModel):
    id: str
    fires: bool


class Detections(BaseModel):
    detections: list[Detection]


def explanation_messages(evidence: Evidence) -> list[dict[str, str]]:
    """Ask what the feature stands for."""
    system = (
        "You study what single features inside a language model stand for. A feature fires at some tokens "
        "of a sentence. You are shown sentences in which it fires most, with the firing tokens between << "
        "and >> and the strength from 1 to 10, and sentences with similar words in which it does not fire. "
        "Say what the first have in common that the others lack: a meaning, a situation, a form, or plainly "
        "certain words. Be as specific as the sentences allow, and do not guess at more than they show."
    )
    lines = ["It fires in:", *(f"[{strength}] {text}" for strength, text in evidence.strongest)]
    if evidence.near_misses:
        lines += ["", "It does not fire in:", *(f"- {text}" for text in evidence.near_misses)]
    lines += [
        "",
        f'Answer with JSON: {{"explanation": "one sentence of at most {MOST_WORDS} words, without quoting '
        'the markers"}.',
    ]
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def detection_messages(explanation: str, sentences: Sequence[str]) -> list[dict[str, str]]:
    """Ask in which sentences a feature so explained fires; the last line is JSON."""
    system = (
        "A feature inside a language model fires in sentences that fit its explanation. You are given the "
        "explanation and sentences, and say of each whether the feature fires in it. Judge each sentence by "
        "itself; any number of them, none or all, may fit."
    )
    lines = [
        f"Explanation: {explanation}",
        "",
        'Answer with JSON: {"detections": [{"id": copied, "fires": true or false}, ...]}, one entry per '
        "sentence.",
        "",
        json.dumps([{"id": name, "sentence": text} for name, text in named(sentences)], ensure_ascii=False),
    ]
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def named(sentences: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"s{number:02d}", text) for number, text in enumerate(sentences, start=1)]


def parse_explanation(content: str) -> str:
    """The explanation of an answer, on one line. Raises ValueError where there is none."""
    text = " ".join(Explanation.model_validate(json_object(content, "explanation")).explanation.split())
    if not text:
        raise ValueError("an empty explanation")
    return text


def parse_detections(content: str, n_sentences: int) -> list[bool]:
    """The answer for each sentence, in order. Raises ValueError unless there is exactly one for each."""
    answers = Detections.model_validate(json_object(content, "detections")).detections
    by_id = {answer.id: answer.fires for answer in answers}
    names = [name for name, _ in named([""] * n_sentences)]
    if len(answers) != n_sentences or set(by_id) != set(names):
        raise ValueError("not one entry per sentence")
    return [by_id[name] for name in names]


def json_object(content: str, key: str) -> object:
    """The last JSON object in a text (there may be a fence, a preface, thoughts) that begins with `key`."""
    starts = [match.start() for match in re.finditer(rf'\{{\s*"{key}"', content)]
    if not starts:
        raise ValueError("no JSON in the answer")
    return json.JSONDecoder().raw_decode(content[starts[-1] :])[0]
