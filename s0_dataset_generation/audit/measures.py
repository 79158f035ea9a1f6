"""What a reviewer would measure on a labelled dataset before trusting what is found with it."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from audit.label_tests import counts_by_label, independence_p, rounded
from audit.objections import warnings
from audit.surface_cues import cue_table
from audit.text_models import text_baselines, word_counts
from audit.word_tells import first_word, telling_first_words, telling_limit, telling_ngrams
from scipy.stats import spearmanr
from sentences.labelled_tables import LABELS, LabelledSentence
from sentences.near_duplicates import near_duplicates, normalise

SHOWN = 12


def audit(table: Sequence[LabelledSentence]) -> dict:
    """Every figure of the audit as JSON-ready values; the same table gives the same figures."""
    sentences = [row.sentence for row in table]
    labels = np.array([row.label for row in table])  # [n]
    words = word_counts(sentences)  # [n]
    registers = column(table, "register")
    difficulties = column(table, "difficulty")
    ngrams, n_ngrams = telling_ngrams(sentences, labels)
    report = {
        "n_sentences": len(table),
        "label_counts": {str(label): int((labels == label).sum()) for label in LABELS},
        "words": length_by_label(words, labels),
        "spearman_words_label": correlation(words, labels),
        "spearman_characters_label": correlation([len(sentence) for sentence in sentences], labels),
        "near_duplicates": [
            {"jaccard": round(jaccard, 3), "sentences": [sentences[i], sentences[j]]}
            for i, j, jaccard in near_duplicates(sentences)
        ],
        "groups": group_sizes(table),
        "variety": variety(sentences),
        "surface_cues": cue_table(sentences, labels),
        "registers": kinds_by_label(registers, labels, words),
        "difficulties": kinds_by_label(difficulties, labels, words),
        "first_words": first_word_counts(sentences, labels),
        "telling_first_words": [e for e in telling_first_words(sentences, labels) if e["telling"]],
        "telling_limit_z": round(telling_limit(n_ngrams), 2),
        "telling_ngrams": shorten(ngrams),
        "baselines": text_baselines(sentences, labels, [row.group for row in table], registers, difficulties),
    }
    return report | {"warnings": warnings(report)}


def column(table: Sequence[LabelledSentence], name: str) -> list[str]:
    """An optional column, "none" where a row has nothing in it; empty where the table has no such column."""
    values = [getattr(row, name) for row in table]
    return [value or "none" for value in values] if any(values) else []


def length_by_label(words: np.ndarray, labels: np.ndarray) -> dict:
    return {
        str(label): {
            "min": int(own.min()),
            "median": float(np.median(own)),
            "mean": round(float(own.mean()), 2),
            "max": int(own.max()),
        }
        for label in LABELS
        if len(own := words[labels == label])
    }


def group_sizes(table: Sequence[LabelledSentence]) -> dict:
    groups = Counter(row.group for row in table)
    labels_of = Counter(group for group, _ in {(row.group, row.label) for row in table})
    return {
        "number": len(groups),
        "largest": max(groups.values()),
        "with_several_labels": sum(count > 1 for count in labels_of.values()),
    }


def variety(sentences: Sequence[str]) -> dict:
    """How much the sentences repeat each other's words and openings; 1.0 is no repetition."""
    tokens = [normalise(sentence).split() for sentence in sentences]
    pairs = [pair for words in tokens for pair in itertools.pairwise(words)]
    openings = Counter(" ".join(words[:3]) for words in tokens)
    opening, count = openings.most_common(1)[0]
    return {
        "distinct_word_pairs": round(len(set(pairs)) / max(len(pairs), 1), 4),
        "distinct_openings": round(len(openings) / len(sentences), 4),
        "commonest_opening": {"text": opening, "sentences": count},
    }


def kinds_by_label(kinds: Sequence[str], labels: np.ndarray, words: np.ndarray) -> dict | None:
    """Sentences of each kind by label, whether kind and label are independent, and the length in each kind.

    kinds: register or difficulty of each row, str [n]; None where there is no such column.
    """
    if not len(kinds):
        return None
    rows_of = {kind: np.array(kinds) == kind for kind in sorted(set(kinds))}
    counts = {kind: counts_by_label(rows, labels) for kind, rows in rows_of.items()}
    return {
        "sentences": {kind: own.tolist() for kind, own in counts.items()},
        "chi_squared_p": rounded(independence_p(np.array(list(counts.values())))),
        "spearman_words_label": {
            kind: correlation(words[rows], labels[rows]) for kind, rows in rows_of.items()
        },
    }


def first_word_counts(sentences: Sequence[str], labels: np.ndarray) -> dict[str, list[int]]:
    """Of the commonest first words, the sentences of each label that begin with them."""
    first = np.array([first_word(sentence) for sentence in sentences])  # [n]
    commonest = Counter(first.tolist()).most_common(SHOWN)
    return {word: counts_by_label(first == word, labels).tolist() for word, _ in commonest}


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, or None where one side is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return round(float(spearmanr(x, y).statistic), 4)


def shorten(entries: list[dict]) -> list[dict]:
    """The SHOWN entries of each label with the largest z."""
    return [entry for label in LABELS for entry in [e for e in entries if e["label"] == label][:SHOWN]]
