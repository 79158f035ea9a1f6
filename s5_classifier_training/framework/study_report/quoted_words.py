"""What others say in words of stage 2's features: Neuronpedia's explanations, and those that it asked for."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from experiments.experiment_folder import read_record
from twins_s5.provenance import sha256_of
from twins_s5.ranking_folder import IDENTIFYING

FETCHED, ASKED = "neuronpedia.json", "explanations.json"


@dataclass(frozen=True)
class Quote:
    """Somebody's words, and who said them; either may say anything."""

    text: str
    author: str


@dataclass(frozen=True)
class QuotedWords:
    """Quotes by the path of a feature's Neuronpedia page, and by its place: layer, average L0, id."""

    by_page: dict[str, list[Quote]] = field(default_factory=dict)
    by_place: dict[tuple, Quote] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def of(self, feature: dict) -> list[Quote]:
        """All that is said of one row of a ranking."""
        page = urlsplit(feature.get("neuronpedia_url") or "").path.strip("/")
        own = self.by_place.get(tuple(feature[key] for key in IDENTIFYING))
        return self.by_page.get(page, []) + ([own] if own else [])


def read_quoted_words(results: Path, run: dict) -> QuotedWords:
    """Read the two files beside a ranking, those that are there and, for explanations, are of this ranking.

    Raises ValueError for a file in another format.
    """
    fetched, asked = _content(results / FETCHED), _content(results / ASKED)
    try:
        return QuotedWords(
            by_page={key: _quotes(page) for key, page in (fetched or {"features": {}})["features"].items()},
            by_place=_explanations(asked) if asked and _is_of(asked, results, run) else {},
            files=tuple(results / name for name in (FETCHED, ASKED) if (results / name).is_file()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{results}: {FETCHED} or {ASKED} lacks {error}; delete it or make it again"
        ) from None


def _content(path: Path) -> dict | None:
    return read_record(path, "delete it or make it again") if path.is_file() else None


def _quotes(page: dict) -> list[Quote]:
    return [
        Quote(said["description"], f"{said['author_model'] or 'no author named'}, on Neuronpedia")
        for said in page["explanations"]
    ]


def _is_of(asked: dict, results: Path, run: dict) -> bool:
    """Whether the explanations are of these sentences, this model and this split."""
    inputs = {key: run["features_run"][key] for key in ("input_sha256", "model")}
    return asked["inputs"] == inputs | {"pool": run["pool"], "split_sha256": sha256_of(results / "split.csv")}


def _explanations(asked: dict) -> dict[tuple, Quote]:
    quotes = {}
    for entry in asked["explanations"]:
        if not entry["explanation"]:
            continue
        score, author = entry["score"], asked["model"]
        if score:
            author += (
                "; on held-out sentences it tells where the feature fires with balanced accuracy "
                f"{score['balanced_accuracy']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
            )
        quotes[tuple(entry[key] for key in IDENTIFYING)] = Quote(entry["explanation"], author)
    return quotes
