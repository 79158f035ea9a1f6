"""What others say of the ranked features, put into a finished report from the files beside it.

`neuronpedia.json` (analyze_features.py --neuronpedia), `nearest_canonical.csv` (s1's
find_nearest_canonical.py) and `explanations.json` (explain_features.py) come after the ranking, each when its
command is run. The report therefore has places for notes, filled anew every time.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from feature_explanations.explanation_files import read_explanations
from neuronpedia_pages.page_address import FeaturePage, dashboard_url, quick_list_urls
from neuronpedia_pages.page_cache import existing_pages, list_name, own_list_url, read_cache
from twins_s2.atomic_files import write_text
from twins_s2.feature_folder import read_run, read_table, required_file
from twins_s2.ranking_folder import IDENTIFYING

from .report_templates import report_templates

ANALYZE = "run analyze_features.py without --display-only"
NEAREST = "nearest_canonical.csv"
NEAREST_COLUMNS = [*IDENTIFYING, "nearest_average_l0", "nearest_feature_id", "cosine", "neuronpedia_url"]
PLACE = re.compile(r"<!--notes (\w+)-->.*?<!--/notes-->", re.DOTALL)  # escaped text cannot hold one


def add_notes(results: Path) -> None:
    """Fill the places of report.html. Raises ValueError for a file beside it that cannot be read."""
    notes = rendered_notes(results)
    path = required_file(results, "report.html", ANALYZE)
    report = path.read_text(encoding="utf-8")
    if notes and not PLACE.search(report):
        raise ValueError(f"{path} has no place for notes; {ANALYZE}")
    filled = PLACE.sub(lambda place: f"<!--notes {place[1]}-->{notes.get(place[1], '')}<!--/notes-->", report)
    if filled != report:
        write_text(path, filled)


@dataclass(frozen=True)
class Words:
    """What the files beside a ranking say; None or empty where there is no such file."""

    cache: dict | None
    explanations: dict | None
    neighbours: dict[tuple[int, int, int], dict]

    @classmethod
    def beside(cls, results: Path) -> "Words":
        return cls(read_cache(results), read_explanations(results), read_neighbours(results))

    def of_feature(self, place: tuple[int, int, int], url: str | None) -> dict:
        """The variables of report_feature_note.html for one feature, whose Neuronpedia page is `url`."""
        page = self.cache["features"].get(FeaturePage.of_url(url).key) if self.cache and url else None
        return {
            "page": page,
            "dashboard": dashboard_url(page["url"]) if page else None,
            "neighbour": None if url else self.neighbours.get(place),
            "own": self.explanations["by_feature"].get(place) if self.explanations else None,
        }


def rendered_notes(results: Path) -> dict[str, str]:
    """HTML for the places that have something: a feature's by its rank, the page's under `page`."""
    ranked = read_table(required_file(results, "ranked_features.csv", ANALYZE), ANALYZE)
    urls = ranked["neuronpedia_url"].astype(object).where(ranked["neuronpedia_url"].notna(), None)
    words, environment = Words.beside(results), report_templates()
    places = ranked[list(IDENTIFYING)].itertuples(index=False, name=None)
    said = {str(rank): words.of_feature(*feature) for rank, *feature in zip(ranked["rank"], places, urls)}
    template = environment.get_template("report_feature_note.html")
    notes = {
        rank: template.render(of_feature) for rank, of_feature in said.items() if any(of_feature.values())
    }
    if said and (words.cache or words.explanations):
        pages = [FeaturePage.of_url(url) for url in urls.dropna()]
        record = read_run(results, ANALYZE)
        notes["page"] = environment.get_template("report_page_note.html").render(
            neuronpedia=neuronpedia_summary(words.cache, pages, record) if words.cache and pages else None,
            explanations=words.explanations,
            n_explained=sum(of_feature["own"] is not None for of_feature in said.values()),
        )
    return notes


def neuronpedia_summary(cache: dict, pages: list[FeaturePage], record: dict) -> dict:
    """What the page says of Neuronpedia as a whole; lists are of this ranking, whenever it was fetched."""
    existing = existing_pages(cache, pages)
    return {
        "quick_lists": quick_list_urls(cache["address"], list_name(record, existing), existing),
        "own_list": own_list_url(cache, existing),
        "n_with_page": len(pages),
        "n_known": sum(page.key in cache["features"] for page in pages),
        "not_found": cache["not_found"],
        "failure": cache["failure"],
    }


def read_neighbours(results: Path) -> dict[tuple[int, int, int], dict]:
    """The rows of nearest_canonical.csv by layer, L0 and feature; empty where there is no such file."""
    path = results / NEAREST
    if not path.is_file():
        return {}
    remedy = "delete it, or write it with s1's find_nearest_canonical.py"
    table = read_table(path, remedy)
    missing = [column for column in NEAREST_COLUMNS if column not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; {remedy}")
    return {tuple(row[name] for name in IDENTIFYING): row for row in table.to_dict("records")}
