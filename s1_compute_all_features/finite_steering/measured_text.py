"""The texts that are scored under steering: sentences of the feature folder, and neutral ones."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from finite_steering.measured_sentences import MeasuredSentences
from language_model.tokens import TokenizedSentences
from twins_s1.feature_folder import FeatureFolder

LABELLED = {"sentence", "concept_strength_label"}


@dataclass(frozen=True)
class MeasuredText:
    """Everything that is scored, tokenised, and how it is resampled."""

    folder: FeatureFolder
    sentences: MeasuredSentences
    tokenized: TokenizedSentences  # of the measured sentences
    neutral: TokenizedSentences | None
    batch_tokens: int
    n_words: int  # of the vocabulary, in the normaliser
    n_bootstrap: int
    seed: int


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
