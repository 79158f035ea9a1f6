"""A sample of the vocabulary that stands for all of it in the softmax's normaliser.

With 262,144 words the vocabulary head is two thirds of a small model's work, and nearly all of it goes into
words that hardly add to the sum.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WordSample:
    """Words, and how many of the vocabulary each stands for."""

    ids: torch.Tensor  # [k] int64, rising
    weights: torch.Tensor  # [k] float32; 0 for a word that is there only to be predicted


def draw_words(probability: torch.Tensor, count: int, targets: torch.Tensor) -> WordSample:
    """Draw `count` words, each with a chance in proportion to its `probability` [vocabulary], 1 at most.

    A word that is drawn stands for one over its chance, so that a sum over the sample estimates the sum over
    the vocabulary without bias (Horvitz & Thompson 1952), and exactly as far as likely words go, whose chance
    is 1. Systematic sampling (Madow 1949) from a fixed start: the same words each time. `targets` [m], word
    ids, are added where they were not drawn.
    """
    device = probability.device
    chances = inclusion_chances(probability.cpu().double(), count)
    order = chances.argsort(descending=True, stable=True)
    passed = (chances[order].cumsum(0) + 0.5).floor()
    drawn = order[passed.diff(prepend=passed.new_zeros(1)) > 0]
    weights = torch.zeros_like(chances)
    weights[drawn] = 1 / chances[drawn]
    ids = torch.cat([drawn, targets.cpu()]).unique()
    return WordSample(ids.to(device), weights[ids].float().to(device))


def inclusion_chances(probability: torch.Tensor, count: int) -> torch.Tensor:
    """Chances [vocabulary] that sum to `count`, in proportion to `probability` as far as none exceeds 1."""
    falling, order = probability.sort(descending=True, stable=True)
    left = count - torch.arange(len(falling))  # to draw after the certain ones
    rest = falling.flip(0).cumsum(0).flip(0)  # probability of a word and all that are less likely
    n_certain = int((falling * left <= rest).int().argmax())
    chances = torch.ones_like(falling)
    tiny = torch.finfo(falling.dtype).tiny  # where no other word has any probability
    chances[n_certain:] = falling[n_certain:] * left[n_certain] / rest[n_certain].clamp(min=tiny)
    return torch.empty_like(chances).scatter_(0, order, chances)
