"""Builds `continuations.html`: what the steered model wrote, side by side by dose, in one file."""

import re
from itertools import takewhile
from pathlib import Path
from statistics import mean

import jinja2

from .steering_figures import name_of, place_of
from .steering_results import SteeringResults

WORD = re.compile(r"\s*\S+")
TEMPLATE = Path(__file__).with_name("continuations_template.html")


def build_continuation_page(results: SteeringResults) -> str:
    """Return the HTML of a page with every continuation; texts are escaped, they are a model's."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        trait=results.run.get("trait", ""),
        model=results.run["features_run"]["model"],
        judge=results.run.get("judge"),
        features=[feature_entry(results, finalist) for finalist in results.finalists],
    )


def feature_entry(results: SteeringResults, finalist: tuple[int, int, int]) -> dict:
    """A feature's name, slope, and its texts by prompt and decoding, each by rising dose."""
    own = [text for text in results.continuations if place(text) == finalist]
    chapters: dict[tuple[str, str], list[dict]] = {}
    for text in own:
        chapters.setdefault((text["prompt"], text["decoding"]), []).append(text)
    slope = results.slope_of(finalist)
    rated = [text for text in own if text.get("rating")]
    return {
        "id": "feature-" + "-".join(map(str, finalist)),
        "name": name_of(finalist),
        "place": place_of(results, finalist),
        "slope": float(slope["slope"]),
        "aspects": list(rated[0]["rating"]) if rated else [],
        "mean_ratings": mean_ratings(rated),
        "chapters": [
            {"prompt": prompt, "decoding": decoding, "texts": beside_unsteered(texts)}
            for (prompt, decoding), texts in chapters.items()
        ],
    }


def beside_unsteered(texts: list[dict]) -> list[dict]:
    """Texts by rising dose, each in two parts: words that the unsteered one begins with too, and the rest."""
    unsteered = next((text["text"] for text in texts if text["alpha"] == 0), "")
    parts = []
    for text in sorted(texts, key=lambda text: text["alpha"]):
        n_same = 0 if text["alpha"] == 0 else shared_start(unsteered, text["text"])
        parts.append(text | {"same": text["text"][:n_same].lstrip(), "own": text["text"][n_same:].strip()})
    return parts


def shared_start(first: str, second: str) -> int:
    """Characters of `second` up to the first word that differs from that of `first`."""
    pairs = zip(WORD.findall(first), WORD.findall(second))
    return sum(len(word) for other, word in takewhile(lambda pair: pair[0] == pair[1], pairs))


def mean_ratings(rated: list[dict]) -> list[dict]:
    """By rising dose: how many texts were rated, and the mean of each aspect."""
    doses = sorted({text["alpha"] for text in rated})
    of_doses = [(alpha, [text["rating"] for text in rated if text["alpha"] == alpha]) for alpha in doses]
    return [
        {"alpha": alpha, "n": len(ratings)} | {name: mean(r[name] for r in ratings) for name in ratings[0]}
        for alpha, ratings in of_doses
    ]


def place(text: dict) -> tuple[int, int, int]:
    return text["layer"], text["average_l0"], text["feature_id"]
