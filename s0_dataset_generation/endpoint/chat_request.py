"""A question to a language model, and the parameters with which a server takes it."""

import hashlib
import json
import re
from dataclasses import dataclass

import openai
from prompts.answer_forms import AnswerForm
from tqdm import tqdm

RESPONSE_FORMATS = ("json_schema", "json_object", "text")  # from strict to lax


@dataclass(frozen=True)
class Question:
    """One request. `nonce` tells apart questions that would otherwise read the same (rounds, votes)."""

    model: str
    messages: list[dict[str, str]]
    form: AnswerForm
    nonce: str
    temperature: float | None = None
    seed_offset: int = 0  # added to the seed that the server is sent

    def key(self, seed: int, attempt: int) -> str:
        """What the journal finds the answer by."""
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


class ServerDialect:
    """Which optional parameters a server takes, as its refusals teach."""

    def __init__(self) -> None:
        self._refused: set[str] = set()
        self._response_format = 0  # index into RESPONSE_FORMATS

    def parameters(self, question: Question, seed: int) -> dict:
        """The arguments of the request; a schema that the server does not take goes into the prompt."""
        messages = question.messages
        schema = question.form.json_schema()
        kind = RESPONSE_FORMATS[self._response_format]
        optional = {"temperature": question.temperature, "seed": seed + question.seed_offset}
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

    def learn(self, error: Exception, sent: dict) -> bool:
        """Whether the server refused an optional parameter of `sent`; it is then left out from now on."""
        if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 422):
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
