"""`find_nearest_canonical.py` against NumPy, from a folder and a hub on loopback, and what it refuses."""

import json

import find_nearest_canonical
import numpy as np
import pandas as pd
import pytest
from loopback_hub import Repository, talking_to_loopback
from tiny_models import write_tiny_saes

SAES = ((0, 5), (2, 4), (2, 9), (2, 40), (3, 7))
PAGES = {(2, 9): "tiny/2-res", (2, 40): "tiny/2-res__l0-40", (3, 7): "tiny/3-res"}
# One on an SAE with a page, one on a layer without any, four to compare; in no order of SAEs.
FEATURES = [(2, 4, 100), (3, 7, 2), (2, 4, 3), (0, 5, 1), (2, 4, 0), (2, 4, 77)]


@pytest.fixture
def scope(tmp_path):
    """SAEs, some with pages; on layer 2, feature 3 of L0 4 is twice feature 11 of L0 40, 0 writes nothing."""
    folder = write_tiny_saes(tmp_path / "scope", layers=SAES, d_model=16, d_sae=128)
    content = json.loads((folder / "configurations.json").read_text())
    for sae in content["saes"]:
        sae["neuronpedia_id"] = PAGES.get((sae["layer"], sae["average_l0"]))
    (folder / "configurations.json").write_text(json.dumps(content | {"repo_id": "tiny/scope"}))
    own = dict(np.load(params(folder, 2, 4)))
    own["W_dec"][3] = 2 * decoder(folder, 2, 40)[11]
    own["W_dec"][0] = 0
    np.savez(params(folder, 2, 4), **own)
    return folder


def params(folder, layer, average_l0):
    return folder / f"layer_{layer}/width_128/average_l0_{average_l0}/params.npz"


def decoder(folder, layer, average_l0) -> np.ndarray:
    return np.load(params(folder, layer, average_l0))["W_dec"].astype(np.float64)


def ranking(folder, features=FEATURES):
    file = folder / "ranked_features.csv"
    file.write_text(
        "rank,layer,average_l0,feature_id\n" + "".join(f"1,{a},{b},{c}\n" for a, b, c in features)
    )
    return file


def run(scope, features, *options) -> int:
    config = ["--config", str(scope / "configurations.json")]
    return find_nearest_canonical.main(["--features", str(features), *config, *options])


def cosines(folder, feature, other) -> np.ndarray:
    """With all features of the SAE `other`, in float64."""
    own, rows = decoder(folder, *feature[:2])[feature[2]], decoder(folder, *other)
    return rows @ own / (np.linalg.norm(rows, axis=1) * max(np.linalg.norm(own), 1e-12))


def test_nearest_features_are_those_of_the_dense_computation(scope, tmp_path, capsys):
    assert run(scope, ranking(tmp_path), "--sae-release", str(scope)) == 0
    found = pd.read_csv(tmp_path / "nearest_canonical.csv")
    assert list(found.columns) == list(find_nearest_canonical.COLUMNS)
    asked = [feature for feature in FEATURES if feature[:2] == (2, 4)]
    assert list(zip(found["layer"], found["average_l0"], found["feature_id"])) == asked
    for row in found.itertuples():
        both = {l0: cosines(scope, (2, 4, row.feature_id), (2, l0)) for l0 in (9, 40)}
        assert row.cosine == pytest.approx(max(c.max() for c in both.values()), abs=1e-4)
        assert both[row.nearest_average_l0][row.nearest_feature_id] == pytest.approx(row.cosine, abs=1e-4)
        page = PAGES[2, row.nearest_average_l0]
        assert row.neuronpedia_url == f"https://www.neuronpedia.org/{page}/{row.nearest_feature_id}"
    copy = found.set_index("feature_id").loc[3]
    assert (copy["nearest_average_l0"], copy["nearest_feature_id"], copy["cosine"]) == (40, 11, 1.0)
    assert found.set_index("feature_id").loc[0, "cosine"] == 0
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'nearest_canonical.csv'}" in said
    assert "4 of 6 features; no SAE has a page on layer 0" in said


def test_from_the_hub_only_decoders_of_the_layers_asked_for_are_fetched(scope, tmp_path, monkeypatch):
    with talking_to_loopback(monkeypatch, tmp_path) as hub:
        hub.repositories["tiny/scope"] = Repository(scope)
        assert run(scope, ranking(tmp_path), "--output", str(tmp_path / "a.csv")) == 0
        fetched = sorted(tmp_path.rglob("decoders/*.npz"))
        assert [np.load(file).files for file in fetched] == [["W_dec"]] * 3
        assert not list(tmp_path.rglob("encoders/*/encoders"))
        n_requests = len(hub.requests)
        options = ["--output", str(tmp_path / "b.csv"), "--local-files-only"]
        assert run(scope, ranking(tmp_path), *options) == 0
        assert len(hub.requests) == n_requests
    assert run(scope, ranking(tmp_path), "--sae-release", str(scope)) == 0
    same = {(tmp_path / name).read_bytes() for name in ("a.csv", "b.csv", "nearest_canonical.csv")}
    assert len(same) == 1


def test_where_every_feature_has_a_page_the_table_is_empty_and_no_decoder_is_read(scope, tmp_path):
    params(scope, 3, 7).unlink()
    assert run(scope, ranking(tmp_path, [(3, 7, 2)]), "--sae-release", str(scope)) == 0
    assert len(pd.read_csv(tmp_path / "nearest_canonical.csv")) == 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([(1, 4, 0)], "has no SAE of layer 1 with L0 4, which --features names"),
        ([(2, 4, 128)], "feature 128 of layer 2, L0 4 does not exist"),
        ([], "no feature in it"),
    ],
)
def test_a_feature_that_is_not_there_is_named_in_one_line(scope, tmp_path, capsys, features, message):
    assert run(scope, ranking(tmp_path, features), "--sae-release", str(scope)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "nearest_canonical.csv").exists()


def test_decoders_of_two_models_are_not_compared(scope, tmp_path, capsys):
    other = write_tiny_saes(tmp_path / "other", layers=((2, 9),), d_model=24)
    params(other, 2, 9).replace(params(scope, 2, 9))
    assert run(scope, ranking(tmp_path), "--sae-release", str(scope)) == 2
    assert "W_dec is (128, 24), model and configuration need (128, 16)" in capsys.readouterr().err
