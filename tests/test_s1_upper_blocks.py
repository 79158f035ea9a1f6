"""Blocks above a layer, resumed from recorded states, and heads on a sample of words."""

import numpy as np
import pytest
import torch
from language_model import vocabulary_head
from language_model.upper_blocks import UpperBlocks, record_batches
from language_model.vocabulary_head import VocabularyHead
from language_model.word_sample import draw_words, inclusion_chances
from test_s1_effects import D_MODEL, FAMILIES, N_LAYERS, VOCABULARY, input_of, tokens_of
from whole_passes import steered_logits


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


def recorded(model, layer, tokenized, batches, sample=None):
    return UpperBlocks(
        VocabularyHead(model, sample), layer, record_batches(model, [layer], tokenized, batches)
    )


def changed_by(model, tokenized, i, layer, change):
    """Log-probabilities before and after of every word behind the tokens of a sentence, and its tokens."""
    ids = input_of(tokenized, i)
    before, after = (steered_logits(model, ids, layer, delta)[:-1] for delta in (0 * change, change))
    return before, after, ids[0, 1:, None]


@pytest.mark.parametrize("head_bytes", [1, 1 << 27])
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_resumed_pass_equals_a_whole_one(model, layer, head_bytes, monkeypatch):
    """All words at once, and one by one."""
    monkeypatch.setattr(vocabulary_head, "HEAD_BYTES", head_bytes)
    tokenized = tokens_of([5, 2, 8])
    upper = recorded(model, layer, tokenized, [np.array([0, 2]), np.array([1])])
    change = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    for batch in upper.batches:
        torch.testing.assert_close(upper.final_states(batch), batch.final)
    means, kl = upper.mean_log_probs_and_kl(change)
    np.testing.assert_allclose(upper.mean_log_probs((b, change) for b in upper.batches), means, rtol=1e-6)
    np.testing.assert_allclose(upper.mean_log_probs_and_kl(0 * change)[1], 0, atol=1e-6)
    assert kl.max() > 0.01
    for i in range(3):
        before, after, tokens = changed_by(model, tokenized, i, layer, change)
        before, after = before.log_softmax(dim=1), after.log_softmax(dim=1)
        assert means[i] == pytest.approx(after.gather(1, tokens).mean().item(), rel=1e-5)
        expected = (before.exp() * (before - after)).sum(dim=1).mean().item()
        assert kl[i] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    only_second = upper.mean_log_probs([(upper.batches[1], change)])
    assert np.isnan(only_second[[0, 2]]).all()
    assert only_second[1] == pytest.approx(means[1])


def test_a_sample_stands_for_the_vocabulary_by_its_weights(model, monkeypatch):
    """The formula, on whole passes: a word counts in the normaliser as often as its weight says."""
    monkeypatch.setattr(vocabulary_head, "HEAD_BYTES", 1000)
    tokenized = tokens_of([5, 8])
    batches = [np.array([0, 1])]
    (batch,) = record_batches(model, [1], tokenized, batches)
    likely = VocabularyHead(model).mean_probability(batch.final)
    logits = [steered_logits(model, input_of(tokenized, i), 1, torch.zeros(D_MODEL))[:-1] for i in range(2)]
    torch.testing.assert_close(likely, torch.cat(logits).softmax(dim=1).mean(dim=0))
    sample = draw_words(likely, 40, batch.targets)
    upper = recorded(model, 1, tokenized, batches, sample)
    change = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    weights = torch.zeros(VOCABULARY).index_put((sample.ids,), sample.weights)
    means, kl = upper.mean_log_probs_and_kl(change)
    np.testing.assert_allclose(upper.mean_log_probs([(upper.batches[0], change)]), means, rtol=1e-6)
    for i in range(2):
        before, after, tokens = changed_by(model, tokenized, i, 1, change)
        before, after = (x - (x + weights.log()).logsumexp(dim=1, keepdim=True) for x in (before, after))
        assert means[i] == pytest.approx(after.gather(1, tokens).mean().item(), rel=1e-5)
        expected = (weights * before.exp() * (before - after)).sum(dim=1).mean().item()
        assert kl[i] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_words_are_drawn_in_proportion_to_their_probability():
    probability = torch.tensor([0.001, 0.4, 0.02, 0.3, 0.009, 0.2, 0.03, 0.04])
    chances = inclusion_chances(probability.double(), 5)
    assert chances.sum().item() == pytest.approx(5)
    assert (chances[[1, 3, 5]] == 1).all()
    rest = [0, 2, 4, 6, 7]
    np.testing.assert_allclose(chances[rest], 2 * probability[rest] / probability[rest].sum(), rtol=1e-6)
    assert (inclusion_chances(probability.double(), 8) == 1).all()
    assert inclusion_chances(torch.tensor([1.0, 0, 0]), 2).tolist() == [1, 0, 0]  # no chance, no word


def test_a_sample_has_its_size_its_targets_and_weights_that_make_up_for_the_others():
    probability = torch.rand(5000, generator=torch.Generator().manual_seed(0)).double() ** 8
    targets = torch.tensor([7, 7, 4999, 123])
    sample = draw_words(probability, 700, targets)
    drawn = sample.ids[sample.weights > 0]
    assert len(drawn) == 700
    assert sample.ids.tolist() == sorted(set(sample.ids.tolist()))
    assert set(targets.tolist()) <= set(sample.ids.tolist())
    assert len(sample.ids) <= 703
    total = (probability[sample.ids] * sample.weights).sum()
    assert total.item() == pytest.approx(probability.sum().item(), rel=1e-3)
    # Another measure than that which they were drawn by: estimated, not exact.
    other = probability * torch.linspace(0.5, 1.5, 5000)
    assert (other[sample.ids] * sample.weights).sum().item() == pytest.approx(other.sum().item(), rel=0.05)


def test_the_model_is_itself_again(model):
    tokenized = tokens_of([4])
    before = model(input_of(tokenized, 0)).logits
    sample = draw_words(torch.ones(VOCABULARY), 10, torch.from_numpy(tokenized.token_ids).long())
    upper = recorded(model, 1, tokenized, [np.array([0])], sample)
    upper.mean_log_probs([(upper.batches[0], torch.ones(D_MODEL))])
    torch.testing.assert_close(model(input_of(tokenized, 0)).logits, before, rtol=0, atol=0)
