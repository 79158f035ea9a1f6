"""Likelihood gradients and first-order effects of SAE features, against finite differences in float64."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from autoencoders.sae_effects import ablation, steering, token_attribution
from extract_sae_features import main
from extraction import gradient_spool
from language_model import likelihood_gradients
from language_model.likelihood_gradients import gradient_batches
from language_model.tokens import TokenizedSentences
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)
from whole_passes import steered_logits

VOCABULARY, D_MODEL, N_LAYERS, D_SAE = 97, 16, 3, 24
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "initializer_range": 0.3,
}
FAMILIES = {
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, attn_implementation="eager")),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=D_MODEL,
            n_layer=N_LAYERS,
            n_head=4,
            initializer_range=0.3,
            bos_token_id=2,
            eos_token_id=1,
        )
    ),
}


@pytest.fixture(autouse=True)
def float64_throughout(monkeypatch):
    """Keep models from rounding to float32 in norms and softmax, which finite differences would magnify."""
    narrow, softmax = torch.Tensor.float, torch.nn.functional.softmax

    def no_narrowing(self, *args, **kwargs):
        return self if self.dtype == torch.float64 else narrow(self, *args, **kwargs)

    def own_dtype(values, dim=None, dtype=None, **kwargs):
        return softmax(values, dim=dim, dtype=None if values.dtype == torch.float64 else dtype, **kwargs)

    monkeypatch.setattr(torch.Tensor, "float", no_narrowing)
    monkeypatch.setattr(torch.nn.functional, "softmax", own_dtype)


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().double().eval()


def tokens_of(lengths, seed=0):
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, sum(lengths)).astype(np.int32)
    return TokenizedSentences(ids, ids.astype(str), np.concatenate([[0], np.cumsum(lengths)]), bos_id=2)


def input_of(tokenized, i):
    start, stop = tokenized.sentence_offsets[i : i + 2]
    return torch.tensor([[2, *tokenized.token_ids[start:stop].tolist()]])


def mean_log_prob(model, input_ids, layer=None, change=None):
    """ℓ of one sentence, with `change` [n_tokens, d_model] added at its tokens after `layer`."""
    with torch.no_grad():
        logits = (
            model(input_ids).logits[0] if layer is None else steered_logits(model, input_ids, layer, change)
        )
    log_probs = torch.log_softmax(logits[:-1], dim=-1)
    return log_probs.gather(1, input_ids[0, 1:, None]).mean().item()


def all_gradients(model, tokenized, batches):
    layers = list(range(N_LAYERS))
    gradients = np.full((N_LAYERS, len(tokenized.token_ids), D_MODEL), np.nan)
    log_probs = np.full(len(tokenized.token_ids), np.nan)
    for batch in gradient_batches(model, tokenized, layers, batches):
        for layer in layers:
            gradients[layer, batch.rows] = batch.by_layer[layer]
        log_probs[batch.rows] = batch.log_probs
    return gradients, log_probs


def test_effects_agree_with_finite_differences(model):
    tokenized = tokens_of([4, 7, 9])
    gradients, log_probs = all_gradients(model, tokenized, [np.array([0, 2]), np.array([1])])
    rng = np.random.default_rng(1)
    w_dec = torch.from_numpy(rng.normal(size=(D_SAE, D_MODEL)))
    activations = scipy.sparse.random(20, D_SAE, density=0.3, format="csr", random_state=2)
    step = 1e-5
    for layer in range(N_LAYERS):
        steered = steering(gradients[layer], tokenized.sentence_offsets, w_dec)
        attribution = token_attribution(activations, gradients[layer], w_dec)
        ablated = ablation(attribution, activations, tokenized.sentence_offsets).toarray()
        for i in range(3):
            start, stop = tokenized.sentence_offsets[i : i + 2]
            for f in (0, 11):
                everywhere = w_dec[f].expand(stop - start, -1)
                own = torch.from_numpy(activations[start:stop, [f]].toarray()) * w_dec[f]
                for change, found in ((everywhere, steered[i, f]), (-own, ablated[i, f])):
                    above, below = (
                        mean_log_prob(model, input_of(tokenized, i), layer, sign * step * change)
                        for sign in (1, -1)
                    )
                    assert found == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-9)
    for i in range(3):
        start, stop = tokenized.sentence_offsets[i : i + 2]
        assert log_probs[start:stop].mean() == pytest.approx(mean_log_prob(model, input_of(tokenized, i)))


def test_batches_padding_and_order_do_not_matter(model):
    tokenized = tokens_of([5, 1, 9, 3])
    alone, own = all_gradients(model, tokenized, [np.array([i]) for i in range(4)])
    together, shared = all_gradients(model, tokenized, [np.array([2, 0, 3, 1])])
    np.testing.assert_allclose(together, alone, atol=1e-14)
    np.testing.assert_allclose(shared, own, atol=1e-14)
    last = tokenized.sentence_offsets[1:] - 1
    assert (alone[:, last] == 0).all()
    before_last = last[[0, 2, 3]] - 1
    assert (np.abs(alone[:, before_last]).max(axis=2) > 0).all()


def test_weights_keep_their_gradient_switch_and_hooks_are_gone(model):
    tokenized = tokens_of([3])
    list(gradient_batches(model, tokenized, [0], [np.array([0])]))
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


def test_attribution_is_the_sum_over_tokens_that_ablation_takes_away():
    rng = np.random.default_rng(3)
    activations = scipy.sparse.random(12, 5, density=0.5, format="csr", random_state=4, dtype=np.float32)
    gradients = rng.normal(size=(12, 6)).astype(np.float32)
    w_dec = torch.from_numpy(rng.normal(size=(5, 6)).astype(np.float32))
    offsets = np.array([0, 4, 5, 12])
    attribution = token_attribution(activations, gradients, w_dec)
    dense = activations.toarray() * (gradients @ w_dec.numpy().T)  # [T, d_sae]
    np.testing.assert_allclose(attribution, dense[activations.nonzero()], rtol=1e-5, atol=1e-6)
    expected = -np.add.reduceat(dense, offsets[:-1], axis=0)
    np.testing.assert_allclose(
        ablation(attribution, activations, offsets).toarray(), expected, rtol=1e-5, atol=1e-6
    )


@pytest.fixture
def sentences(tmp_path):
    file = tmp_path / "calm.csv"
    rows = [
        ("I told my sister that it was closed.", 0),
        ("He shouted at the nurse.", 3),
        ("She went home.", 1),
    ]
    pd.DataFrame(rows, columns=["sentence", "concept_strength_label"]).to_csv(file, index=False)
    return file


def options(sentences, model, saes, output):
    return [
        *("--input", str(sentences), "--output", str(output), "--model", str(model), "--device", "cpu"),
        *("--config", str(saes / "configurations.json"), "--sae-release", str(saes)),
    ]


def digests(folder):
    files = sorted(p for p in folder.rglob("*.npz"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_folder_gets_gradients_and_effects(tmp_path, sentences, tiny_gemma2, tiny_saes):
    output = tmp_path / "calm_features"
    assert main([*options(sentences, tiny_gemma2, tiny_saes, output), "--gradients"]) == 0
    run = json.loads((output / "run.json").read_text())
    offsets = np.load(output / "tokens.npz")["sentence_offsets"]
    log_probs = np.load(output / "gradients/token_log_probs.npz")["token_log_probs"]
    assert log_probs.shape == (run["n_tokens"],)
    assert (log_probs < 0).all()
    for sae in run["saes"]:
        activations = scipy.sparse.load_npz(output / sae["file"])
        gradients = np.load(output / f"gradients/layer_{sae['layer']}.npz")["gradients"]
        w_dec = np.load(tiny_saes / sae["sae_id"] / "params.npz")["W_dec"]
        with np.load(output / sae["effects"]) as effects:
            summed = np.add.reduceat(gradients, offsets[:-1], axis=0)
            np.testing.assert_allclose(effects["steering"], summed @ w_dec.T, rtol=1e-4, atol=1e-6)
            assert effects["token_attribution"].shape == activations.data.shape
        ablated = scipy.sparse.load_npz(output / sae["effects"])
        assert ablated.shape == (3, sae["d_sae"])
        dense = activations.toarray() * (gradients @ w_dec.T)
        np.testing.assert_allclose(
            ablated.toarray(), -np.add.reduceat(dense, offsets[:-1], axis=0), rtol=1e-3, atol=1e-6
        )


def test_a_folder_that_grows_by_effects_has_the_same_bytes(
    tmp_path, sentences, tiny_gemma2, tiny_saes, capsys
):
    at_once, later = tmp_path / "at_once", tmp_path / "later"
    assert main([*options(sentences, tiny_gemma2, tiny_saes, at_once), "--gradients"]) == 0
    assert main(options(sentences, tiny_gemma2, tiny_saes, later)) == 0
    assert all(sae["effects"] is None for sae in json.loads((later / "run.json").read_text())["saes"])
    assert main([*options(sentences, tiny_gemma2, tiny_saes, later), "--gradients"]) == 0
    assert digests(later) == digests(at_once)
    # A run that was killed between two SAEs, and one that lost a layer's gradients with its effects.
    next(iter((later / "sae_effects").iterdir())).unlink()
    assert main([*options(sentences, tiny_gemma2, tiny_saes, later), "--gradients"]) == 0
    assert digests(later) == digests(at_once)
    shutil.rmtree(later / "gradients")
    for file in (later / "sae_effects").iterdir():
        file.unlink()
    assert main([*options(sentences, tiny_gemma2, tiny_saes, later), "--gradients"]) == 0
    assert digests(later) == digests(at_once)


def stopped_at(call, function):
    """`function`, but for its `call`-th call, which is interrupted."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments)

    return counted


@pytest.mark.parametrize("more_layers", [False, True])
def test_a_pass_that_is_stopped_goes_on_at_its_batch_to_the_same_bytes(
    tmp_path, sentences, tiny_gemma2, tiny_saes, monkeypatch, more_layers
):
    """Three batches of a sentence; stopped when the second has written some of its rows."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    single = ["--gradients", "--batch-tokens", "1"]
    assert main([*options(sentences, tiny_gemma2, tiny_saes, whole), *single]) == 0
    arguments = [*options(sentences, tiny_gemma2, tiny_saes, stopped), *single]
    begun = [*arguments, "--layers", "0"] if more_layers else arguments
    with monkeypatch.context() as patched:
        files_a_batch = 3 if more_layers else 4  # of each layer, of log-probabilities, of what is finished
        patched.setattr(
            gradient_spool, "write_rows", stopped_at(files_a_batch + 2, gradient_spool.write_rows)
        )
        assert main(begun) == 130
    assert not (stopped / "gradients").exists()
    computed = []
    plain = likelihood_gradients.batch_gradients

    def noted(*given):
        computed.append(given[-1].tolist())
        return plain(*given)

    monkeypatch.setattr(likelihood_gradients, "batch_gradients", noted)
    assert main(arguments) == 0
    assert len(computed) == (3 if more_layers else 2)  # other layers: from the first batch on
    assert digests(stopped) == digests(whole)
    assert not (stopped / "scratch").exists()


def test_a_decoder_that_does_not_fit_is_refused_and_nothing_is_lost(
    tmp_path, sentences, tiny_gemma2, tiny_saes, capsys
):
    saes = tmp_path / "saes"
    shutil.copytree(tiny_saes, saes)
    output = tmp_path / "calm_features"
    spoiled = sorted(saes.rglob("params.npz"))[-1]
    arrays = dict(np.load(spoiled))
    np.savez(spoiled, **(arrays | {"W_dec": arrays["W_dec"][:, :5]}))
    assert main([*options(sentences, tiny_gemma2, saes, output), "--gradients"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "W_dec is (128, 5)" in message
    assert len(list((output / "sae_effects").iterdir())) == 2
    np.savez(spoiled, **arrays)
    assert main([*options(sentences, tiny_gemma2, saes, output), "--gradients"]) == 0
    assert len(list((output / "sae_effects").iterdir())) == 3
