"""neuronpedia.json beside a ranking: what was fetched about its features, and what could not be."""

import datetime
import os
import sys
from pathlib import Path

from pydantic import ValidationError
from ranking_results.side_files import read_side_file
from twins_s2.atomic_files import write_json
from twins_s2.feature_folder import read_run, read_table, required_file
from twins_s2.folder_lock import only_writer
from twins_s2.progress import progress

from .neuronpedia_api import NeuronpediaError, NeuronpediaServer, NoSuchPageError
from .page_address import FeaturePage, quick_list_urls
from .page_content import kept_content

CACHE = "neuronpedia.json"
FORMAT_VERSION = 1
KEYS = {"address", "features", "own_list", "not_found", "failure", "quick_lists"}
KEY_VARIABLE = "NEURONPEDIA_API_KEY"
ANALYZE = "run analyze_features.py without --display-only"


def read_cache(results: Path) -> dict | None:
    """The content of neuronpedia.json, None where there is none; ValueError where it is none of ours."""
    complaint = f"is no cache of format {FORMAT_VERSION}; delete it, and fetch it again"
    return read_side_file(results / CACHE, FORMAT_VERSION, KEYS, complaint)


def server_at(address: str) -> NeuronpediaServer:
    """The server, with the key of the environment if there is one; ValueError for what can be no key."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"{KEY_VARIABLE} holds characters that no key has; copy the key again")
    return NeuronpediaServer(address, key or None)


def fetch_pages(results: Path, server: NeuronpediaServer) -> str:
    """Fetch into neuronpedia.json what it lacks about the ranked features; a line that says what is there.

    What the server does not give is named in the file and on standard error, and asked for again next time.
    """
    record = read_run(results, ANALYZE)
    ranked = read_table(required_file(results, "ranked_features.csv", ANALYZE), ANALYZE)
    pages = [FeaturePage.of_url(url) for url in ranked["neuronpedia_url"].dropna()]
    if not pages:
        return "no ranked feature has a page on Neuronpedia, so nothing was asked there"
    with only_writer(results / ".lock", str(results)):
        cache = kept_cache(results, server.address)
        try:
            fetch_missing(cache, pages, server)
            make_lists(cache, pages, server, record)
        finally:
            write_json(results / CACHE, cache)
    if cache["failure"]:
        print(f"note: {cache['failure']}; the same command asks for the rest", file=sys.stderr)
    n_known = sum(page.key in cache["features"] for page in pages)
    own_list = own_list_url(cache, existing_pages(cache, pages))
    own = f"; your list {own_list}" if own_list else ""
    return f"Neuronpedia: {n_known} of {len(pages)} ranked features with a page are in {results / CACHE}{own}"


def kept_cache(results: Path, address: str) -> dict:
    """The cache as it is, or an empty one where there is none from this address."""
    cache = read_cache(results)
    if cache is None or cache["address"] != address:
        cache = {"format_version": FORMAT_VERSION, "address": address, "features": {}, "own_list": None}
    return cache | {"not_found": [], "failure": None, "quick_lists": []}


def fetch_missing(cache: dict, pages: list[FeaturePage], server: NeuronpediaServer) -> None:
    """Ask for every feature that the cache lacks, until the server fails."""
    missing = [page for page in pages if page.key not in cache["features"]]
    with progress(len(missing), "feature", "Neuronpedia") as bar:
        for page in missing:
            try:
                content = kept_content(server.feature(page))
            except NoSuchPageError:
                cache["not_found"].append(page.key)
            except ValidationError:
                cache["failure"] = f"{server.address}: an answer about {page.key} in a form that is not known"
            except NeuronpediaError as error:
                cache["failure"] = str(error)
                return
            else:
                today = datetime.datetime.now(datetime.UTC).date().isoformat()
                cache["features"][page.key] = {"url": page.url(server.address), "fetched": today, **content}
            bar.update()


def make_lists(cache: dict, pages: list[FeaturePage], server: NeuronpediaServer, record: dict) -> None:
    """Quick lists of the pages that exist and, with a key, a list of one's own unless it was made before."""
    existing = existing_pages(cache, pages)
    name = list_name(record, existing)
    cache["quick_lists"] = quick_list_urls(server.address, name, existing)
    if server.key is None or own_list_url(cache, existing) or cache["failure"] or not existing:
        return
    try:
        url = server.new_list(name, "Features that follow the trait's strength, best first.", existing)
        cache["own_list"] = {"url": url, "features": [page.key for page in existing]}
    except (NeuronpediaError, NoSuchPageError) as error:
        cache["failure"] = str(error)


def existing_pages(cache: dict, pages: list[FeaturePage]) -> list[FeaturePage]:
    """Those that the server did not say it lacks; a list that names one of these is no list at all."""
    return [page for page in pages if page.key not in cache["not_found"]]


def list_name(record: dict, pages: list[FeaturePage]) -> str:
    return f"{record['trait'].replace('_', ' ')}: {len(pages)} ranked features"


def own_list_url(cache: dict, pages: list[FeaturePage]) -> str | None:
    """The list in one's account, if one of just these features was made."""
    own = cache["own_list"]
    return own["url"] if own and own["features"] == [page.key for page in pages] else None
