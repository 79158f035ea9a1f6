"""The screened encoder finds what float32 finds: adversarial inputs, shipped SAEs, the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from autoencoders.jump_relu import JumpReluEncoder
from autoencoders.screened_jump_relu import (
    Conditioning,
    ScreenedJumpRelu,
    feature_side,
    rounded_up,
    token_side,
)
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
    assert not (fires.T & ~screened.may_fire(x, [])).any()
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
    may_fire = ScreenedJumpRelu.of(encoder, fitted(x)).may_fire(x, [])
    assert not (encoder.activations(x, [])[1].T & ~may_fire).any()


@pytest.mark.parametrize("largest", [1e25, 3e38])
def test_a_token_whose_bounds_overflow_excludes_nothing_and_the_others_stay_screened(largest):
    x = torch.tensor([[largest, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    encoder = JumpReluEncoder(torch.eye(2) * 0.5, torch.zeros(2), torch.ones(2) * 0.25)
    screened = ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(2), torch.ones(2)))
    assert screened.may_fire(x, []).T.tolist() == [[True, True], [True, True], [False, False]]
    got = firing(screened.rows(x, []), (3, 2))
    assert got[:2].tolist() == (x[:2] * 0.5).tolist()
    assert np.isnan(got[2]).all()


@pytest.mark.parametrize("largest", [1e25, 3e38, torch.inf, -torch.inf])
def test_a_feature_whose_bounds_overflow_is_never_excluded(largest):
    x = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    encoder = JumpReluEncoder(torch.eye(2) * 0.5, torch.tensor([0.0, largest]), torch.zeros(2))
    screened = ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(2), torch.ones(2)))
    assert screened.may_fire(x, []).T.tolist() == [[True, True], [False, True]]
    if largest == torch.inf:
        with pytest.raises(ValueError, match="not finite"):
            screened.rows(x, [])
    else:
        got = firing(screened.rows(x, []), (2, 2))
        assert np.isnan(got[:, 1]).all() if largest < 0 else (got[:, 1] == np.float32(largest)).all()


@pytest.mark.parametrize("d_in", [1, 5, 300])
@pytest.mark.parametrize("rounded_side", ["x", "w", "both"])
def test_the_bound_suffices_where_rounding_takes_the_most_it_can(d_in, rounded_side):
    """Parallel vectors, in which Cauchy's and Schwarz's inequality is an equality, all rounded downwards."""
    coarse = 1 + torch.arange(128) / 128  # exact in bfloat16, one for each feature
    lost = coarse + (127 / 128) * 2.0**-8  # rounds down to it
    x = (lost if rounded_side != "w" else coarse)[:8, None].expand(8, d_in)
    w = (lost if rounded_side != "x" else coarse).expand(d_in, 128)
    z = x @ w  # [token, feature]
    screen = Conditioning(torch.zeros(d_in), torch.ones(d_in))
    for token in range(len(x)):
        just_below = torch.nextafter(z[token], torch.zeros(128))
        encoder = JumpReluEncoder(w.contiguous(), torch.zeros(128), just_below)
        alone = x[token : token + 1].contiguous()
        fires = encoder.activations(alone, [])[1]
        assert not (fires.T & ~ScreenedJumpRelu.of(encoder, screen).may_fire(alone, [])).any()


def test_without_a_bound_the_sum_is_at_least_one_and_never_minus_zero():
    plain = Conditioning(torch.zeros(3), torch.ones(3))
    x = torch.tensor([[1.0, 2, 3], [-1e30, -1, -1], [torch.nan, 0, 0]])
    weights = -torch.tensor([[1.0, 2, 3], [1e30, 0, 0], [torch.inf, 1, 1]])
    tokens, features = token_side(x, plain), feature_side(weights, torch.zeros(3), torch.ones(3), plain)
    sums = features.double() @ tokens.double().T  # [feature, token]
    assert sums[0, 0] < 0  # both have a bound
    sums[0, 0] = 1
    assert (sums >= 1).all()


def test_what_is_no_number_is_refused_wherever_it_stands():
    for place in ("x", "w_enc", "b_enc"):
        arrays = {"x": torch.ones(3, 2), "w_enc": torch.ones(2, 4), "b_enc": torch.ones(4)}
        arrays[place].view(-1)[1] = torch.nan
        encoder = JumpReluEncoder(arrays["w_enc"], arrays["b_enc"], torch.zeros(4))
        screened = ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(2), torch.ones(2)))
        for each in (encoder, screened):
            with pytest.raises(ValueError, match="not finite"):
                each.rows(arrays["x"], [])


def test_activations_that_are_not_finite_are_refused():
    x = torch.tensor([[3e38, 3e38]])
    encoder = JumpReluEncoder(torch.ones(2, 1), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="not finite"):
        ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(2), torch.ones(2))).rows(x, [])


def test_a_chunk_in_which_all_fires():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).abs()
    encoder = JumpReluEncoder(torch.ones(5, 6), torch.ones(6), torch.zeros(6))
    screened = ScreenedJumpRelu.of(encoder, fitted(x))
    expected = encoder.activations(x, [])[0].numpy()
    np.testing.assert_allclose(firing(screened.rows(x, []), (8, 6)), expected, rtol=1e-6)
    assert screened.n_candidates == 8 * 6


def test_only_tokens_with_too_many_candidates_are_computed_densely(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 30, generator=rng)
    x[[3, 17, 18]] *= 1e25  # all features are candidates there
    w_enc = torch.randn(30, 500, generator=rng)
    encoder = JumpReluEncoder(w_enc, torch.randn(500, generator=rng), torch.full((500,), 14.0))
    screened = ScreenedJumpRelu.of(encoder, Conditioning(torch.zeros(30), torch.ones(30)))
    densely, firing_densely = [], ScreenedJumpRelu.firing_densely

    def spy(self, x, chosen):
        densely.extend(chosen.nonzero().flatten().tolist())
        return firing_densely(self, x, chosen)

    monkeypatch.setattr(ScreenedJumpRelu, "firing_densely", spy)
    rows = screened.rows(x, [])
    assert densely == [3, 17, 18]
    got, expected = firing(rows, (40, 500)), firing(encoder.rows(x, []), (40, 500))
    assert (np.isnan(got) == np.isnan(expected)).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    lengths, columns, _ = rows
    for row in np.split(columns, np.cumsum(lengths)[:-1]):
        assert (np.diff(row) > 0).all()
    assert screened.n_candidates >= 3 * 500 + (lengths.sum() - lengths[[3, 17, 18]].sum())


def test_memory_is_taken_over_by_smaller_chunks(residual_stream):
    params = np.load(SHIPPED[0])
    encoder = JumpReluEncoder(*(torch.from_numpy(params[k]).float() for k in ("W_enc", "b_enc", "threshold")))
    screened, memory = ScreenedJumpRelu.of(encoder, fitted(residual_stream)), []
    screened.rows(residual_stream[:200], memory)
    held = memory[0].data_ptr()
    with_memory, afresh = (
        screened.rows(residual_stream[200:], memory),
        screened.rows(residual_stream[200:], []),
    )
    assert memory[0].data_ptr() == held
    for mine, theirs in zip(with_memory, afresh):
        np.testing.assert_array_equal(mine, theirs)


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


@pytest.fixture
def run(tmp_path, sentences, tiny_gemma2, tiny_saes):
    """Run the command with an output folder of this name below `tmp_path`, and further options."""

    def command(name, *options):
        return main(
            [
                *("--input", str(sentences), "--output", str(tmp_path / name), "--model", str(tiny_gemma2)),
                *("--config", str(tiny_saes / "configurations.json"), "--sae-release", str(tiny_saes)),
                *("--device", "cpu", *options),
            ]
        )

    return command


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_the_command_writes_the_same_activations(tmp_path, run):
    assert run("dense", "--encoder", "dense") == 0
    assert run("screened", "--encoder", "screened") == 0
    record = record_of(tmp_path / "screened")
    assert record["encoder"] == "screened"
    for sae, of_dense in zip(record["saes"], record_of(tmp_path / "dense")["saes"]):
        files = (tmp_path / name / sae["file"] for name in ("dense", "screened"))
        dense, screened = map(scipy.sparse.load_npz, files)
        assert (dense.indices == screened.indices).all()
        np.testing.assert_allclose(dense.data, screened.data, rtol=1e-4, atol=1e-4)
        assert of_dense["candidates_per_firing"] is None
        assert 1 <= sae["candidates_per_firing"] <= screened.shape[0] * screened.shape[1] / screened.nnz


@pytest.mark.parametrize("has_units", [True, False])
def test_the_default_is_the_devices_and_a_folder_keeps_its_own(tmp_path, run, monkeypatch, capsys, has_units):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_units)
    here, elsewhere = ("screened", "dense") if has_units else ("dense", "screened")
    assert run("new") == 0
    assert record_of(tmp_path / "new")["encoder"] == here
    # Made on a machine with another default: the same command goes on as it began.
    assert run("moved", "--encoder", elsewhere, "--layers", "0") == 0
    assert run("moved") == 0
    record = record_of(tmp_path / "moved")
    assert record["encoder"] == elsewhere
    assert len(record["saes"]) == 3
    capsys.readouterr()
    assert run("moved", "--encoder", here) == 2
    error = capsys.readouterr().err
    assert f"was made with encoder '{elsewhere}', this run has '{here}'" in error
    assert error.count("\n") == 1
    assert run("moved", "--overwrite") == 0
    assert record_of(tmp_path / "moved")["encoder"] == here


def test_a_folder_of_a_time_without_a_choice_stays_dense(tmp_path, run, capsys):
    assert run("old", "--encoder", "dense") == 0
    inputs = json.loads((tmp_path / "old/inputs.json").read_text())
    del inputs["encoder"]
    (tmp_path / "old/inputs.json").write_text(json.dumps(inputs))
    assert run("old") == 0
    assert record_of(tmp_path / "old")["encoder"] == "dense"
    assert run("old", "--encoder", "screened") == 2
    assert "was made with encoder 'dense'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--dtype", "bfloat16"), ("--allow-tf32",)], ids=" ".join)
def test_what_is_not_float32_is_not_screened(tmp_path, run, capsys, options):
    assert run("chosen", "--encoder", "screened", *options) == 2
    assert "--encoder screened computes in float32 without TF32" in capsys.readouterr().err
    assert not (tmp_path / "chosen").exists()
    assert run("by_default", *options) == 0
    assert record_of(tmp_path / "by_default")["encoder"] == "dense"


def test_a_screened_run_forbids_reduction_in_bfloat16(tmp_path, run):
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = True
    try:
        assert run("screened", "--encoder", "screened") == 0
        assert not matmul.allow_bf16_reduced_precision_reduction
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
