"""`trajectories.html`: complete in itself, right in what it holds, and working in a browser.

The page is driven in headless Chromium where it is installed; elsewhere the same expectations are held
against the page's text and data.
"""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawing_inputs.drawn_run import DrawnRun
from drawing_inputs.feature import Feature
from drawing_inputs.quoted_pages import read_quoted_pages
from drawings.trajectory_page import build_page, page_data
from twins_s3.feature_folder import FeatureFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TOKENS = [["She", " lied", " $5", "</script><b>", "\n"], ["שקר", " 見", " 😀"], [" plain"], [" only", " one"]]
LABELS = [3, 2, 0, 1]
FEATURES = [
    Feature(1, 8, 5, 1, 0.9, "https://www.neuronpedia.org/tiny/1-res/5"),
    Feature(2, 16, 7, 2, 0.5),
    Feature(2, 16, 9),
]
# Feature 0 fires in sentences 0 and 3, feature 1 in sentences 0 and 1, feature 2 never.
ACTIVATIONS = np.array(
    [[0, 2, 0, 0, 8, 0, 0, 0, 0, 4, 4], [3, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0], [0] * 11], np.float32
).T  # [11, 3]


OFFSETS = np.concatenate([[0], np.cumsum([len(tokens) for tokens in TOKENS])])


def drawn_run() -> DrawnRun:
    s1 = FeatureFolder(
        folder=Path("s1"),
        run={"model": "tiny <model>"},
        sentences=pd.DataFrame({"sentence": ["".join(tokens) for tokens in TOKENS]}),
        labels=np.array(LABELS),
        groups=np.arange(4),
        sentence_offsets=OFFSETS,
        tokens=np.array([token for sentence in TOKENS for token in sentence]),
    )
    return DrawnRun(s1, FEATURES, ACTIVATIONS, None, np.zeros(4, bool), {})


@pytest.fixture(scope="module")
def page() -> str:
    return build_page(drawn_run(), np.arange(4))


class Document(HTMLParser):
    """The elements of a page, each with its attributes, and the text of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.parents: list[list[str]] = []
        self.scripts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.parents.append(list(self.open))
        if tag not in {"meta", "link", "input", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            kind = self.elements[-1][1].get("type", "code")
            self.scripts[kind] = self.scripts.get(kind, "") + text


def test_page_asks_for_nothing_from_the_network(page):
    document = Document(page)
    assert not document.open  # all elements are closed
    for tag, attributes in document.elements:
        assert not attributes.get("src"), tag
        assert attributes.get("href", "data:,") == "data:,", tag
    policy = [a["content"] for t, a in document.elements if t == "meta" and "http-equiv" in a]
    assert len(policy) == 1
    assert policy[0].startswith("default-src 'none'")
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(", page)


def test_page_can_be_used_with_a_keyboard_and_a_reader(page):
    document = Document(page)
    ids = {a["id"] for _, a in document.elements if "id" in a}
    for (tag, attributes), parents in zip(document.elements, document.parents):
        if tag in {"select", "input"}:
            assert "label" in parents, f"{attributes} has no label"
        if tag == "button" and attributes["id"] != "more":
            assert attributes.get("aria-label")
    assert ("html", {"lang": "en"}) in document.elements
    assert any(
        a.get("name") == "viewport" and "width=device-width" in a["content"] for _, a in document.elements
    )
    assert any("aria-live" in a for _, a in document.elements)
    code = document.scripts["code"]
    asked = set(re.findall(r'byId\("(\w+)"\)', code)) | {"data"}
    assert asked <= ids
    assert {"feature", "label", "order", "firing", "find"} <= asked


def test_page_holds_the_activations(page):
    data = json.loads(Document(page).scripts["application/json"])
    assert [s["tokens"] for s in data["sentences"]] == TOKENS  # "</script>" among them
    assert [s["label"] for s in data["sentences"]] == LABELS
    assert [s["index"] for s in data["sentences"]] == [0, 1, 2, 3]
    for feature, expected in zip(data["features"], ACTIVATIONS.T):
        dense = np.zeros(11)
        dense[feature["at"]] = feature["values"]
        np.testing.assert_array_equal(dense, expected)
        assert feature["largest"] == expected.max()
    assert [f["url"] for f in data["features"]] == [f.neuronpedia_url for f in FEATURES]
    assert "tiny &lt;model&gt;" in page


def test_page_shows_the_sentences_asked_for_at_the_scale_of_the_run():
    data = page_data(drawn_run(), np.array([3, 1]))
    assert [s["index"] for s in data["sentences"]] == [3, 1]
    assert (data["features"][0]["at"], data["features"][0]["values"]) == ([0, 1], [4, 4])
    assert data["features"][0]["largest"] == 8  # of a sentence that is not on the page


DRIVER = """
<script>
{  // a scope of its own beside the page's names
const report = { errors: window.seenErrors };
const choose = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("change")); };
const all = () => [...document.querySelectorAll(".tokens")];
const indexOf = p => data.sentences[p.dataset.sentence].index;
const shade = span => Number((span.style.backgroundColor.match(/\\* ([0-9.]+)/) || [0, 0])[1]);
const shades = () => Object.fromEntries(all().map(p => [indexOf(p), [...p.children].map(shade)]));
const shown = () => all().map(indexOf);
report.first = shades();
report.background = getComputedStyle(document.querySelector(".peak")).backgroundColor;
report.links = [...document.querySelectorAll("main a")].map(a => a.href);
report.byPeak = shown();
byId("next").click();
report.second = shades();
report.linksOfSecond = [...document.querySelectorAll("main a")].length;
report.hash = location.hash;
byId("firing").click();
report.firing = shown();
byId("firing").click();
choose("label", "2");
report.labelTwo = shown();
choose("label", "all");
byId("find").value = "LIED";
byId("find").dispatchEvent(new Event("input"));
report.found = shown();
byId("find").value = "";
choose("order", "given");
report.given = shown();
const tokens = document.querySelector(".tokens");
tokens.focus();
report.focused = document.activeElement === tokens;
for (const key of ["End", "ArrowLeft", "Home"]) {
  tokens.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
}
report.current = tokens.querySelector(".current").textContent;
report.spoken = byId("spoken").textContent;
report.tip = [byId("tip").hidden, byId("tip").textContent];
tokens.children[4].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
report.hover = byId("tip").textContent;
document.querySelector(".head button").click();
report.lines = document.querySelectorAll(".chart polyline").length;
report.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
choose("feature", "2:16:9");
report.silent = [shades()[0], byId("summary").textContent];
document.body.dataset.report = JSON.stringify(report);
}
</script>
</body>
"""


def drive(page: str, folder: Path, driver: str = DRIVER) -> dict:
    """Open the page in Chromium, use it as `driver` says, and return what was seen."""
    catch = (
        "<script>window.seenErrors = [];"
        "addEventListener('error', e => { seenErrors.push(e.message); document.title = e.message; });"
        "addEventListener('securitypolicyviolation', e => seenErrors.push(e.violatedDirective));"
        "console.error = console.warn = (...a) => seenErrors.push(a.join(' '));</script><title>"
    )
    path = folder / "driven.html"
    path.write_text(page.replace("<title>", catch, 1).replace("</body>", driver, 1), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=360,700", "--dump-dom"]
    run = subprocess.run(
        [*command, f"--user-data-dir={folder / 'profile'}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    report = re.search(r'<body data-report="([^"]*)"', run.stdout)
    assert report, f"the page did not get through: {re.findall('<title>.*</title>', run.stdout)}"
    return json.loads(html.unescape(report[1]))


def expected_shades(feature: int) -> dict[str, list[float]]:
    relative = ACTIVATIONS[:, feature] / ACTIVATIONS[:, feature].max()
    parts = np.split(relative, OFFSETS[1:-1])
    return {str(index): np.round(part, 3).tolist() for index, part in enumerate(parts)}


def test_selector_changes_the_shading(page, tmp_path):
    if CHROMIUM is None:
        # Without a browser: the data give the expected shades, and the script sets them from the data.
        data = json.loads(Document(page).scripts["application/json"])
        starts = np.cumsum([0, *(len(tokens) for tokens in TOKENS)])[:-1]
        for i in (0, 1):
            feature = data["features"][i]
            relative = np.zeros(11)
            relative[feature["at"]] = np.array(feature["values"]) / feature["largest"]
            parts = np.split(np.round(relative, 3), starts[1:])
            assert {str(s["index"]): p.tolist() for s, p in zip(data["sentences"], parts)} == expected_shades(
                i
            )
        code = Document(page).scripts["code"]
        assert 'for (const id of ["feature", "label", "order", "firing"])' in code
        assert "backgroundColor = `rgb(var(--shade) / calc(var(--most) * ${(value / feature.unit)" in code
        options = [a["value"] for tag, a in Document(page).elements if tag == "option"]
        assert options[:3] == ["1:8:5", "2:16:7", "2:16:9"]
        return
    report = drive(page, tmp_path)
    assert report["errors"] == []
    assert report["first"] == expected_shades(0)
    assert report["second"] == expected_shades(1)
    assert report["background"].startswith(("rgb", "color"))
    assert report["background"] != "rgba(0, 0, 0, 0)"
    assert report["byPeak"] == [0, 3, 1, 2]
    assert report["links"] == [FEATURES[0].neuronpedia_url]
    assert report["linksOfSecond"] == 0
    assert report["hash"] == "#feature=2%3A16%3A7&label=all&order=peak"
    assert report["firing"] == [1, 0]
    assert report["labelTwo"] == [1]
    assert report["found"] == [0]
    assert report["given"] == [0, 1, 2, 3]
    assert report["focused"]
    assert report["current"] == "She"
    assert report["spoken"] == "“She”: 3 (50 % of the largest)"
    assert report["tip"] == [False, "“She”: 3 (50 % of the largest)"]
    assert report["hover"] == "“⏎”: 0layer 1, L0 8, feature 5: 8"
    assert report["lines"] == 3
    assert not report["wide"], "the page scrolls sideways on a narrow screen"
    assert report["silent"][0] == [0] * 5
    assert "never fires" in report["silent"][1]


# What s2 fetched from Neuronpedia


def write_cache(folder: Path, **changes) -> Path:
    said = [{"description": "</script><b>lies", "author_model": "gpt-4o-mini", "method": "x"}]
    said.append({"description": "untruth", "author_model": None, "method": None})
    page = {"url": "u", "fetched": "2026-01-01", "explanations": said, "activations": []}
    content = {"format_version": 1, "address": "http://127.0.0.1:9", "features": {"tiny/1-res/5": page}}
    (folder / "neuronpedia.json").write_text(json.dumps(content | changes))
    return folder


def test_neuronpedia_is_quoted_only_where_s2_fetched_it(page, tmp_path):
    assert read_quoted_pages(None) is None
    assert read_quoted_pages(tmp_path) is None
    assert "frame-src" not in page
    assert "dashboard" not in Document(page).scripts["application/json"]
    quoted = build_page(drawn_run(), np.arange(4), read_quoted_pages(write_cache(tmp_path)))
    document = Document(quoted)
    policy = next(a["content"] for tag, a in document.elements if a.get("http-equiv"))
    assert policy.endswith("img-src data:; frame-src http://127.0.0.1:9")
    assert not [tag for tag, _ in document.elements if tag in ("iframe", "b", "blockquote")]
    first, *others = json.loads(document.scripts["application/json"])["features"]
    assert first["dashboard"] == (
        "http://127.0.0.1:9/tiny/1-res/5?embed=true&embedexplanation=true&embedplots=true&embedtest=true"
    )
    assert first["quotes"] == [
        {"text": "</script><b>lies", "author": "gpt-4o-mini"},
        {"text": "untruth", "author": "no author model named"},
    ]
    assert not any("dashboard" in other for other in others)


QUOTE_DRIVER = """<script>
const frames = () => document.querySelectorAll("iframe");
const report = { before: frames().length };
report.quotes = [...document.querySelectorAll("blockquote p")].map(p => p.textContent);
byId("dashboard").click();
report.src = [...frames()].map(frame => frame.src);
byId("feature").selectedIndex = 1;
byId("feature").dispatchEvent(new Event("change"));
report.ofSecond = [frames().length, document.querySelectorAll("blockquote").length];
report.errors = seenErrors;
document.body.dataset.report = JSON.stringify(report);
</script>
</body>
"""


@pytest.mark.slow
def test_the_button_shows_the_dashboard(tmp_path):
    quoted = build_page(drawn_run(), np.arange(4), read_quoted_pages(write_cache(tmp_path)))
    if CHROMIUM is None:  # without a browser: a frame is made in one place, on a click
        code = Document(quoted).scripts["code"]
        assert code.count('element("iframe"') == 1
        assert code.index('button.addEventListener("click"') < code.index('element("iframe"')
        return
    report = drive(quoted, tmp_path, QUOTE_DRIVER)
    assert report["before"] == 0
    assert report["quotes"] == ["“</script><b>lies”", "“untruth”"]
    assert report["src"] == [
        "http://127.0.0.1:9/tiny/1-res/5?embed=true&embedexplanation=true&embedplots=true&embedtest=true"
    ]
    assert report["ofSecond"] == [0, 0]
    assert report["errors"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"address": "javascript:alert(1)//"},
        {"address": "http://a; script-src *"},
        {"features": {"tiny/1-res/5": {"explanations": [{}]}}},
        {"features": []},
    ],
)
def test_a_cache_that_is_none_of_s2_is_named(tmp_path, changes):
    with pytest.raises(ValueError, match=r"neuronpedia\.json cannot be read .* --neuronpedia"):
        read_quoted_pages(write_cache(tmp_path, **changes))
