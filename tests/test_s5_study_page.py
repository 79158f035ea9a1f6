"""The study page: its figures are those of the stages' files, and half a study gives half a page."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import analyze_features
import emergence
import generate_datasets
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import study_page
import train
from sklearn.metrics import roc_auc_score
from study_report.emergence_findings import OnsetDifference, _turned
from study_report.stage_runs import command_line
from study_report.strongest_sentences import pieces
from study_report.svg_canvas import LABEL_GAP, Canvas, Scale
from study_report.wording import number, ranges
from synthetic_features import SyntheticSae, write_feature_folder
from synthetic_steering import write_steering_folder

TRAITS = ("calm", "loud")
HOSTILE = "<script>alert(1)</script> & \"'"
SAES = (
    SyntheticSae(0, 8, neuronpedia_id="tiny/0-res"),
    SyntheticSae(1, 8, neuronpedia_id="tiny/1-res", planted={5: 4.0}, steering={5: 1.0}),
    SyntheticSae(1, 16, planted={7: 4.0}),
)
QUICK_EMERGENCE = ["--folds", 3, "--repeats", 1, "--permutations", 3, "--bootstrap", 100, "--jobs", 1]
VOID = {"meta", "link", "br", "line", "circle", "polygon", "polyline"}


class Page(HTMLParser):
    """A page's tables, links, ids and loads; fails on a tag that is closed where another one is open."""

    def __init__(self, path: Path):
        super().__init__()
        self.folder, self.text = path.parent, path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.values: list[float] = []  # of every <data>
        self.tables: list[list[list[float]]] = []  # the <data> values of each row of each table
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.loads: list[tuple[str, dict]] = []
        self.tags: set[str] = set()
        self.feed(self.text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [(tag, given)] if "src" in given or (tag == "link" and "href" in given) else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "data":
            self.values.append(float(given["value"]))
            if "table" in self.open:
                self.tables[-1][-1].append(float(given["value"]))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open = self.open if tag in VOID else self.open[:-1]

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> where {self.open[-1:]} is open"
        self.open.pop()

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", self.text.partition("</style>")[2]))

    def rows(self, caption: str) -> list[list[float]]:
        """The <data> values of the rows of the table whose caption holds these words."""
        captions = [found[1] for found in re.finditer(r"<caption>(.*?)</caption>", self.text, re.DOTALL)]
        (place,) = [k for k, text in enumerate(captions) if caption in re.sub(r"<[^>]*>", "", text)]
        return [row for row in self.tables[place] if row]


def run_quietly(*commands) -> None:
    for command, arguments in commands:
        assert command([str(word) for word in arguments]) == 0


def dataset_of(root: Path, name: str, stem: str, *request) -> Path:
    output = root / "s4" / f"{name}_{stem}.npz"
    features = root / "s1" / f"{name}_features"
    run_quietly((generate_datasets.main, ["--input", features, "--output", output, *request]))
    return output


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Two traits through stages 1, 2, 4 and 5, one with effects and with other people's sentences."""
    root = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(TRAITS):
        effects = {"effects": True, "text_kinds": True} if name == "calm" else {}
        write_feature_folder(
            root / f"s1/{name}_features", n_sentences=120, saes=SAES, seed=seed, n_layers=4, **effects
        )
    write_feature_folder(root / "s1/people_features", n_sentences=80, saes=SAES, seed=9, n_layers=4)
    quick = ["--permutations", 200, "--bootstrap", 200, "--jobs", 1]
    for name in TRAITS:
        extra = ["--transfer", root / "s1/people_features"] if name == "calm" else []
        folders = ["--input", root / f"s1/{name}_features", "--output", root / f"s2/{name}_results"]
        run_quietly((analyze_features.main, [*folders, *quick, *extra]))
    stacked = [
        dataset_of(root, name, "layers", "--strategy", "hidden-to-concept", "--layers", "all")
        for name in TRAITS
    ]
    run_quietly((emergence.main, [*stacked, *QUICK_EMERGENCE, "--output", root / "s5/emergence/both"]))
    working = root / "s5/d3_hidden_to_concept/working"
    working.mkdir(parents=True)
    config = {"dataset": str(stacked[0]), "task": "classification", "model": "logistic"}
    config |= {"bootstrap": 100, "shuffles": 2, "folds": 3}
    (working / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run_quietly((train.main, [working.parent, "--freeze", "calm"]))
    (root / "s3").mkdir()
    return root


@pytest.fixture
def copied(study, tmp_path) -> Path:
    shutil.copytree(study, tmp_path / "study")
    return tmp_path / "study"


def arguments_for(root: Path, *more) -> list[str]:
    places = {
        "--features": "s1",
        "--results": "s2",
        "--plots": "s3",
        "--experiments": "s5",
        "--emergence": "s5/emergence",
    }
    given = [word for option, folder in places.items() for word in (option, root / folder)]
    return [str(word) for word in (*given, "--output", root / "page/study.html", *more)]


def written(root: Path, *more) -> Page:
    assert study_page.main(arguments_for(root, *more)) == 0
    return Page(root / "page/study.html")


@pytest.fixture(scope="module")
def page(study) -> Page:
    return written(study)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def pooled_of(features: Path, row: pd.Series) -> np.ndarray:
    """The largest activation of a feature in each sentence, densely and by hand, [n]."""
    name = f"sae_activations/layer_{row['layer']}_l0_{row['average_l0']}.npz"
    column = scipy.sparse.load_npz(features / name).toarray()[:, row["feature_id"]]
    offsets = np.load(features / "tokens.npz")["sentence_offsets"]
    return np.array([column[start:end].max() for start, end in pairwise(offsets)])


def test_best_features_are_the_rows_of_the_csv(study, page):
    ranked = pd.read_csv(study / "s2/calm_results/ranked_features.csv").drop_duplicates("family_id").head(5)
    assert len(ranked) >= 2
    columns = ["auroc", "confirm_auroc", "confirm_auroc_low", "confirm_auroc_high", "confirm_spearman"]
    for kind in ("confirm_auroc_plain", "confirm_auroc_hard", "transfer_people_auroc"):
        columns += [kind, f"{kind}_low", f"{kind}_high"]
    columns += ["confirm_p", "confirm_steer_spearman", "steer_percentile"]
    shown = page.rows("Best features of calm")
    np.testing.assert_allclose(shown, ranked[columns].to_numpy(float))


def test_the_funnel_is_the_summary_of_stage_2(study, page):
    for name, counts in zip(TRAITS, re.findall(r'<ol class="funnel".*?</ol>', page.text, re.DOTALL)):
        summary = read_json(study / f"s2/{name}_results/run.json")["summary"]
        keys = ["n_features", "n_eligible", "n_significant_maxt", "n_passing", "n_ranked", "n_confirmed"]
        keys += ["n_steers", "n_both"] if name == "calm" else []
        found = [int(count) for count in re.findall(r'<data value="(\d+)">', counts)]
        assert found == [summary[key] for key in keys]


def test_onsets_and_probes_are_those_of_stage_5(study, page):
    content = read_json(study / "s5/emergence/both/emergence.json")
    for name, row in zip(TRAITS, page.rows("Landmarks.")):
        figures = content["traits"][name]["probes"]["logistic"]["kappa"]
        tfidf = content["traits"][name]["floors"]["tfidf"]["kappa"]["value"]
        marks = [figures["onset"], figures["half_maximum"], figures["peak"], figures["peak_value"], tfidf]
        np.testing.assert_allclose(row, marks)
    (difference,) = content["onset_differences"]
    assert page.rows("Which comes first?") == [[difference["layers_later"]]]
    results = read_json(study / "s5/d3_hidden_to_concept/v0_calm/results.json")
    for measure, row in zip(("kappa", "accuracy"), page.rows("Probes and baselines of calm")):
        probe = [results[f"test_{measure}{end}"] for end in ("", "_low", "_high")]
        names = ("tfidf", "diff_means", "length", "majority", "shuffled")
        baselines = [results["baselines"][name][f"test_{measure}"] for name in names]
        np.testing.assert_allclose(row, probe + baselines)


def test_the_matrix_is_what_scikit_learn_says_and_its_diagonal_what_stage_2_said(study, page):
    cells = np.array(page.rows("AUROC, label 3 against 0. Framed")).reshape(2, 2, 3)
    for k, own in enumerate(TRAITS):
        first = pd.read_csv(study / f"s2/{own}_results/ranked_features.csv").iloc[0]
        columns = ["confirm_auroc", "confirm_auroc_low", "confirm_auroc_high"]
        np.testing.assert_allclose(cells[k, k], first[columns].to_numpy(float))
        for j, other in enumerate(TRAITS):
            split = pd.read_csv(study / f"s2/{other}_results/split.csv")
            pooled = pooled_of(study / f"s1/{other}_features", first)
            judged = (split["part"] == "confirmation") & split["concept_strength_label"].isin((0, 3))
            labels = split["concept_strength_label"][judged] == 3
            assert cells[k, j, 0] == pytest.approx(roc_auc_score(labels, pooled[judged]))
            assert cells[k, j, 1] <= cells[k, j, 0] <= cells[k, j, 2]
    assert page.text.count('class="above') == 4  # the features are planted in both traits


def test_sentences_are_the_strongest_with_their_tokens_shaded(study, page):
    examples = read_json(study / "s2/calm_results/feature_examples.json")[0]["examples"]
    activations = sorted((e["activation"] for of_label in examples.values() for e in of_label), reverse=True)
    first = page.text.partition('class="sentences"')[2].partition("</ul>")[0]
    assert [float(a) for a in re.findall(r'<data value="([\d.]+)"', first)] == activations[:3]
    strongest = max((e for of_label in examples.values() for e in of_label), key=lambda e: e["activation"])
    assert f'title="{strongest["activation"]:.2f}' in first
    assert f">{strongest['peak_token'].strip()}</mark>" in first


def test_the_page_loads_nothing_and_its_links_lead_somewhere(page):
    assert page.loads == [("link", {"rel": "icon", "href": "data:,"})]
    assert not page.tags & {"script", "iframe", "img", "object", "embed"}
    assert "default-src 'none'" in page.text
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert len(page.text.encode()) < 200_000
    outside = [link for link in page.links if "://" in link]
    assert set(outside) <= {f"https://www.neuronpedia.org/tiny/1-res/{k}" for k in range(64)}
    assert outside
    for link in set(page.links) - set(outside):
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (page.folder / unquote(link)).exists(), link


def test_every_figure_is_described_and_every_table_is_captioned(page):
    svgs = re.findall(r"<svg[^>]*>", page.text)
    assert len(svgs) > 8
    assert all('role="img"' in svg and re.search(r'aria-label="[^"]{10,}"', svg) for svg in svgs)
    assert page.text.count("<table") == page.text.count("<caption>") == len(page.tables)
    assert page.text.count('tabindex="0"') == len(page.tables)  # scrolled with the keyboard
    assert re.findall(r"<h(\d)", page.text)[0] == "1"


def test_what_was_found_is_said_in_words(study, page):
    first = [
        pd.read_csv(study / f"s2/{name}_results/ranked_features.csv").iloc[0][["average_l0", "feature_id"]]
        for name in TRAITS
    ]
    same = "The first feature of calm and loud is the same one" in page.words
    assert same == (first[0].tolist() == first[1].tolist())
    assert same or "The first feature of calm also follows loud." in page.words
    assert re.search(r"Confirmed on held-out sentences: \d features of calm \(the first: AUROC", page.words)
    assert "On people, the first feature of calm reaches AUROC" in page.words
    summary = read_json(study / "s2/calm_results/run.json")["summary"]
    steer, ranked, both = (summary[key] for key in ("n_steers", "n_ranked", "n_both"))
    assert f"calm that steer, on held-out sentences: {steer} of {ranked}; that follow and steer: {both}." in (
        page.words
    )
    assert re.search(r"Onset: layer 1 \(calm and loud\)\.", page.words)


def test_what_is_missing_is_named_with_its_command(page):
    assert "loud, probe d3_hidden_to_concept: not run yet." in page.words
    assert "/train.py d3_hidden_to_concept --dataset " in page.words
    assert "/generated_datasets/loud_h0-5_to_concept.npz" in page.words
    assert "calm, steering: not run yet." in page.words  # it has effects


def test_commands_and_versions_are_those_of_the_records(study, page):
    assert f"python framework/train.py {study}/s5/d3_hidden_to_concept --freeze calm" in page.words
    assert f"--transfer {study}/s1/people_features" in page.words
    libraries = read_json(study / "s2/calm_results/run.json")["libraries"]
    assert f"scipy {libraries['scipy']}" in page.words


def test_the_same_files_give_the_same_bytes(study, page):
    again = written(study)
    assert again.text == page.text


def test_a_trait_without_its_ranking_has_half_a_page(copied):
    shutil.rmtree(copied / "s2/loud_results")
    page = written(copied, *TRAITS)
    assert "no ranking yet" in page.words
    assert "loud, ranking of features: not run yet." in page.words
    assert "Landmarks." in page.words
    assert "Does the best feature of one trait follow another?" not in page.words


def test_only_a_feature_folder_is_enough_to_say_what_to_do(copied):
    page = written(copied, "people")
    assert "people, ranking of features: not run yet." in page.words
    assert "people, emergence curve: not run yet." in page.words
    assert "Across traits" not in page.words


def test_the_newest_version_is_shown_and_older_ones_are_counted(copied):
    experiment = copied / "s5/d3_hidden_to_concept"
    for k in (2, 10):
        version = experiment / f"v{k}_again"
        shutil.copytree(experiment / "v0_calm", version)
        (version / "results.json").chmod(0o644)
        edit_json(version / "results.json", lambda results, k=k: results.update(test_kappa=k / 100))
    page = written(copied, "calm")
    assert page.rows("Probes and baselines of calm")[0][0] == 0.1
    assert "v10_again, logistic, 2 older" in page.words


def test_deleted_activations_leave_the_rest_of_the_page(copied):
    shutil.rmtree(copied / "s1/loud_features/sae_activations")
    page = written(copied)
    assert page.words.count("its activations are gone") == 2  # both features on the sentences of loud
    assert len(page.rows("AUROC, label 3 against 0. Framed")) == 2


def test_another_sae_is_another_feature(copied):
    for seed, name in enumerate(TRAITS):
        edit_json(
            copied / f"s1/{name}_features/run.json",
            lambda run, seed=seed: [sae.update(encoder_sha256=f"{seed:064x}") for sae in run["saes"]],
        )
    assert written(copied).words.count("its run lacks this SAE") == 2


def test_results_of_other_sentences_are_left_out_and_named(copied):
    edit_json(
        copied / "s2/calm_results/run.json", lambda run: run["features_run"].update(input_sha256="f" * 64)
    )
    page = written(copied, "calm")
    for what in ("feature folder", "emergence curve", "probe d3_hidden_to_concept"):
        assert f"calm, {what}: what is there belongs to other sentences or another model." in page.words
    assert "Emergence: onset" not in page.words
    assert "Probes and baselines" not in page.words


def test_without_a_joint_run_differences_have_no_interval(copied):
    content = read_json(copied / "s5/emergence/both/emergence.json")
    for name in TRAITS:
        folder = copied / f"s5/emergence/{name}"
        shutil.copytree(copied / "s5/emergence/both", folder)
        own = content | {"traits": {name: content["traits"][name]}, "onset_differences": []}
        (folder / "emergence.json").write_text(json.dumps(own), encoding="utf-8")
    assert "no run of emergence.py had both" not in written(copied).words
    shutil.rmtree(copied / "s5/emergence/both")
    page = written(copied)
    assert "no run of emergence.py had both" in page.words
    assert page.rows("Which comes first?") == [[content["onset_differences"][0]["layers_later"]]]


def test_the_nearest_misses_stand_in_where_nothing_passed(study, tmp_path):
    copied = tmp_path / "study"
    shutil.copytree(study, copied)
    folders = ["--input", copied / "s1/loud_features", "--output", copied / "s2/loud_results"]
    quick = ["--permutations", 200, "--bootstrap", 200, "--jobs", 1, "--min-pearson", 0.99]
    run_quietly((analyze_features.main, [*folders, *quick]))
    page = written(copied, "loud")
    misses = pd.read_csv(copied / "s2/loud_results/discovery_ranking.csv").head(5)
    held_out = pd.read_csv(copied / "s2/loud_results/best_per_sae.csv")
    place = ["layer", "average_l0", "feature_id"]
    wanted = misses.merge(held_out, on=place, how="left", suffixes=("", "_again"))
    columns = ["auroc", "confirm_auroc", "confirm_auroc_low", "confirm_auroc_high", "confirm_spearman"]
    shown = page.rows("Nearest misses of loud. No feature passed")
    assert len(shown) == 5
    for row, (_, expected) in zip(shown, wanted[columns].iterrows()):
        np.testing.assert_allclose(row, expected.dropna().to_numpy(float))
    assert "No feature passed the filters; the nearest misses are listed" in page.words
    pooled = pooled_of(copied / "s1/loud_features", misses.iloc[0])
    first = page.text.partition('class="sentences"')[2].partition("</ul>")[0]
    activations = [float(a) for a in re.findall(r'<data value="([\d.]+)"', first)]
    np.testing.assert_allclose(activations, np.sort(pooled)[::-1][:3])


def test_nothing_held_out_is_said_and_measures_nothing(copied):
    folders = ["--input", copied / "s1/calm_features", "--output", copied / "s2/calm_results"]
    quick = ["--permutations", 0, "--bootstrap", 100, "--jobs", 1, "--confirm-share", 0]
    run_quietly((analyze_features.main, [*folders, *quick]))
    page = written(copied)
    ranked = pd.read_csv(copied / "s2/calm_results/ranked_features.csv")
    shown = page.rows("Best features of calm")
    columns = ["auroc", "steer_percentile"]
    np.testing.assert_allclose(shown, ranked[columns].to_numpy(float))
    assert "Nothing was held out." in page.words
    assert "not held out" in page.words
    assert "none held out" in page.words
    assert "not tested" in page.words  # no permutations
    assert "Confirmed on held-out sentences: 2 features of loud" in page.words
    assert "that steer, on held-out sentences" not in page.words


def test_steering_is_shown_where_a_ranked_feature_was_steered(copied):
    write_steering_folder(copied / "s1/calm_steering")
    first = pd.read_csv(copied / "s2/calm_results/ranked_features.csv").iloc[0]
    slopes = pd.read_csv(copied / "s1/calm_steering/slopes.csv")
    own = slopes.index[slopes["kind"] == "feature"][0]
    slopes.loc[own, ["layer", "average_l0", "feature_id"]] = first[["layer", "average_l0", "feature_id"]]
    slopes.to_csv(copied / "s1/calm_steering/slopes.csv", index=False)
    run = read_json(copied / "s1/calm_features/run.json")
    source = {key: run[key] for key in ("input_sha256", "model")}
    edit_json(copied / "s1/calm_steering/run.json", lambda record: record.update(features_run=source))
    row = written(copied, "calm").rows("Best features of calm")[0]
    wanted = slopes.loc[own, ["slope", "slope_low", "slope_high", "p_null"]].to_numpy(float)
    np.testing.assert_allclose(row[-4:], wanted)


def test_probes_on_other_sentences_are_read_at_the_layer_that_ours_chose(copied):
    people = dataset_of(copied, "people", "layers", "--strategy", "hidden-to-concept", "--layers", "all")
    output = copied / "s5/emergence/calm"
    datasets = [copied / "s4/calm_layers.npz", "--transfer", people, "--output", output]
    run_quietly((emergence.main, [*datasets, *QUICK_EMERGENCE]))
    entry = read_json(output / "emergence.json")["traits"]["calm"]
    own, there = (of["probes"]["logistic"]["auroc"] for of in (entry, entry["transfer"]))
    place = entry["layers"].index(own["peak"])
    ours = [own["peak_value"], own["band_low"][place], own["band_high"][place]]
    theirs = [there[key][place] for key in ("value", "band_low", "band_high")]
    tfidf = entry["transfer"]["floors"]["tfidf"]["auroc"]["value"]
    n_sentences = entry["transfer"]["n_sentences"]
    (row,) = written(copied, "calm").rows("Probes on other sentences.")
    np.testing.assert_allclose(row, [n_sentences, own["peak"], *ours, *theirs, tfidf])
    caveat = "the sentences have the labels 0 and 3 only"
    edit_json(output / "emergence.json", lambda content: content["traits"]["calm"].update(caveats=[caveat]))
    assert f"Caveat of the emergence curve: {caveat}." in written(copied, "calm").words


def test_text_of_others_stays_text(copied):
    edit_json(
        copied / "s2/calm_results/feature_examples.json",
        lambda examples: examples[0]["examples"]["3"][0].update(
            tokens=[HOSTILE, " </span>"], activations=[9e3, 0.0], activation=9e3
        ),
    )
    edit_json(copied / "s2/calm_results/run.json", lambda run: run["notices"].append(f"{HOSTILE}. {HOSTILE}"))
    edit_json(copied / "s1/calm_features/run.json", lambda run: run.update(input=HOSTILE))
    ranked = pd.read_csv(copied / "s2/calm_results/ranked_features.csv")
    ranked["neuronpedia_url"] = "javascript:alert(1)"
    ranked.to_csv(copied / "s2/calm_results/ranked_features.csv", index=False)
    page = written(copied, "calm")  # Page checks that tags are balanced
    assert "script" not in page.tags
    assert not [link for link in page.links if link.startswith("javascript")]
    assert page.text.count("&lt;script&gt;alert(1)") == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("s2/calm_results/run.json", "is not JSON"),
        ("s2/calm_results/feature_examples.json", "is no list of examples"),
        ("s2/calm_results/split.csv", "is no readable CSV"),
        ("s5/emergence/both/emergence.json", "is not JSON"),
        ("s5/d3_hidden_to_concept/v0_calm/results.json", "is not JSON"),
    ],
)
def test_a_damaged_file_is_one_line_and_keeps_the_old_page(copied, capsys, damage, message):
    page = written(copied)
    path = copied / damage
    path.chmod(0o644)
    path.write_bytes(b"" if damage.endswith("csv") else b"{ half")
    capsys.readouterr()
    assert study_page.main(arguments_for(copied)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: {path} {message}")
    assert Page(copied / "page/study.html").text == page.text


def test_nothing_at_all_is_one_clear_line(tmp_path, capsys):
    for folder in ("s1", "s2", "s3", "s5/emergence"):
        (tmp_path / folder).mkdir(parents=True)
    assert study_page.main(arguments_for(tmp_path)) == 2
    assert "holds no finished <trait>_results, so there is no study to show" in capsys.readouterr().err
    assert study_page.main(arguments_for(tmp_path, "calm")) == 2
    assert "nothing of calm is there" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_wrong_arguments_are_one_line(study, capsys):
    assert study_page.main(arguments_for(study, "--plots", "nowhere")) == 2
    assert (
        capsys.readouterr().err
        == "error: --plots nowhere is no folder; give the one that the stage wrote to\n"
    )
    assert study_page.main(arguments_for(study, "calm", "calm")) == 2
    assert "named twice" in capsys.readouterr().err


def test_open_hands_the_page_to_the_browser(copied, tmp_path, monkeypatch, capsys):
    browser = tmp_path / "browser.py"
    browser.write_text(f"import sys; open({str(tmp_path / 'opened')!r}, 'w').write(sys.argv[1])")
    monkeypatch.setenv("BROWSER", f"{sys.executable} {browser} %s")
    written(copied, "calm", "--open")
    assert (tmp_path / "opened").read_text() == (copied / "page/study.html").as_uri()
    assert "no browser" not in capsys.readouterr().out


def test_a_difference_read_from_the_other_side():
    given = OnsetDifference("a", "b", 2.0, [1.0, None], 0.9, 0.05, Path("x"))
    turned = _turned(given)
    assert (turned.first, turned.second, turned.layers_later) == ("b", "a", -2.0)
    assert turned.interval == [None, -1.0]
    assert (turned.share_first_earlier, turned.share_second_earlier) == (0.05, 0.9)


def test_a_command_is_what_would_be_typed():
    arguments = {
        "datasets": ["a b.npz", "c.npz"],
        "probes": ["logistic", "ridge"],
        "settings": ["seed=1", "folds=3"],
        "require_monotonic": False,
        "display_only": False,
        "demo": True,
        "model": "other",
        "revision": None,
    }
    wanted = "python x.py 'a b.npz' c.npz --probes logistic ridge --set seed=1 --set folds=3"
    assert command_line("x.py", arguments) == f"{wanted} --no-require-monotonic --demo"


def test_pieces_hold_the_whole_text_and_no_space_is_shaded():
    tokens, activations = ["My", " big", " red", "dish", " dog", "."], [0.0, 0.0, 2.0, 1.0, 0.0, 3.0]
    found = pieces(tokens, activations)
    assert found == [("My big ", 0.0), ("red", 2.0), ("dish", 1.0), (" dog", 0.0), (".", 3.0)]
    assert "".join(text for text, _ in found) == "".join(tokens)


def test_labels_at_the_edge_keep_their_distance_and_order():
    canvas = Canvas(100, 100, "labels")
    placed = canvas.right_labels(90, [(50.0, "b"), (49.0, "a"), (10.0, "top"), (50.5, "c")])
    assert [words for _, words in placed] == ["c", "b", "a", "top"]
    heights = [height for height, _ in placed]
    assert all(upper - lower >= LABEL_GAP for upper, lower in pairwise(heights))


def test_values_beyond_the_scale_stay_at_its_edge():
    scale = Scale(0.0, 2.0, 10.0, 110.0)
    assert [scale(value) for value in (-1, 0, 1, 2, 5)] == [10, 10, 60, 110, 110]
    assert scale.ticks(4) == [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("value", "written_as"),
    [(0.12345, "0.123"), (-0.5, "−0.500"), (0.0001, "<0.001"), (-0.0001, "0.000"), (None, ""), (np.nan, "")],
)
def test_numbers(value, written_as):
    assert number(value) == written_as


def test_runs_of_layers_are_drawn_together():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7, 8"


def test_the_command_runs_from_anywhere(study, tmp_path):
    """As run_pipeline.sh calls it, in a process of its own."""
    script = Path(study_page.__file__)
    done = subprocess.run(
        [sys.executable, str(script), *arguments_for(study, "calm", "--output", tmp_path / "study.html")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert re.match(rf"wrote {tmp_path}/study\.html \(0\.\d+ MB\): calm; \d+ parts missing", done.stdout)


def test_what_others_say_of_a_feature_is_quoted_as_text(copied):
    results = copied / "s2/calm_results"
    ranked = pd.read_csv(results / "ranked_features.csv")
    ranked["neuronpedia_url"] = ""
    ranked.loc[0, "neuronpedia_url"] = "https://www.neuronpedia.org/tiny/1-res/5"
    ranked.to_csv(results / "ranked_features.csv", index=False)
    said = {"description": "calm <script>alert(1)</script>", "author_model": "gpt", "method": "x"}
    cache = {"format_version": 1, "address": "https://www.neuronpedia.org"}
    cache |= {"features": {"tiny/1-res/5": {"explanations": [said]}}}
    (results / "neuronpedia.json").write_text(json.dumps(cache), encoding="utf-8")
    run = json.loads((results / "run.json").read_text(encoding="utf-8"))
    inputs = {key: run["features_run"][key] for key in ("input_sha256", "model")} | {"pool": run["pool"]}
    inputs["split_sha256"] = hashlib.sha256((results / "split.csv").read_bytes()).hexdigest()
    place = {key: int(ranked.loc[0, key]) for key in ("layer", "average_l0", "feature_id")}
    score = {"balanced_accuracy": 0.71, "low": 0.6, "high": 0.8}
    own = {"format_version": 1, "model": "ours", "inputs": inputs}
    own["explanations"] = [place | {"explanation": "quiet voices", "score": score}]
    (results / "explanations.json").write_text(json.dumps(own), encoding="utf-8")
    html = written(copied).text
    assert "calm &lt;script&gt;alert(1)&lt;/script&gt; <cite>gpt, on Neuronpedia</cite>" in html
    assert "quiet voices <cite>ours; on held-out sentences" in html
    assert "0.71 [0.60, 0.80]</cite>" in html

    own["inputs"]["split_sha256"] = "another split"
    (results / "explanations.json").write_text(json.dumps(own), encoding="utf-8")
    html = written(copied).text
    assert "quiet voices" not in html
    assert "on Neuronpedia</cite>" in html


def test_words_in_another_format_are_one_line_and_keep_the_old_page(copied, capsys):
    (copied / "s2/calm_results/neuronpedia.json").write_text("[]", encoding="utf-8")
    assert study_page.main(arguments_for(copied)) == 2
    assert capsys.readouterr().err.count("\n") == 1
