"""Where a feature's Neuronpedia page lies, and the addresses made from it: dashboard and quick lists."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

NEURONPEDIA = "https://www.neuronpedia.org"
EMBEDDED = "embed=true&embedexplanation=true&embedplots=true&embedtest=true"
MOST_IN_QUICK_LIST = 150  # Neuronpedia answers "not found" to a longer one


@dataclass(frozen=True)
class FeaturePage:
    """One feature as Neuronpedia names it."""

    model_id: str
    source: str  # of the SAE, for example 20-gemmascope-res-16k
    index: int

    @classmethod
    def of_url(cls, url: str) -> "FeaturePage":
        """The page behind a `neuronpedia_url` of a ranking."""
        model_id, source, index = urlsplit(url).path.strip("/").split("/")
        return cls(model_id, source, int(index))

    @property
    def key(self) -> str:
        """Its name in neuronpedia.json."""
        return f"{self.model_id}/{self.source}/{self.index}"

    def url(self, address: str) -> str:
        return f"{address}/{quote(self.key)}"

    def named(self) -> dict[str, str]:
        """The feature in a list; the index is text there."""
        return {"modelId": self.model_id, "layer": self.source, "index": str(self.index)}


def dashboard_url(page_url: str) -> str:
    """What a frame shows of a page."""
    return f"{page_url}?{EMBEDDED}"


def quick_list_urls(address: str, name: str, pages: Sequence[FeaturePage]) -> list[str]:
    """Links that show these features one below the other, in their order, MOST_IN_QUICK_LIST each."""
    urls = []
    for start in range(0, len(pages), MOST_IN_QUICK_LIST):
        features = [page.named() for page in pages[start : start + MOST_IN_QUICK_LIST]]
        text = json.dumps(features, separators=(",", ":"))
        urls.append(f"{address}/quick-list/?name={quote(name, safe='')}&features={quote(text, safe=':,')}")
    return urls


def web_address(text: str) -> str:
    """An argparse type: the address of a server, without credentials, query or final slash."""
    try:
        parts = urlsplit(text)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        plain = False
    if not plain or "@" in parts.netloc or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"expected the address of a server, such as {NEURONPEDIA}")
    return text.rstrip("/")
