"""`--neuronpedia` against a server on loopback: what is fetched, kept, shown, and what happens without it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import analyze_features
import pandas as pd
import pytest
from loopback_neuronpedia import KEY, feature_json, loopback_neuronpedia
from neuronpedia_pages import neuronpedia_api
from neuronpedia_pages.neuronpedia_api import retry_after_seconds
from neuronpedia_pages.page_address import FeaturePage, quick_list_urls
from neuronpedia_pages.page_content import kept_content

PAGE = "tiny/1-res/5"
NO_FILTERS = ["--min-pearson", "-1", "--min-tpr", "0", "--no-require-monotonic", "--top-n", "8"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """No key, no proxy, and waits that pass at once but are remembered."""
    monkeypatch.delenv("NEURONPEDIA_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(neuronpedia_api.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def server():
    with loopback_neuronpedia() as server:
        yield server


@pytest.fixture(scope="module")
def ranked(feature_folder, tmp_path_factory):
    """Two results: the features that pass the filters (one with a page), and eight unfiltered ones."""
    folder = tmp_path_factory.mktemp("s2")
    quick = ["--permutations", "50", "--bootstrap", "20", "--jobs", "2", "--input", str(feature_folder)]
    assert analyze_features.main([*quick, "--output", str(folder / "two_results")]) == 0
    assert analyze_features.main([*quick, *NO_FILTERS, "--output", str(folder / "eight_results")]) == 0
    return folder


@pytest.fixture
def two(ranked, tmp_path) -> Path:
    return shutil.copytree(ranked / "two_results", tmp_path / "two_results")


@pytest.fixture
def eight(ranked, tmp_path) -> Path:
    return shutil.copytree(ranked / "eight_results", tmp_path / "eight_results")


def fetch(results, address, *options) -> int:
    url = ["--neuronpedia", "--neuronpedia-url", address]
    return analyze_features.main(["--output", str(results), "--display-only", *url, *options])


def cache_of(results) -> dict:
    return json.loads((results / "neuronpedia.json").read_text(encoding="utf-8"))


def report_of(results) -> str:
    return (results / "report.html").read_text(encoding="utf-8")


def pages_of(results) -> list[str]:
    urls = pd.read_csv(results / "ranked_features.csv")["neuronpedia_url"].dropna()
    return [url.removeprefix("https://www.neuronpedia.org/") for url in urls]


def test_without_the_option_nothing_is_asked_and_the_report_embeds_nothing(ranked, server):
    assert analyze_features.main(["--output", str(ranked / "two_results"), "--display-only"]) == 0
    assert server.requests == []
    assert not (ranked / "two_results/neuronpedia.json").exists()
    report = report_of(ranked / "two_results")
    assert "data-src" not in report
    assert "<iframe" not in report


def test_an_analysis_with_the_option_fetches_the_features_with_a_page(
    feature_folder, tmp_path, server, capsys
):
    output = tmp_path / "planted_results"
    quick = ["--permutations", "50", "--bootstrap", "20", "--input", str(feature_folder)]
    options = ["--output", str(output), "--neuronpedia", "--neuronpedia-url", server.address + "/"]
    assert analyze_features.main([*quick, *options]) == 0
    assert server.paths() == [f"/api/feature/{PAGE}"]  # feature 7's SAE has no page
    cache = cache_of(output)
    assert list(cache["features"]) == [PAGE]
    page = cache["features"][PAGE]
    assert page["url"] == f"{server.address}/{PAGE}"
    assert [e["author_model"] for e in page["explanations"]] == ["gpt-4o-mini", None]
    assert page["explanations"][0]["description"] == "telling <b>untruths</b> & worse, number 5"
    assert [a["largest"] for a in page["activations"]] == [7.123, 1.5]  # strongest first, once
    assert page["activations"][0]["tokens"] == [f" t{i}" for i in range(8, 33)]
    assert page["activations"][0]["values"][12:14] == [7.123, 3.5]
    out = capsys.readouterr().out
    assert f"1 of 1 ranked features with a page are in {output / 'neuronpedia.json'}" in out
    assert out.splitlines()[-1].endswith(f"open {output / 'report.html'}")


def test_fetched_text_is_quoted_and_escaped_and_the_dashboard_waits_for_a_click(two, server):
    assert fetch(two, server.address) == 0
    report = report_of(two)
    assert "telling &lt;b&gt;untruths&lt;/b&gt; &amp; worse, number 5" in report
    assert "gpt-4o-mini, oai_token-act-pair" in report
    assert "no author model named" in report
    assert "<script>alert" not in report
    assert report.count("<script>") == 1
    (source,) = re.findall(r'data-src="([^"]+)"', report)
    assert html.unescape(source) == (
        f"{server.address}/{PAGE}?embed=true&embedexplanation=true&embedplots=true&embedtest=true"
    )
    assert not re.search(r"<(iframe|img|link|script)[^>]*(src|href)=", report)
    requests = len(server.requests)
    assert fetch(two, server.address) == 0  # cached
    assert len(server.requests) == requests
    assert report_of(two) == report


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def opened(page: str, folder: Path) -> str:
    """The page as headless Chromium has it two seconds after opening it."""
    file = folder / "opened.html"
    file.write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_opening_the_report_asks_no_network_and_the_button_shows_the_dashboard(two, server, tmp_path):
    assert fetch(two, server.address) == 0
    report = report_of(two)
    if CHROMIUM is None:  # without a browser: only a click makes a frame
        click = report[report.index("button.addEventListener") :]
        assert click.index('createElement("iframe")') < click.index("button.replaceWith(frame)")
        assert report.count("iframe") == 2  # its style, and there
        return
    n_fetched = len(server.requests)
    assert '<button type="button" class="dashboard" data-src="' in opened(report, tmp_path)
    assert len(server.requests) == n_fetched
    press = "<script>document.querySelector('button.dashboard').click()</script></body>"
    shown = opened(report.replace("</body>", press), tmp_path)
    assert re.search(r'<iframe loading="lazy" title="[^"]+" referrerpolicy="no-referrer" src="http', shown)
    asked = f"/{PAGE}?embed=true&embedexplanation=true&embedplots=true&embedtest=true"
    assert asked in server.paths()[n_fetched:]


def test_quick_lists_name_all_features_with_a_page(eight, server):
    assert fetch(eight, server.address) == 0
    cache = cache_of(eight)
    assert set(cache["features"]) == set(pages_of(eight))
    (url,) = cache["quick_lists"]
    assert html.escape(url) in report_of(eight)
    assert urlsplit(url).path == "/quick-list/"
    query = parse_qs(urlsplit(url).query)
    assert query["name"] == [f"planted: {len(pages_of(eight))} ranked features"]
    listed = json.loads(query["features"][0])
    assert [f"{f['modelId']}/{f['layer']}/{f['index']}" for f in listed] == pages_of(eight)
    assert all(isinstance(feature["index"], str) for feature in listed)


def test_a_later_analysis_shows_what_is_cached_and_lists_its_own_features(
    feature_folder, eight, server, monkeypatch
):
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    assert fetch(eight, server.address) == 0
    n_asked = len(server.requests)
    again = [
        "--input",
        str(feature_folder),
        "--output",
        str(eight),
        "--permutations",
        "50",
        "--bootstrap",
        "20",
    ]
    assert analyze_features.main(again) == 0
    assert len(server.requests) == n_asked
    report = report_of(eight)
    assert "untruths" in report
    (url,) = re.findall(r'href="([^"]+/quick-list/[^"]+)"', report)
    listed = json.loads(parse_qs(urlsplit(html.unescape(url)).query)["features"][0])
    assert [feature["index"] for feature in listed] == ["5"]
    assert "your list" not in report  # it is of the features ranked before


def test_a_quick_list_holds_150_features_at_most():
    pages = [FeaturePage("m", "0-res", i) for i in range(301)]
    urls = quick_list_urls("https://a.example", "a & b", pages)
    listed = [json.loads(parse_qs(urlsplit(url).query)["features"][0]) for url in urls]
    assert [len(part) for part in listed] == [150, 150, 1]
    assert [int(f["index"]) for part in listed for f in part] == list(range(301))
    assert parse_qs(urlsplit(urls[0]).query)["name"] == ["a & b"]


def test_with_a_key_a_list_of_ones_own_is_made_once_and_the_key_goes_nowhere(
    eight, server, monkeypatch, capfd
):
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    for _ in range(2):
        assert fetch(eight, server.address) == 0
    posts = [request for request in server.requests if request.method == "POST"]
    assert [post.key for post in posts] == [KEY]
    assert [f"{f['modelId']}/{f['layer']}/{f['index']}" for f in posts[0].body["features"]] == pages_of(eight)
    assert {request.key for request in server.requests if request.method == "GET"} == {None}
    assert f'<a href="{server.address}/list/1">your list' in report_of(eight)
    said = "".join(capfd.readouterr())
    assert f"your list {server.address}/list/1" in said
    everything = said + "".join(path.read_text() for path in eight.iterdir() if path.is_file())
    assert KEY not in everything


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, "refuses NEURONPEDIA_API_KEY (HTTP 401)"),
        ((308, {"Location": "http://127.0.0.1:9/elsewhere"}), "redirects (HTTP 308)"),
        (400, "HTTP 400"),
        ('{"url": "javascript:alert(1)"}', "an answer without its address"),
    ],
)
def test_a_list_that_cannot_be_made_is_named_without_the_key(two, server, monkeypatch, capfd, fault, message):
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    server.fault = lambda request: fault if request.method == "POST" else None
    assert fetch(two, server.address) == 0
    out, err = capfd.readouterr()
    assert message in err
    assert KEY not in out + err + report_of(two) + (two / "neuronpedia.json").read_text()
    assert cache_of(two)["own_list"] is None
    assert "javascript:" not in report_of(two)
    assert "untruths" in report_of(two)


def test_a_key_that_no_header_takes_is_refused_without_being_shown(two, server, monkeypatch, capsys):
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "secret\nkey")
    assert fetch(two, server.address) == 2
    error = capsys.readouterr().err
    assert "NEURONPEDIA_API_KEY holds characters that no key has" in error
    assert "secret" not in error


# Failures


def test_a_rate_limit_is_waited_out_as_asked(two, server, waits):
    answers = iter([(429, {"Retry-After": "7"}), (503, {}), 429])
    server.fault = lambda request: next(answers, None)
    assert fetch(two, server.address) == 0
    assert waits == [7.0, 2.0, 4.0]
    assert list(cache_of(two)["features"]) == [PAGE]
    assert cache_of(two)["failure"] is None


@pytest.mark.parametrize(
    ("fault", "n_requests", "message"),
    [
        (429, 5, "HTTP 429, also after 4 retries"),
        ((429, {"Retry-After": "3000"}), 1, "HTTP 429, it asks to wait 3000 s"),
        (500, 5, "HTTP 500, also after 4 retries"),
        ("<html>", 5, "an answer that is no JSON, also after 4 retries"),
        (403, 1, "HTTP 403"),
    ],
)
def test_a_server_that_fails_is_asked_no_further_and_the_report_is_whole(
    eight, server, waits, capsys, fault, n_requests, message
):
    pages = pages_of(eight)
    assert len(pages) > 2
    server.fault = lambda request: None if request.path.endswith(pages[0]) else fault
    assert fetch(eight, server.address) == 0
    assert len(server.requests) == 1 + n_requests
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert error == [f"note: {server.address}: {message}; the same command asks for the rest"]
    report = report_of(eight)
    assert f"<strong>Neuronpedia was not fetched in full.</strong> {server.address}: {message}." in report
    assert report.count('data-src="') == 1  # what came before the failure is shown
    assert "What they respond to" in report
    assert report.rstrip().endswith("</html>")
    server.fault = lambda request: None
    assert fetch(eight, server.address) == 0
    assert server.paths()[1 + n_requests :] == [f"/api/feature/{page}" for page in pages[1:]]
    assert "not fetched in full" not in report_of(eight)


def test_no_server_at_all_costs_a_line(two, waits, capsys):
    with loopback_neuronpedia() as closed:
        pass
    closed.server_close()
    before = report_of(two)
    assert fetch(two, closed.address) == 0
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(error) == 1
    assert f"{closed.address}: the connection fails" in error[0]
    assert len(waits) == 4
    assert before.replace("<!--notes page--><!--/notes-->", "") in re.sub(
        r"<!--notes page-->.*?<!--/notes-->", "", report_of(two), flags=re.DOTALL
    )


def test_a_feature_that_is_not_there_is_named_and_left_out_of_the_lists(eight, server):
    pages = pages_of(eight)
    server.missing = {pages[1]}
    assert fetch(eight, server.address) == 0
    cache = cache_of(eight)
    assert cache["not_found"] == [pages[1]]
    assert set(cache["features"]) == set(pages) - {pages[1]}
    assert len(json.loads(parse_qs(urlsplit(cache["quick_lists"][0]).query)["features"][0])) == len(pages) - 1
    assert f"Not found there: {pages[1]}." in report_of(eight)


@pytest.mark.parametrize(
    "change",
    [
        {"explanations": [{"description": 5}]},
        {"activations": [{"tokens": ["a"], "values": ["x"], "maxValue": 1, "maxValueTokenIndex": 0}]},
        {"activations": {"a": 1}},
    ],
)
def test_an_answer_in_another_form_is_named(two, server, capsys, change):
    server.feature = lambda *names: feature_json(*names) | change
    assert fetch(two, server.address) == 0
    assert f"an answer about {PAGE} in a form that is not known" in capsys.readouterr().err
    assert cache_of(two)["features"] == {}


def test_a_feature_without_explanations_says_so(two, server):
    server.feature = lambda *names: feature_json(*names) | {"explanations": [], "activations": None}
    assert fetch(two, server.address) == 0
    assert "Nobody has explained it there." in report_of(two)


def test_what_is_kept_is_bounded():
    answer = feature_json("m", "s", "1")
    answer["explanations"] = [{"description": "x" * 5000}] * 30
    answer["activations"] = [
        {"tokens": [str(i)] * 300, "values": [1.0] * 300, "maxValue": i, "maxValueTokenIndex": 299}
        for i in range(50)
    ]
    kept = kept_content(answer)
    assert [len(e["description"]) for e in kept["explanations"]] == [600] * 10
    assert [a["largest"] for a in kept["activations"]] == [49, 48, 47, 46, 45]
    assert {len(a["tokens"]) for a in kept["activations"]} == {13}


def test_features_without_pages_ask_nothing(two, server, capsys):
    table = pd.read_csv(two / "ranked_features.csv")
    table["neuronpedia_url"] = float("nan")
    table.to_csv(two / "ranked_features.csv", index=False)
    assert fetch(two, server.address) == 0
    assert server.requests == []
    assert "no ranked feature has a page on Neuronpedia" in capsys.readouterr().out


def test_a_cache_of_another_server_is_not_used(two, server):
    assert fetch(two, server.address) == 0
    with loopback_neuronpedia() as other:
        assert fetch(two, other.address) == 0
        assert other.paths() == [f"/api/feature/{PAGE}"]
        assert cache_of(two)["features"][PAGE]["url"] == f"{other.address}/{PAGE}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 2}', '{"format_version": 1}'])
def test_a_cache_that_is_none_is_named(two, server, capsys, text):
    (two / "neuronpedia.json").write_text(text)
    assert fetch(two, server.address) == 2
    error = capsys.readouterr().err
    assert "neuronpedia.json is no cache of format 1; delete it" in error
    assert (two / "neuronpedia.json").read_text() == text


@pytest.mark.parametrize(
    "address", ["www.neuronpedia.org", "ftp://a", "http://", "http://u:p@a", "http://a?b", "http://a:x"]
)
def test_an_address_that_is_none_is_refused(two, address, capsys):
    with pytest.raises(SystemExit) as stopped:
        fetch(two, address)
    assert stopped.value.code == 2
    assert "expected the address of a server" in capsys.readouterr().err


def test_waits_are_read_from_seconds_and_dates():
    assert retry_after_seconds({"Retry-After": "12"}) == 12
    assert retry_after_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_seconds({"Retry-After": "soon"}) is None
    assert retry_after_seconds({}) is None


# The nearest canonical feature, which s1 computes


def test_the_nearest_canonical_feature_is_shown_as_nearest_with_its_cosine(two, server):
    url = "https://www.neuronpedia.org/tiny/1-res/9"
    (two / "nearest_canonical.csv").write_text(
        "layer,average_l0,feature_id,nearest_average_l0,nearest_feature_id,cosine,neuronpedia_url\n"
        f"1,16,7,8,9,0.8312,{url}\n1,8,5,8,1,0.5,https://www.neuronpedia.org/tiny/1-res/1\n"
    )
    assert fetch(two, server.address) == 0
    report = report_of(two)
    assert f'<a href="{url}">layer 1, L0 8, feature 9&nbsp;↗</a>, decoder cosine 0.83.' in report
    assert report.count("Nearest canonical feature, not the same one") == 1  # feature 5 has a page of its own
    assert server.paths() == [f"/api/feature/{PAGE}"]


def test_a_table_of_nearest_features_that_lacks_a_column_is_named(two, server, capsys):
    (two / "nearest_canonical.csv").write_text("layer,average_l0,feature_id\n1,16,7\n")
    assert fetch(two, server.address) == 2
    assert "nearest_canonical.csv has no column nearest_average_l0" in capsys.readouterr().err
