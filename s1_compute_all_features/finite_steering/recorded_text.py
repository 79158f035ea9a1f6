"""What the unsteered model makes of the measured texts: once for a run, for all layers that are steered."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from finite_steering.dose_response import GAP_LABELS, Probe
from finite_steering.measured_text import MeasuredText
from finite_steering.side_effects import NeutralText
from language_model.tokens import TokenizedSentences, pack_batches
from language_model.upper_blocks import RecordedBatch, UpperBlocks, mean_log_probs, record_batches
from language_model.vocabulary_head import VocabularyHead
from language_model.word_sample import draw_words
from output_folder.layout import gradients_file
from torch import nn
from twins_s1.group_statistics import group_bootstrap

A_BATCH = 16  # positions that reading the upper blocks' weights once more costs about; the head has its own


@dataclass(frozen=True)
class RecordedText:
    """The measured texts with what blocks returned, and the vocabulary's sample that all doses share."""

    text: MeasuredText
    batches: list[
        RecordedBatch
    ]  # of the measured sentences, the labels that nulls need apart from the others
    neutral: list[RecordedBatch]
    all_words: VocabularyHead

    @classmethod
    def of(cls, model: nn.Module, text: MeasuredText, layers: Sequence[int]) -> "RecordedText":
        compared = np.isin(text.sentences.labels, GAP_LABELS)
        apart = [np.flatnonzero(compared), np.flatnonzero(~compared)]

        def recorded(tokenized: TokenizedSentences, parts: list[np.ndarray]) -> list[RecordedBatch]:
            lengths = tokenized.n_positions
            batches = [
                part[batch] for part in parts for batch in pack_batches(lengths[part], text.batch_tokens)
            ]
            return record_batches(model, layers, tokenized, batches)

        neutral = text.neutral
        return cls(
            text,
            recorded(text.tokenized, [part for part in apart if len(part)]),
            [] if neutral is None else recorded(neutral, [np.arange(len(neutral.n_tokens))]),
            VocabularyHead(model),
        )

    @cached_property
    def head(self) -> VocabularyHead:
        """The head on as many words as are wanted, drawn by what the unsteered model finds likely here."""
        model, batches = self.all_words.model, [*self.batches, *self.neutral]
        if self.text.n_words >= model.get_output_embeddings().weight.shape[0]:
            return self.all_words
        likely = self.all_words.mean_probability(torch.cat([batch.final for batch in batches]))
        targets = torch.cat([batch.targets for batch in batches])
        return VocabularyHead(model, draw_words(likely, self.text.n_words, targets))

    @cached_property
    def unsteered(self) -> np.ndarray:
        return unsteered_means(self.head, self.batches)

    @cached_property
    def unsteered_on_all_words(self) -> np.ndarray:
        return unsteered_means(self.all_words, self.batches)

    @cached_property
    def unsteered_neutral(self) -> np.ndarray:
        return unsteered_means(self.head, self.neutral)

    def probe(self, layer: int) -> Probe:
        """The measured sentences at `layer`."""
        rng = np.random.default_rng([self.text.seed, 1])
        return Probe(
            upper=UpperBlocks(self.head, layer, self.batches),
            sentences=self.text.sentences,
            unsteered=self.unsteered,
            unsteered_on_all_words=self.unsteered_on_all_words,
            gradients=self._gradients(layer),
            weights=group_bootstrap(self.text.sentences.groups, self.text.n_bootstrap, rng),
        )

    def neutral_text(self, layer: int) -> NeutralText | None:
        """The neutral text at `layer`; None where there is none."""
        if not self.neutral:
            return None
        rng = np.random.default_rng([self.text.seed, 2])
        n_sentences = len(self.unsteered_neutral)
        return NeutralText(
            upper=UpperBlocks(self.head, layer, self.neutral),
            unsteered=self.unsteered_neutral,
            weights=group_bootstrap(np.arange(n_sentences), self.text.n_bootstrap, rng),
        )

    def _gradients(self, layer: int) -> np.ndarray | None:
        """Σ_t g_t of each measured sentence, [k, d_model]; None in a folder without gradients."""
        folder = self.text.folder
        file = folder.folder / gradients_file(layer)
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            gradients = arrays["gradients"]  # [T, d_model]
        sums = np.add.reduceat(gradients, folder.sentence_offsets[:-1], axis=0, dtype=np.float64)
        return sums[self.text.sentences.index]


def unsteered_means(head: VocabularyHead, batches: list[RecordedBatch]) -> np.ndarray:
    """ℓ_i of every sentence, [k] float64, nats per token."""
    n_sentences = sum(len(batch.sentences) for batch in batches)
    return mean_log_probs(head, [(batch, batch.final) for batch in batches], n_sentences)
