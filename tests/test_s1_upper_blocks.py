"""Blocks above a layer, resumed from recorded states, against whole forward passes with a hook."""

import numpy as np
import pytest
import torch
from language_model.residual_stream import decoder_and_blocks
from language_model.upper_blocks import UpperBlocks
from test_s1_effects import D_MODEL, FAMILIES, N_LAYERS, input_of, tokens_of


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


def whole_log_probs(model, input_ids, layer, change):
    """Log-probabilities of a sentence's tokens with `change` added after `layer` at every token but BOS."""

    def add(_module, _args, output):
        states = output[0] if isinstance(output, tuple) else output
        states = torch.cat([states[:, :1], states[:, 1:] + change], dim=1)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = decoder_and_blocks(model)[1][layer].register_forward_hook(add)
    with torch.inference_mode():
        logits = model(input_ids).logits[0]
    handle.remove()
    return logits.log_softmax(dim=-1)[:-1].gather(1, input_ids[0, 1:, None])[:, 0], logits[:-1]


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_resumed_pass_equals_a_whole_one(model, layer):
    tokenized = tokens_of([5, 2, 8])
    upper = UpperBlocks(model, layer, tokenized, [np.array([0, 2]), np.array([1])])
    change = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    nothing = torch.zeros(D_MODEL)
    for batch in upper.batches:
        unchanged = upper.final_states(batch, nothing)
        log_probs, kl = upper.log_probs_and_kl(batch, change, unchanged)
        torch.testing.assert_close(log_probs, upper.log_probs(batch, change))
        assert kl.max() > 0.01
        torch.testing.assert_close(
            upper.log_probs_and_kl(batch, nothing, unchanged)[1], torch.zeros_like(kl), atol=1e-6, rtol=0
        )
        means, kl_means = batch.sentence_means(log_probs), batch.sentence_means(kl)
        for row, i in enumerate(batch.sentences):
            own, after = whole_log_probs(model, input_of(tokenized, i), layer, change)
            assert means[row] == pytest.approx(own.mean().item(), rel=1e-5)
            before = whole_log_probs(model, input_of(tokenized, i), layer, nothing)[1].log_softmax(dim=-1)
            expected = (before.exp() * (before - after.log_softmax(dim=-1))).sum(dim=-1).mean().item()
            assert kl_means[row] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_model_is_itself_again(model):
    tokenized = tokens_of([4])
    before = model(input_of(tokenized, 0)).logits
    upper = UpperBlocks(model, 1, tokenized, [np.array([0])])
    upper.log_probs(upper.batches[0], torch.ones(D_MODEL))
    torch.testing.assert_close(model(input_of(tokenized, 0)).logits, before, rtol=0, atol=0)
