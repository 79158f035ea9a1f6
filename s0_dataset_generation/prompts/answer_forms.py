"""What the answers of a language model must look like, and reading them."""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError


class BadAnswerError(ValueError):
    """An answer that came but cannot be used: not JSON, cut off, refused, or of another form."""


def whole_number(value: object) -> object:
    """Refuses true and 1.0, which are equal to 1 and would pass for a label."""
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


Label = Annotated[Literal[0, 1, 2, 3], BeforeValidator(whole_number)]


class Item(BaseModel):
    """An entry of an answer; strict types, while keys that nobody asked for are ignored."""

    model_config = ConfigDict(strict=True)


class Scene(Item):
    """One everyday situation; `title` becomes its scenario id and the `group` of its sentences."""

    title: str
    scene: str


class WrittenSentence(Item):
    scenario_id: str
    intended_label: Label
    sentence: str


class Judgement(Item):
    sentence_id: str
    label: Label


@dataclass(frozen=True)
class AnswerForm:
    """What an answer must look like: one JSON object whose only key `name` holds a list of `item`."""

    name: str
    item: type[Item]

    def json_schema(self) -> dict:
        """The form as a JSON schema in the subset that strict structured outputs accept."""
        entry = self.item.model_json_schema() | {"additionalProperties": False}
        return {
            "type": "object",
            "properties": {self.name: {"type": "array", "items": entry}},
            "required": [self.name],
            "additionalProperties": False,
        }

    def parse(self, content: str) -> list[Item]:
        """The valid entries of an answer.

        Text around the JSON object (a code fence, a preface, thoughts with braces) is tolerated; of several
        such objects the last counts. Raises BadAnswerError when there is none, it is cut off, or it has not
        the form's list or no valid entry.
        """
        starts = [match.start() for match in re.finditer(rf'\{{\s*"{self.name}"', content)]
        start = starts[-1] if starts else content.find("{")
        if start < 0:
            raise BadAnswerError("no JSON in the answer")
        try:
            answer, _ = json.JSONDecoder().raw_decode(content[start:])
        except json.JSONDecodeError:
            raise BadAnswerError("malformed or truncated JSON") from None
        entries = answer.get(self.name)
        if not isinstance(entries, list):
            raise BadAnswerError(f"no list {self.name!r} in the answer")
        items = []
        for entry in entries:
            try:
                items.append(self.item.model_validate(entry))
            except ValidationError:
                continue
        if not items:
            raise BadAnswerError(f"no valid entry in {self.name!r}")
        return items


SCENES = AnswerForm("scenes", Scene)
SENTENCES = AnswerForm("sentences", WrittenSentence)
JUDGEMENTS = AnswerForm("judgements", Judgement)
