"""The texts that are scored under steering, with what the unsteered model makes of them, per layer."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from finite_steering.dose_response import Probe
from finite_steering.measured_sentences import MeasuredSentences
from finite_steering.side_effects import NeutralText
from language_model.tokens import TokenizedSentences, pack_batches
from language_model.upper_blocks import UpperBlocks
from output_folder.layout import gradients_file
from torch import nn
from twins_s1.feature_folder import FeatureFolder
from twins_s1.group_statistics import group_bootstrap

LABELLED = {"sentence", "concept_strength_label"}


@dataclass(frozen=True)
class MeasuredText:
    """Everything that is scored, tokenised, and how it is resampled."""

    folder: FeatureFolder
    sentences: MeasuredSentences
    tokenized: TokenizedSentences  # of the measured sentences
    neutral: TokenizedSentences | None
    batch_tokens: int
    n_bootstrap: int
    seed: int

    def probe(self, model: nn.Module, layer: int) -> Probe:
        """The measured sentences at `layer`."""
        upper = UpperBlocks(model, layer, self.tokenized, self._batches(self.tokenized))
        rng = np.random.default_rng([self.seed, 1])
        return Probe(
            upper=upper,
            sentences=self.sentences,
            unsteered=unsteered_means(upper, len(self.sentences.index)),
            gradients=self._gradients(layer),
            weights=group_bootstrap(self.sentences.groups, self.n_bootstrap, rng),
        )

    def neutral_text(self, model: nn.Module, layer: int) -> NeutralText | None:
        """The neutral text at `layer`; None where there is none."""
        if self.neutral is None:
            return None
        upper = UpperBlocks(model, layer, self.neutral, self._batches(self.neutral))
        n_sentences = len(self.neutral.n_tokens)
        rng = np.random.default_rng([self.seed, 2])
        return NeutralText(
            upper=upper,
            unsteered=[upper.final_states(batch) for batch in upper.batches],
            log_probs=unsteered_means(upper, n_sentences),
            weights=group_bootstrap(np.arange(n_sentences), self.n_bootstrap, rng),
        )

    def _batches(self, tokenized: TokenizedSentences) -> list[np.ndarray]:
        return pack_batches(tokenized.n_positions, self.batch_tokens)

    def _gradients(self, layer: int) -> np.ndarray | None:
        """Σ_t g_t of each measured sentence, [k, d_model]; None in a folder without gradients."""
        file = self.folder.folder / gradients_file(layer)
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            gradients = arrays["gradients"]  # [T, d_model]
        sums = np.add.reduceat(gradients, self.folder.sentence_offsets[:-1], axis=0, dtype=np.float64)
        return sums[self.sentences.index]


def unsteered_means(upper: UpperBlocks, n_sentences: int) -> np.ndarray:
    """ℓ_i of every sentence without steering, [n_sentences] float64, nats per token."""
    means = np.full(n_sentences, np.nan)
    for batch in upper.batches:
        means[batch.sentences] = batch.sentence_means(upper.log_probs(batch))
    return means


def folder_tokens(folder: FeatureFolder, bos_id: int | None) -> TokenizedSentences:
    """The folder's own tokens."""
    with np.load(folder.folder / "tokens.npz", allow_pickle=False) as arrays:
        token_ids = arrays["token_ids"]
    return TokenizedSentences(token_ids, folder.tokens, folder.sentence_offsets, bos_id)


def neutral_files(folder: FeatureFolder) -> list[Path]:
    """Labelled CSVs of other traits beside the one that the folder was made of, as far as they are there."""
    source = Path(folder.run.get("input", ""))
    others = sorted(path for path in source.parent.glob("*.csv") if path.stem != source.stem)
    return [path for path in others if has_labels(path)]


def has_labels(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        return LABELLED.issubset(next(csv.reader(handle), ()))


def neutral_sentences(files: Sequence[Path], most: int, seed: int) -> list[str]:
    """Up to `most` sentences drawn from label 0 of labelled CSVs, or from the lines of a text file.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or is a CSV without these columns.
    """
    found: list[str] = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; check --neutral")
        with file.open(encoding="utf-8-sig", newline="") as handle:
            if file.suffix != ".csv":
                found += [line.strip() for line in handle if line.strip()]
                continue
            reader = csv.DictReader(handle)
            if not LABELLED.issubset(reader.fieldnames or ()):
                raise ValueError(
                    f"{file}: expected columns sentence,concept_strength_label, or a .txt of lines"
                )
            found += [row["sentence"] for row in reader if row["concept_strength_label"].strip() == "0"]
    chosen = np.random.default_rng([seed, 3]).permutation(len(found))[:most]
    return [found[i] for i in np.sort(chosen)]
