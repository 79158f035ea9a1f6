"""What s2 fetched from Neuronpedia about its features (`analyze_features.py --neuronpedia`), if it did."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

CACHE = "neuronpedia.json"
FORMAT_VERSION = 1
SERVER = re.compile(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?", re.ASCII)
EMBEDDED = "embed=true&embedexplanation=true&embedplots=true&embedtest=true"


@dataclass(frozen=True)
class QuotedPage:
    """Others' explanations of a feature, and the address of its dashboard."""

    dashboard: str
    quotes: list[dict[str, str]]  # `text` and `author`, which may say anything


@dataclass(frozen=True)
class QuotedPages:
    """The pages of one Neuronpedia server."""

    origin: str  # scheme and host, which a page that frames them has to allow
    by_key: dict[str, QuotedPage]

    def of(self, neuronpedia_url: str) -> QuotedPage | None:
        """The page of a feature, None where it has none or it was not fetched."""
        return self.by_key.get(urlsplit(neuronpedia_url).path.strip("/"))


def read_quoted_pages(s2_results: Path | None) -> QuotedPages | None:
    """Read neuronpedia.json beside a ranking; None where it is not there. ValueError for a foreign one."""
    path = s2_results / CACHE if s2_results else None
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION or not SERVER.fullmatch(content["address"]):
            raise ValueError("not a cache of s2")
        pages = {
            key: QuotedPage(
                dashboard=f"{content['address']}/{key}?{EMBEDDED}",
                quotes=[
                    {"text": said["description"], "author": said["author_model"] or "no author model named"}
                    for said in page["explanations"]
                ],
            )
            for key, page in content["features"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); delete it, or fetch it again with s2's "
            "analyze_features.py --neuronpedia"
        ) from None
    address = urlsplit(content["address"])
    return QuotedPages(f"{address.scheme}://{address.netloc}", pages)
