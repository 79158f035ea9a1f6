"""The screened encoder finds what float32 finds: adversarial inputs, shipped SAEs, the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from autoencoders.jump_relu import JumpReluEncoder
from autoencoders.screened_jump_relu import Conditioning, ScreenedJumpRelu, rounded_up
from extract_sae_features import main
from hypothesis import given, settings
from hypothesis import strategies as st

DEMO = Path(__file__).resolve().parents[1] / "s1_compute_all_features" / "demo"
SHIPPED = sorted(DEMO.rglob("params.npz"))


def fitted(x):
    return Conditioning.fit([x.numpy()])


def firing(rows, shape):
    """CSR rows as a dense array of activations, NaN where nothing fires."""
    lengths, columns, values = rows
    dense = np.full(shape, np.nan, np.float32)
    dense[np.repeat(np.arange(len(lengths)), lengths), columns] = values
    return dense


def assert_found(encoder, x, conditioning):
    """What a float32 product finds is among the candidates, and what is returned is exact to rounding."""
    screened = ScreenedJumpRelu.of(encoder, conditioning)
    fires = encoder.activations(x, [])[1]
    candidates = screened.candidates(x, [])
    if candidates is not None:
        wanted = np.flatnonzero(fires.T.numpy())
        assert np.isin(wanted, candidates.numpy()).all()
    shape = (len(x), encoder.d_sae)
    got = firing(screened.rows(x, []), shape)
    exact = x.double() @ encoder.w_enc.double() + encoder.b_enc.double()  # [n, d_sae]
    size = x.double().abs() @ encoder.w_enc.double().abs() + encoder.b_enc.double().abs()
    allowed = (len(encoder.w_enc) + 2) * 2.0**-23 * size.numpy() + 1e-30
    found = ~np.isnan(got)
    assert (np.abs(got - exact.numpy())[found] <= allowed[found]).all()
    threshold = encoder.threshold.clamp(min=0).double().numpy()
    clear = np.abs(exact.numpy() - threshold) > allowed  # beyond any rounding
    assert (found == (exact.numpy() > threshold))[clear].all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    d_in=st.integers(1, 70),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    offset=st.sampled_from([0.0, 50.0, 60_000.0]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    threshold=st.sampled_from(["zero", "negative", "usual", "huge"]),
)
def test_nothing_that_float32_finds_is_missed(seed, d_in, spread, offset, scale, threshold):
    rng = np.random.default_rng(seed)
    d_sae, n = 33, 17
    sizes = np.exp(rng.normal(0, spread, d_in))
    centre = np.zeros(d_in)
    centre[rng.integers(d_in)] = offset  # one huge dimension, as in Gemma 3
    x = torch.from_numpy(((rng.normal(size=(n, d_in)) * sizes + centre) * scale).astype(np.float32))
    w = torch.from_numpy((rng.normal(size=(d_in, d_sae)) / sizes[:, None]).astype(np.float32))
    b = torch.from_numpy((rng.normal(size=d_sae) * scale).astype(np.float32))
    z = (x @ w + b).numpy()
    limits = {
        "zero": np.zeros(d_sae),
        "negative": -np.ones(d_sae),
        "usual": np.quantile(z, 0.8, axis=0),
        "huge": np.full(d_sae, 1e30),
    }[threshold]
    encoder = JumpReluEncoder(w, b, torch.from_numpy(limits.astype(np.float32)))
    assert_found(encoder, x, fitted(x))


def test_values_at_the_threshold_do_not_fire_and_the_next_ones_do():
    x = torch.tensor([[1.0], [1.0 + 2**-23], [1.0 - 2**-24], [0.0]])
    encoder = JumpReluEncoder(torch.ones(1, 3), torch.zeros(3), torch.tensor([1.0, 0.0, 5.0]))
    got = firing(ScreenedJumpRelu.of(encoder, fitted(x)).rows(x, []), (4, 3))
    assert np.isnan(got[:, 0]).tolist() == [True, False, True, True]
    assert np.isnan(got[:, 1]).tolist() == [False, False, False, True]
    assert np.isnan(got[:, 2]).all()


def test_denormals_fire_above_a_threshold_of_zero():
    x = torch.tensor([[1e-40, 0.0], [-1e-40, 0.0], [1e-44, 1e-44]])
    encoder = JumpReluEncoder(torch.eye(2), torch.zeros(2), torch.zeros(2))
    candidates = ScreenedJumpRelu.of(encoder, fitted(x)).candidates(x, [])
    fires = encoder.activations(x, [])[1]
    assert np.isin(np.flatnonzero(fires.T.numpy()), candidates.numpy()).all()


@pytest.mark.parametrize("largest", [1e25, 3e38])
def test_bounds_that_overflow_are_computed_densely(largest):
    x = torch.tensor([[largest, 1.0], [1.0, 1.0]])
    encoder = JumpReluEncoder(torch.eye(2) * 0.5, torch.zeros(2), torch.ones(2) * 0.25)
    screened = ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(2), torch.ones(2)))
    assert screened.candidates(x, []) is None
    assert firing(screened.rows(x, []), (2, 2)).tolist() == (x * 0.5).tolist()


def test_activations_that_are_not_finite_are_refused():
    x = torch.tensor([[3e38, 3e38]])
    encoder = JumpReluEncoder(torch.ones(2, 1), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="not finite"):
        ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(2), torch.ones(2))).rows(x, [])


def test_a_chunk_in_which_nearly_all_fires_is_computed_densely(monkeypatch):
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).abs()
    encoder = JumpReluEncoder(torch.ones(5, 6), torch.ones(6), torch.zeros(6))
    screened = ScreenedJumpRelu.of(encoder, fitted(x))
    monkeypatch.setattr(ScreenedJumpRelu, "pre_activations", None)  # would be called otherwise
    expected = encoder.activations(x, [])[0].numpy()
    np.testing.assert_allclose(firing(screened.rows(x, []), (8, 6)), expected, rtol=1e-6)


def test_rounding_up_never_rounds_down():
    values = torch.cat([torch.rand(1000) * 10.0**k for k in range(-30, 30, 5)] + [torch.zeros(1)])
    up = rounded_up(values).float()
    assert (up >= values).all()
    assert (up <= values * (1 + 2**-6) + 1e-37).all()


@pytest.fixture(scope="module")
def residual_stream():
    """Tokens as the embedded model has them: one dimension far out, sizes that differ by orders."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 640)) * np.exp(rng.normal(4, 1, 640))
    x[:, 17] += 20_000
    return torch.from_numpy(x.astype(np.float32))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.parent.parent.parent.name + file.parent.name)
def test_shipped_saes(file, residual_stream):
    params = np.load(file)
    encoder = JumpReluEncoder(*(torch.from_numpy(params[k]).float() for k in ("W_enc", "b_enc", "threshold")))
    assert_found(encoder, residual_stream, fitted(residual_stream))


def test_values_are_as_near_to_float64_as_the_dense_ones(residual_stream):
    params = np.load(SHIPPED[0])
    encoder = JumpReluEncoder(*(torch.from_numpy(params[k]).float() for k in ("W_enc", "b_enc", "threshold")))
    exact = (residual_stream.double() @ encoder.w_enc.double() + encoder.b_enc.double()).numpy()
    z, fires = encoder.activations(residual_stream, [])
    dense_error = np.abs(z.numpy() - exact)[fires.numpy()]
    got = firing(ScreenedJumpRelu.of(encoder, fitted(residual_stream)).rows(residual_stream, []), exact.shape)
    screened_error = np.abs(got - exact)[~np.isnan(got)]
    assert np.sqrt((screened_error**2).mean()) <= 1.05 * np.sqrt((dense_error**2).mean())


def test_what_is_returned_does_not_depend_on_centre_and_scale(residual_stream):
    params = np.load(SHIPPED[2])
    encoder = JumpReluEncoder(*(torch.from_numpy(params[k]).float() for k in ("W_enc", "b_enc", "threshold")))
    others = [fitted(residual_stream), fitted(residual_stream[:50] * 3)]
    first, second = (ScreenedJumpRelu.of(encoder, other).rows(residual_stream, []) for other in others)
    for mine, theirs in zip(first, second):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture
def sentences(tmp_path):
    file = tmp_path / "calm.csv"
    texts = "I told my sister that it was closed.", "He shouted at the nurse.", "She went home."
    columns = ["sentence", "concept_strength_label"]
    pd.DataFrame(list(zip(texts, (0, 3, 1))), columns=columns).to_csv(file, index=False)
    return file


def test_the_command_writes_the_same_activations(tmp_path, sentences, tiny_gemma2, tiny_saes, capsys):
    def run(name, *options):
        return main(
            [
                *("--input", str(sentences), "--output", str(tmp_path / name), "--model", str(tiny_gemma2)),
                *("--config", str(tiny_saes / "configurations.json"), "--sae-release", str(tiny_saes)),
                *("--device", "cpu", *options),
            ]
        )

    assert run("dense") == 0
    assert run("screened", "--encoder", "screened") == 0
    record = json.loads((tmp_path / "screened/run.json").read_text())
    assert record["encoder"] == "screened"
    for sae in record["saes"]:
        files = (tmp_path / name / sae["file"] for name in ("dense", "screened"))
        dense, screened = map(scipy.sparse.load_npz, files)
        assert (dense.indices == screened.indices).all()
        np.testing.assert_allclose(dense.data, screened.data, rtol=1e-4, atol=1e-4)
    assert run("screened") == 2  # one folder, one encoder
    assert "was made with encoder 'screened'" in capsys.readouterr().err
    inputs = json.loads((tmp_path / "dense/inputs.json").read_text())
    del inputs["encoder"]  # a folder of a time when there was no choice
    (tmp_path / "dense/inputs.json").write_text(json.dumps(inputs))
    assert run("dense") == 0
    assert run("dense", "--encoder", "screened") == 2
    assert run("half", "--encoder", "screened", "--dtype", "bfloat16") == 2
    assert "--encoder screened computes in float32" in capsys.readouterr().err
