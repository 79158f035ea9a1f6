"""What a reviewer would measure on a labelled dataset before trusting what is found with it; a picture."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm, spearmanr
from sentence_tables import (
    LABELS,
    NEAR_DUPLICATE_JACCARD,
    LabelledSentence,
    near_duplicates,
    normalise,
)
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, cohen_kappa_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LENGTH_LIMIT = 0.1  # |Spearman(words, label)| from which length counts as a confound
FOLDS = 5
SEED = 0
MIN_SENTENCES = 5  # an n-gram in fewer sentences is not tested
ALPHA = 0.01  # family-wise, Bonferroni over all tested n-grams and labels
SHOWN = 12
TOKEN = r"(?u)\b\w[\w'’]*\b"  # keeps "I", "a" and "didn't"
LABEL_COLOURS = ("#9aa5b1", "#56b4e9", "#e69f00", "#d55e00")  # colour-blind safe, from neutral to strong


def word_counts(sentences: Sequence[str]) -> np.ndarray:
    """Words per sentence, int64 [n], split at white space."""
    return np.array([len(sentence.split()) for sentence in sentences])


def first_word(sentence: str) -> str:
    words = normalise(sentence).split()
    return words[0] if words else ""


def one_sided_words(presence: np.ndarray, labels: np.ndarray, words: Sequence[str]) -> list[dict]:
    """How much more often each word stands in the sentences of one label than in those of the others.

    presence: bool [n, n_words]; labels: int [n]. z is the pooled two-proportion statistic, whose square is
    Pearson's chi-squared of the 2 x 2 table. One entry per word and label with z > 0, the largest z first;
    `telling` where its two-sided p, times the number of tests, is below ALPHA.
    """
    limit = telling_limit(presence.shape[1])
    found = []
    for label in LABELS:
        inside = labels == label
        n_in, n_out = inside.sum(), (~inside).sum()
        if n_in == 0 or n_out == 0:
            continue
        k_in, k_out = presence[inside].sum(axis=0), presence[~inside].sum(axis=0)  # [n_words] sentences
        pooled = (k_in + k_out) / (n_in + n_out)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n_in + 1 / n_out))
        z = np.divide(k_in / n_in - k_out / n_out, spread, out=np.zeros(len(words)), where=spread > 0)
        found += [
            {
                "text": words[w],
                "label": label,
                "z": round(float(z[w]), 2),
                "share_in_label": round(float(k_in[w] / n_in), 3),
                "share_elsewhere": round(float(k_out[w] / n_out), 3),
                "telling": bool(z[w] > limit),
            }
            for w in np.flatnonzero(z > 0)
        ]
    return sorted(found, key=lambda entry: (-entry["z"], entry["text"], entry["label"]))


def telling_limit(n_words: int) -> float:
    """The z from which one of `n_words` words counts as telling: two-sided ALPHA, Bonferroni."""
    return float(norm.isf(ALPHA / 2 / max(n_words * len(LABELS), 1)))


def telling_ngrams(sentences: Sequence[str], labels: np.ndarray) -> tuple[list[dict], int]:
    """`one_sided_words` of the words and word pairs in at least MIN_SENTENCES sentences, and their number."""
    try:
        vectorizer = CountVectorizer(
            token_pattern=TOKEN, ngram_range=(1, 2), binary=True, min_df=MIN_SENTENCES, dtype=np.int32
        )
        presence = vectorizer.fit_transform(sentences).toarray().astype(bool)  # [n, n_ngrams]
    except ValueError:  # no n-gram is that frequent
        return [], 0
    return one_sided_words(presence, labels, vectorizer.get_feature_names_out()), presence.shape[1]


def telling_first_words(sentences: Sequence[str], labels: np.ndarray) -> list[dict]:
    """`one_sided_words` of the words with which at least MIN_SENTENCES sentences begin."""
    first = np.array([first_word(sentence) for sentence in sentences])  # [n]
    words = [word for word, count in Counter(first.tolist()).items() if word and count >= MIN_SENTENCES]
    return one_sided_words(first[:, None] == np.array(words, dtype=first.dtype)[None, :], labels, words)


def text_baselines(sentences: Sequence[str], labels: np.ndarray, groups: Sequence[str]) -> dict | None:
    """Accuracy and quadratic kappa of models that see only words, only stop words, or only the length.

    Grouped, stratified 5-fold cross-validation: sentences of one scene are never on both sides. None where
    a label has fewer than five groups.
    """
    group_ids = np.unique(np.array(groups), return_inverse=True)[1]  # [n]
    present = np.unique(labels)
    if len(present) < 2 or min(len(set(group_ids[labels == label])) for label in present) < FOLDS:
        return None
    splits = list(
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels, group_ids)
    )
    texts = np.array(sentences, dtype=object)
    logistic = LogisticRegression(max_iter=2000)
    stop_words = sorted(ENGLISH_STOP_WORDS)
    lengths = np.column_stack([word_counts(sentences), [len(text) for text in sentences]])  # [n, 2]
    models = {
        "majority": (DummyClassifier(), lengths),
        "length": (make_pipeline(StandardScaler(), logistic), lengths),
        "stop_words": (make_pipeline(TfidfVectorizer(vocabulary=stop_words), logistic), texts),
        "tfidf": (make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), logistic), texts),
    }
    scores = {}
    for name, (model, inputs) in models.items():
        predicted = cross_val_predict(model, inputs, labels, cv=splits)
        kappa = cohen_kappa_score(labels, predicted, labels=LABELS, weights="quadratic")
        scores[name] = {
            "accuracy": round(float(accuracy_score(labels, predicted)), 4),
            "quadratic_kappa": None if np.isnan(kappa) else round(float(kappa), 4),
        }
    return scores


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


def audit(table: Sequence[LabelledSentence]) -> dict:
    """Every figure of the audit as JSON-ready values; the same table gives the same figures."""
    sentences = [row.sentence for row in table]
    labels = np.array([row.label for row in table])  # [n]
    words = word_counts(sentences)  # [n]
    chars = [len(sentence) for sentence in sentences]
    groups = Counter(row.group for row in table)
    per_group: dict[str, set[int]] = {}
    for row in table:
        per_group.setdefault(row.group, set()).add(row.label)
    pairs = near_duplicates(sentences)
    ngrams, n_ngrams = telling_ngrams(sentences, labels)
    first = np.array([first_word(sentence) for sentence in sentences])  # [n]
    report = {
        "n_sentences": len(table),
        "label_counts": {str(label): int((labels == label).sum()) for label in LABELS},
        "words": {
            str(label): {
                "min": int(own.min()),
                "median": float(np.median(own)),
                "mean": round(float(own.mean()), 2),
                "max": int(own.max()),
            }
            for label in LABELS
            if len(own := words[labels == label])
        },
        "spearman_words_label": correlation(words, labels),
        "spearman_characters_label": correlation(chars, labels),
        "near_duplicates": [
            {"jaccard": round(jaccard, 3), "sentences": [sentences[i], sentences[j]]}
            for i, j, jaccard in pairs
        ],
        "groups": {
            "number": len(groups),
            "largest": max(groups.values()),
            "with_several_labels": sum(len(own) > 1 for own in per_group.values()),
        },
        "variety": variety(sentences),
        "first_words": {
            word: [int((labels[first == word] == label).sum()) for label in LABELS]
            for word, _ in Counter(first.tolist()).most_common(SHOWN)
        },
        "telling_first_words": [e for e in telling_first_words(sentences, labels) if e["telling"]],
        "telling_limit_z": round(telling_limit(n_ngrams), 2),
        "telling_ngrams": shorten(ngrams),
        "baselines": text_baselines(sentences, labels, [row.group for row in table]),
    }
    return report | {"warnings": warnings(report)}


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, or None where one side is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return round(float(spearmanr(x, y).statistic), 4)


def shorten(entries: list[dict]) -> list[dict]:
    """The SHOWN entries of each label with the largest z."""
    return [entry for label in LABELS for entry in [e for e in entries if e["label"] == label][:SHOWN]]


def warnings(report: dict) -> list[str]:
    """What a reviewer would object to in the figures of `audit`."""
    found = []
    counts = report["label_counts"]
    missing = [label for label, count in counts.items() if count == 0]
    if missing:
        found.append(f"no sentence of label {', '.join(missing)}")
    fewest, most = min(counts.values()), max(counts.values())
    if fewest > 0 and most > 3 * fewest:
        found.append(f"unbalanced labels: {most} sentences of one, {fewest} of another")
    rho = report["spearman_words_label"]
    if rho is not None and abs(rho) >= LENGTH_LIMIT:
        found.append(f"length tells the label: Spearman(words, label) = {rho:.2f}, limit {LENGTH_LIMIT}")
    if report["near_duplicates"]:
        worst = max(report["near_duplicates"], key=lambda pair: pair["jaccard"])
        found.append(
            f"{len(report['near_duplicates'])} pairs of sentences share {NEAR_DUPLICATE_JACCARD:.0%} of "
            f"their 5-grams or more, e.g. {worst['sentences'][1]!r}"
        )
    if report["groups"]["largest"] > len(LABELS):
        found.append(f"a scene has {report['groups']['largest']} sentences: few scenes, many variations")
    for entry in report["telling_first_words"]:
        found.append(f"beginning with {entry['text']!r} tells label {entry['label']}{shares(entry)}")
    for entry in report["telling_ngrams"]:
        if entry["telling"] and all(
            word in ENGLISH_STOP_WORDS or word == "i" for word in entry["text"].split()
        ):
            found.append(f"the function word {entry['text']!r} tells label {entry['label']}{shares(entry)}")
    if report["baselines"] is None:
        found.append(f"too few groups for cross-validation: each label needs {FOLDS}")
    else:
        for name, meaning in (("length", "length alone"), ("stop_words", "function words alone")):
            kappa = report["baselines"][name]["quadratic_kappa"]
            if kappa is not None and kappa >= 0.2:
                found.append(f"{meaning} predicts the label (quadratic kappa {kappa:.2f})")
    return found


def shares(entry: dict) -> str:
    return f" ({entry['share_in_label']:.0%} of its sentences, {entry['share_elsewhere']:.0%} of the others)"


def draw_audit(report: dict, table: Sequence[LabelledSentence], title: str) -> Figure:
    """Four panels: label counts, lengths per label, text-only baselines, and the most telling n-grams."""
    labels = np.array([row.label for row in table])
    words = word_counts([row.sentence for row in table])
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    draw_counts(axes[0, 0], report)
    draw_lengths(axes[0, 1], words, labels, report)
    draw_baselines(axes[1, 0], report)
    draw_ngrams(axes[1, 1], report)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_counts(ax: Axes, report: dict) -> None:
    counts = [report["label_counts"][str(label)] for label in LABELS]
    bars = ax.bar(LABELS, counts, color=LABEL_COLOURS)
    ax.bar_label(bars, padding=2)
    ax.margins(y=0.1)
    ax.set(title="Sentences per label", xlabel="concept strength label", ylabel="sentences", xticks=LABELS)


def draw_lengths(ax: Axes, words: np.ndarray, labels: np.ndarray, report: dict) -> None:
    """Cumulative distributions: curves that lie on each other are what length must look like."""
    for label in LABELS:
        own = np.sort(words[labels == label])
        if len(own):
            ax.step(
                np.concatenate([[0], own]),
                np.arange(len(own) + 1) / len(own),
                where="post",
                color=LABEL_COLOURS[label],
                label=f"label {label} (median {np.median(own):g})",
            )
    rho = report["spearman_words_label"]
    ax.set(
        title="Length" if rho is None else f"Length (Spearman with label {rho:+.2f})",
        xlabel="words in the sentence",
        ylabel="share of sentences at most as long",
        xlim=(0, words.max() + 1),
        ylim=(0, 1.02),
    )
    ax.legend(frameon=False, loc="upper left")


def draw_baselines(ax: Axes, report: dict) -> None:
    ax.set_title("Models that see only the text, grouped 5-fold")
    if report["baselines"] is None:
        ax.text(0.5, 0.5, "too few scenes for cross-validation", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    names = {"majority": "majority", "length": "length", "stop_words": "function words", "tfidf": "TF-IDF"}
    y = np.arange(len(names))
    for shift, key, colour, text in (
        (-0.2, "accuracy", "#4c566a", "accuracy"),
        (0.2, "quadratic_kappa", "#88c0d0", "quadratic kappa"),
    ):
        values = [report["baselines"][name][key] or 0.0 for name in names]
        ax.barh(y + shift, values, height=0.38, color=colour, label=text)
        for row, value in zip(y + shift, values):  # to the right of zero also where the value is negative
            ax.text(max(value, 0) + 0.015, row, f"{value:.2f}", va="center", fontsize=9)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(yticks=y, yticklabels=names.values(), xlim=(min(0, ax.get_xlim()[0]), 1), xlabel="score")
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper right")


def draw_ngrams(ax: Axes, report: dict, per_label: int = 5) -> None:
    entries = [
        entry
        for label in LABELS
        for entry in [e for e in report["telling_ngrams"] if e["label"] == label][:per_label]
    ]
    limit = report["telling_limit_z"]
    if not entries:
        ax.text(0.5, 0.5, "no word is frequent enough", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    y = np.arange(len(entries))
    colours = [LABEL_COLOURS[entry["label"]] for entry in entries]
    bars = ax.barh(y, [entry["z"] for entry in entries], color=colours, height=0.8)
    texts = [f"{entry['share_in_label']:.0%} / {entry['share_elsewhere']:.0%}" for entry in entries]
    ax.bar_label(bars, texts, padding=2, fontsize=7)
    ax.axvline(limit, color="black", linestyle=":", linewidth=1)
    ax.set_yticks(y, [entry["text"] for entry in entries], fontsize=8)
    ax.set_ylim(len(entries) - 0.4, -0.6)
    ax.set(
        title="Most one-sided n-grams of each label",
        xlabel="z, with shares of the label / of the others\n(telling: beyond the dotted line)",
        xlim=(0, 1.2 * max(limit, *(entry["z"] for entry in entries))),
    )
