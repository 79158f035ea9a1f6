"""What a reviewer would object to in the figures of an audit."""

from audit.text_models import FOLDS
from sentences.labelled_tables import LABELS
from sentences.near_duplicates import NEAR_DUPLICATE_JACCARD
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

LENGTH_LIMIT = 0.1  # |Spearman(words, label)| from which length counts as a confound
KAPPA_LIMIT = 0.2  # quadratic kappa from which a model that sees no content predicts the label
SIGNIFICANT = 0.05  # of the surface cues after Holm's adjustment, of register and difficulty by itself


def warnings(report: dict) -> list[str]:
    """All objections, in the order in which they weigh."""
    return [
        *imbalance(report),
        *length_tells(report),
        *repetition(report),
        *word_tells(report),
        *cue_tells(report),
        *kind_tells(report),
        *model_tells(report["baselines"]),
    ]


def imbalance(report: dict) -> list[str]:
    found = []
    counts = report["label_counts"]
    missing = [label for label, count in counts.items() if count == 0]
    if missing:
        found.append(f"no sentence of label {', '.join(missing)}")
    fewest, most = min(counts.values()), max(counts.values())
    if fewest > 0 and most > 3 * fewest:
        found.append(f"unbalanced labels: {most} sentences of one, {fewest} of another")
    return found


def length_tells(report: dict) -> list[str]:
    found = []
    rho = report["spearman_words_label"]
    if rho is not None and abs(rho) >= LENGTH_LIMIT:
        found.append(f"length tells the label: Spearman(words, label) = {rho:.2f}, limit {LENGTH_LIMIT}")
    if report["registers"]:
        for register, rho in report["registers"]["spearman_words_label"].items():
            if rho is not None and abs(rho) >= LENGTH_LIMIT:
                found.append(
                    f"length tells the label in the register {register!r}: Spearman(words, label) = "
                    f"{rho:.2f}, limit {LENGTH_LIMIT}"
                )
    return found


def repetition(report: dict) -> list[str]:
    found = []
    if report["near_duplicates"]:
        worst = max(report["near_duplicates"], key=lambda pair: pair["jaccard"])
        found.append(
            f"{len(report['near_duplicates'])} pairs of sentences share {NEAR_DUPLICATE_JACCARD:.0%} of "
            f"their 5-grams or more, e.g. {worst['sentences'][1]!r}"
        )
    if report["groups"]["largest"] > len(LABELS):
        found.append(f"a scene has {report['groups']['largest']} sentences: few scenes, many variations")
    return found


def word_tells(report: dict) -> list[str]:
    found = [
        f"beginning with {entry['text']!r} tells label {entry['label']}{shares(entry)}"
        for entry in report["telling_first_words"]
    ]
    found += [
        f"the function word {entry['text']!r} tells label {entry['label']}{shares(entry)}"
        for entry in report["telling_ngrams"]
        if entry["telling"]
        and all(word in ENGLISH_STOP_WORDS or word == "i" for word in entry["text"].split())
    ]
    return found


def cue_tells(report: dict) -> list[str]:
    return [
        f"the surface cue {entry['cue']!r} tells labels apart: in {by_label(entry['sentences'])} (adjusted "
        f"p {entry['p_adjusted']:.2g})"
        for entry in report["surface_cues"]
        if entry["p_adjusted"] < SIGNIFICANT
    ]


def kind_tells(report: dict) -> list[str]:
    return [
        f"the {name} goes with the label (chi-squared p {report[key]['chi_squared_p']:.2g})"
        for name, key in (("register", "registers"), ("difficulty", "difficulties"))
        if report[key] and report[key]["chi_squared_p"] < SIGNIFICANT
    ]


def model_tells(baselines: dict | None) -> list[str]:
    if baselines is None:
        return [f"too few groups for cross-validation: each label needs {FOLDS}"]
    names = {"length": "length", "stop_words": "function words", "register": "register"}
    return [
        f"{text} alone predicts the label (quadratic kappa {kappa:.2f})"
        for name, text in names.items()
        if name in baselines and (kappa := baselines[name]["quadratic_kappa"] or 0) >= KAPPA_LIMIT
    ]


def by_label(counts: list[int]) -> str:
    return f"{'/'.join(map(str, counts))} sentences of labels 0/1/2/3"


def shares(entry: dict) -> str:
    return f" ({entry['share_in_label']:.0%} of its sentences, {entry['share_elsewhere']:.0%} of the others)"
