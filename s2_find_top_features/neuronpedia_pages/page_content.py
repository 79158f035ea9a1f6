"""What is kept of Neuronpedia's answer about a feature: explanations, and the strongest text, shortened."""

from pydantic import BaseModel, FiniteFloat, NonNegativeInt

MOST_EXPLANATIONS = 10
MOST_ACTIVATIONS = 5
CONTEXT_TOKENS = 12  # on either side of the strongest token
MOST_CHARACTERS = 600  # of an explanation


class FetchedExplanation(BaseModel):
    description: str
    explanationModelName: str | None = None
    typeName: str | None = None


class FetchedActivation(BaseModel):
    tokens: list[str]
    values: list[FiniteFloat]
    maxValue: FiniteFloat
    maxValueTokenIndex: NonNegativeInt


class FetchedFeature(BaseModel):
    """The part that is read of `GET /api/feature/{model}/{source}/{index}`."""

    explanations: list[FetchedExplanation] | None = None
    activations: list[FetchedActivation] | None = None


def kept_content(answer: object) -> dict:
    """`explanations` and `activations` of an answer; pydantic's ValidationError where it has another form."""
    feature = FetchedFeature.model_validate(answer)
    strongest = sorted(feature.activations or [], key=lambda activation: -activation.maxValue)
    excerpts: list[dict] = []
    for activation in strongest:  # the same text can be there several times
        excerpt = shortened(activation)
        if excerpt["tokens"] not in [other["tokens"] for other in excerpts]:
            excerpts.append(excerpt)
        if len(excerpts) == MOST_ACTIVATIONS:
            break
    return {
        "explanations": [
            {
                "description": explanation.description.strip()[:MOST_CHARACTERS],
                "author_model": explanation.explanationModelName,
                "method": explanation.typeName,
            }
            for explanation in (feature.explanations or [])[:MOST_EXPLANATIONS]
            if explanation.description.strip()
        ],
        "activations": excerpts,
    }


def shortened(activation: FetchedActivation) -> dict:
    """The tokens about the strongest one, with their values."""
    start = max(0, activation.maxValueTokenIndex - CONTEXT_TOKENS)
    window = slice(start, activation.maxValueTokenIndex + CONTEXT_TOKENS + 1)
    return {
        "largest": round(activation.maxValue, 3),
        "tokens": [token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ") for token in activation.tokens[window]],
        "values": [round(value, 3) for value in activation.values[window]],
    }
