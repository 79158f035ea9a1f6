"""What others say of the ranked features, put into a finished report from the files beside it.

`neuronpedia.json` (analyze_features.py --neuronpedia), `nearest_canonical.csv` (s1's
find_nearest_canonical.py) and `explanations.json` (explain_features.py) come after the ranking, each when its
command is run. The report therefore has places for notes, filled anew every time.
"""

import re
from pathlib import Path

from feature_explanations.explanation_files import read_explanations
from neuronpedia_pages.page_address import FeaturePage, dashboard_url
from neuronpedia_pages.page_cache import read_cache
from twins_s2.atomic_files import write_text
from twins_s2.feature_folder import read_table, required_file

from .report_templates import report_templates

ANALYZE = "run analyze_features.py without --display-only"
IDENTIFYING = ["layer", "average_l0", "feature_id"]
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


def rendered_notes(results: Path) -> dict[str, str]:
    """HTML for the places that have something: a feature's by its rank, the page's under `page`."""
    ranked = read_table(required_file(results, "ranked_features.csv", ANALYZE), ANALYZE)
    cache, explanations = read_cache(results), read_explanations(results)
    neighbours = read_neighbours(results)
    environment = report_templates()
    feature_template = environment.get_template("report_feature_note.html")
    notes = {}
    for row in ranked.itertuples():
        place = row.layer, row.average_l0, row.feature_id
        has_page = isinstance(row.neuronpedia_url, str)
        page = cache and has_page and cache["features"].get(FeaturePage.of_url(row.neuronpedia_url).key)
        said = {
            "page": page or None,
            "dashboard": dashboard_url(page["url"]) if page else None,
            "neighbour": None if has_page else neighbours.get(place),
            "own": explanations["by_feature"].get(place) if explanations else None,
        }
        if any(said.values()):
            notes[str(row.rank)] = feature_template.render(said)
    if len(ranked) and (cache or explanations):
        with_page = [FeaturePage.of_url(url).key for url in ranked["neuronpedia_url"].dropna()]
        notes["page"] = environment.get_template("report_page_note.html").render(
            cache=cache,
            explanations=explanations,
            n_with_page=len(with_page),
            n_known=sum(key in cache["features"] for key in with_page) if cache else 0,
        )
    return notes


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
