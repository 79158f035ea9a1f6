"""The labels of sentences: how they are called, and what stands for them where sentences have none."""

from collections.abc import Iterable

LABELS = (0, 1, 2, 3)
LABEL_NAMES = ("unrelated", "same domain, no trait", "partial", "plainly the trait")
UNLABELLED = -1  # of every sentence of a text without labels, so that all of them are drawn as one kind


def label_title(label: int, n: int) -> str:
    """Name a label's `n` sentences in a legend."""
    name = "all sentences" if label == UNLABELLED else f"label {label}: {LABEL_NAMES[label]}"
    return f"{name} (n = {n})"


def sentence_heading(label: int, sentence_index: int) -> str:
    if label == UNLABELLED:
        return f"Sentence {sentence_index}"
    return f"Label {label} ({LABEL_NAMES[label]}), sentence {sentence_index}"


def by_label(labels: Iterable[int]) -> str:
    """The end of a title about one line per label; nothing where the sentences have none."""
    return "" if UNLABELLED in labels else ", by label"


def label_suffix(label: int) -> str:
    """The end of a column's name: `_label_3`, nothing where the column is about all sentences."""
    return "" if label == UNLABELLED else f"_label_{label}"


def figure_folder(label: int) -> str:
    """The folder of the sentence figures: `label_3`, or `sentences` where there are no labels."""
    return "sentences" if label == UNLABELLED else f"label_{label}"
