"""Finds the layer at which a trait emerges: probes per layer, against text alone and shuffled labels."""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from emergence_curves.layer_probes import PROBES, KernelLogistic, Strengths, log_softmax, probe_split
from experiments.experiment_dataset import (
    STAGE,
    Dataset,
    library_versions,
    load_dataset,
    read_json,
    replaced_together,
    write_json,
)
from figures import emergence_figures
from measures.metrics import accuracy, auroc, bootstrap_weights, confusion_counts, quadratic_kappa
from models.estimators import grouped_folds
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

METRICS = ("kappa", "accuracy", "auroc")
FLOORS = ("majority", "length", "tfidf")
TFIDF_PENALTIES = (1.0, 10.0, 100.0)
LEVEL = 0.95

Folds = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Curve:
    """A metric by layer with its bootstrap resamples."""

    value: np.ndarray  # [N]
    resampled: np.ndarray  # [B, N]


@dataclass(frozen=True)
class Landmarks:
    """Where a curve leaves the floors, peaks and is half-way, in layer numbers; None where it never does."""

    clears: np.ndarray  # [N] bool: the layer's lower bands clear every floor
    onset: float | None
    onset_interval: list[float | None]  # None: later than the last layer
    onset_found_share: float  # share of resamples with an onset
    peak: float
    peak_interval: list[float]
    peak_value: float
    half_maximum: float | None
    half_maximum_interval: list[float | None]
    resampled_onset: np.ndarray  # [B] float, inf where there is none


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    files = parser.add_argument_group("files")
    files.add_argument(
        "datasets",
        nargs="+",
        type=Path,
        help="NPZ files of stage 4 with stacked layers, one per trait (--layers all)",
    )
    files.add_argument(
        "--s2-results",
        nargs="*",
        type=Path,
        default=[],
        help="stage 2 result folders, in any order: adds the best single feature of every SAE to the figures",
    )
    files.add_argument(
        "--output", type=Path, default=STAGE / "emergence", help="folder to write (default: emergence)"
    )
    design = parser.add_argument_group("design")
    design.add_argument(
        "--probes",
        nargs="+",
        choices=PROBES,
        default=list(PROBES),
        help="probes; the first one leads the figures",
    )
    design.add_argument(
        "--metric", choices=METRICS, default="kappa", help="metric of the figures and the summary"
    )
    design.add_argument("--folds", type=int, default=5, help="folds of each cross-validation (default: 5)")
    design.add_argument(
        "--repeats", type=int, default=5, help="cross-validations with new folds (default: 5)"
    )
    design.add_argument("--bootstrap", type=int, default=2000, help="resamples of the groups (default: 2000)")
    design.add_argument("--permutations", type=int, default=20, help="shuffled label sets (default: 20)")
    design.add_argument(
        "--seed", type=int, default=0, help="seed of folds, resamples and shuffles (default: 0)"
    )
    strength = parser.add_argument_group(
        "regularisation, for rows of length about 1, the same at every layer"
    )
    strength.add_argument(
        "--logistic-c", type=float, default=Strengths.logistic_c, help="C of the logistic probe"
    )
    strength.add_argument(
        "--ridge-lambda", type=float, default=Strengths.ridge_lambda, help="penalty of the ridge probe"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--jobs", type=int, default=2, help="layers computed at the same time (default: 2)")
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    for name, least in {"folds": 2, "repeats": 1, "bootstrap": 100, "permutations": 2, "jobs": 1}.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; at least {least}")
    if args.logistic_c <= 0 or args.ridge_lambda <= 0:
        parser.error("--logistic-c and --ridge-lambda have to be positive")
    return args


def load_stacked(path: Path, folds: int) -> Dataset:
    """A classification dataset with at least two stacked layers and enough groups in each class."""
    dataset = load_dataset(path)
    remedy = "run s4_classifier_data_prep/generate_datasets.py --strategy hidden-to-concept --layers all"
    if dataset.task != "classification" or len(dataset.layers) < 2:
        raise ValueError(
            f"{path} holds {dataset.metadata['strategy']} with {len(dataset.layers)} layers; {remedy}"
        )
    if dataset.X.shape[1] != len(dataset.layers) * dataset.d_model:
        raise ValueError(
            f"{path}: {dataset.X.shape[1]} inputs are not {len(dataset.layers)} layers; {remedy}"
        )
    for label in np.unique(dataset.y):
        n_groups = len(np.unique(dataset.groups[dataset.y == label]))
        if n_groups < 2 * folds:
            raise ValueError(
                f"{path}: class {label} has {n_groups} groups; {folds} folds need at least {2 * folds}"
            )
    return dataset


def permute_by_group(codes: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle labels [n] by letting groups of one size exchange theirs: the rows of a scene stay together."""
    shuffled = codes.copy()
    _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    rows_by_group = np.split(np.argsort(group_of_row, kind="stable"), np.cumsum(sizes)[:-1])
    for size in np.unique(sizes):
        block = np.stack([rows for rows in rows_by_group if len(rows) == size])  # [groups of this size, size]
        donors = rng.permuted(block[rng.permutation(len(block))], axis=1)
        shuffled[block] = codes[donors]
    return shuffled


def probe_layer(
    X: np.ndarray,
    codes: np.ndarray,
    shuffled: np.ndarray,
    repeats: list[Folds],
    probes: list[str],
    strengths: Strengths,
) -> dict[str, tuple[np.ndarray, ...]]:
    """Out-of-fold predictions of one layer.

    X [n, d], `codes` [n], `shuffled` [n, P]. Per probe: codes and scores of the true labels [n, R], and of
    the shuffled labels in the first repeat [n, P].
    """
    n, n_repeats, n_shuffled = len(codes), len(repeats), shuffled.shape[1]
    filled = {
        probe: (
            np.full((n, n_repeats), -1),
            np.full((n, n_repeats), np.nan),
            np.full((n, n_shuffled), -1),
            np.full((n, n_shuffled), np.nan),
        )
        for probe in probes
    }
    for repeat, folds in enumerate(repeats):
        labels = np.column_stack([codes, shuffled]) if repeat == 0 else codes[:, None]  # [n, 1 + P] or [n, 1]
        for train, test in folds:
            for probe, (predicted, scores) in probe_split(
                X, labels, train, test, tuple(probes), strengths
            ).items():
                true_codes, true_scores, null_codes, null_scores = filled[probe]
                true_codes[test, repeat], true_scores[test, repeat] = predicted[:, 0], scores[:, 0]
                if repeat == 0:
                    null_codes[test], null_scores[test] = predicted[:, 1:], scores[:, 1:]
    return filled


def tfidf_split(
    sentences: np.ndarray,
    codes: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scores [n_test] of logistic regression on words and word pairs.

    Vocabulary and document frequencies come from the training rows; the penalty is chosen among them by
    grouped 3-fold cross-validation, so the text gets every chance.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(sentences[train])
    rows = words.transform(sentences)  # CSR [n, vocabulary]
    products = (rows @ rows[train].T).toarray()  # [n, n_train]
    onehot = np.eye(int(codes.max()) + 1)[codes[train]][:, None, :]  # [n_train, 1, K]

    def fit_predict(inside: np.ndarray, outside: np.ndarray, C: float) -> np.ndarray:
        """Logits [len(outside), K] after fitting on `inside`, rows of the training part."""
        columns = np.searchsorted(train, inside)
        model = KernelLogistic.from_gram(products[np.ix_(inside, columns)], C)
        return model.logits(products[np.ix_(outside, columns)], model.fit(onehot[columns]))[:, 0]

    hits = dict.fromkeys(TFIDF_PENALTIES, 0)
    for inside, outside in grouped_folds(codes[train], groups[train], 3, seed):
        for C in TFIDF_PENALTIES:
            predicted = fit_predict(train[inside], train[outside], C).argmax(axis=1)
            hits[C] += int((predicted == codes[train[outside]]).sum())
    logits = fit_predict(train, test, max(hits, key=hits.get))
    return logits.argmax(axis=1), np.exp(log_softmax(logits)) @ np.arange(logits.shape[1])


def floor_predictions(
    dataset: Dataset, codes: np.ndarray, repeats: list[Folds], seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Out-of-fold codes and scores, each [n, R], of the commonest class, sentence length, and words."""
    n = len(codes)
    common = np.full((n, len(repeats)), np.bincount(codes).argmax())
    filled = {
        name: (np.full((n, len(repeats)), -1), np.full((n, len(repeats)), np.nan)) for name in FLOORS[1:]
    }
    lengths = np.array(
        [[len(str(text).split()), len(str(text))] for text in dataset.sentences], float
    )  # [n, 2]
    for repeat, folds in enumerate(tqdm(repeats, desc="text floors", disable=None)):
        for train, test in folds:
            scaler = StandardScaler().fit(lengths[train])
            on_length = LogisticRegression().fit(scaler.transform(lengths[train]), codes[train])
            shares = on_length.predict_proba(scaler.transform(lengths[test]))
            filled["length"][0][test, repeat] = shares.argmax(axis=1)
            filled["length"][1][test, repeat] = shares @ np.arange(shares.shape[1])
            predicted, scores = tfidf_split(dataset.sentences, codes, dataset.groups, train, test, seed)
            filled["tfidf"][0][test, repeat], filled["tfidf"][1][test, repeat] = predicted, scores
    return {"majority": (common, np.zeros_like(common, float)), **filled}


def resampled_metric(
    metric: str, codes: np.ndarray, predicted: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """A metric under each row of weights, [B], averaged over the repeats, the columns of `predicted` [n, R].

    `auroc` sets the top class against the bottom class and leaves the others out.
    """
    n_classes = int(codes.max()) + 1
    by_repeat = []
    for repeat in range(predicted.shape[1]):
        if metric == "auroc":
            ends = (codes == 0) | (codes == n_classes - 1)
            by_repeat.append(auroc(codes[ends] > 0, scores[ends, repeat], weights[:, ends]))
        else:
            confusion = confusion_counts(codes, predicted[:, repeat], n_classes, weights)
            by_repeat.append(accuracy(confusion) if metric == "accuracy" else quadratic_kappa(confusion))
    return np.mean(by_repeat, axis=0)


def simultaneous_half_width(value: np.ndarray, resampled: np.ndarray) -> np.ndarray:
    """Half-widths [N] of a band that holds the whole curve with 95 % confidence.

    The max-t band: c · sd(layer), with c the 95 % quantile over resamples of the largest standardised
    deviation (Davison & Hinkley 1997, section 4.2.4).
    """
    spread = resampled.std(axis=0, ddof=1)  # [N]
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.abs(resampled - value) / spread  # [B, N]
    return np.quantile(np.nanmax(deviations, axis=1), LEVEL) * spread


def first_of_two(clears: np.ndarray) -> np.ndarray:
    """Position of the first of two consecutive True, for each row of bool [B, N]; N where there is none."""
    pairs = clears[:, :-1] & clears[:, 1:]  # [B, N - 1]
    return np.where(pairs.any(axis=1), pairs.argmax(axis=1), clears.shape[1])


def half_maximum_position(curves: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Interpolated position at which each curve [B, N] first is half of the way from `base` [B] to its peak.

    NaN where the peak does not exceed the base.
    """
    middle = (base + curves.max(axis=1)) / 2  # [B]
    reached = (curves >= middle[:, None]).argmax(axis=1)  # [B], the peak itself reaches it
    before = np.maximum(reached - 1, 0)
    rows = np.arange(len(curves))
    rise = curves[rows, reached] - curves[rows, before]
    share = np.divide(middle - curves[rows, before], rise, out=np.ones(len(curves)), where=rise > 0)
    positions = np.where(reached == 0, 0.0, before + share)
    return np.where(curves.max(axis=1) > base, positions, np.nan)


def landmarks(layers: np.ndarray, curve: Curve, floors: dict[str, Curve], null_upper: float) -> Landmarks:
    """Onset, peak and half-maximum of a curve, with percentile intervals from the same resamples.

    A layer clears the floors if the lower simultaneous band of its paired difference from every text floor
    is above zero and its own lower band is above `null_upper`. The onset is the first of two consecutive
    such layers. The half-maximum is half of the way from the strongest text floor to the peak.
    """
    n_layers = len(layers)
    margins = [curve.value - simultaneous_half_width(curve.value, curve.resampled) - null_upper]
    shifted = [curve.resampled - simultaneous_half_width(curve.value, curve.resampled) - null_upper]
    for floor in floors.values():
        difference, resampled = curve.value - floor.value, curve.resampled - floor.resampled  # [N], [B, N]
        half_width = simultaneous_half_width(difference, resampled)
        margins.append(difference - half_width)
        shifted.append(resampled - half_width)
    clears = (np.stack(margins) > 0).all(axis=0)  # [N]
    onset = int(first_of_two(clears[None])[0])
    resampled_onset = first_of_two((np.stack(shifted) > 0).all(axis=0))  # [B]
    numbers = np.append(layers.astype(float), np.inf)

    base = max(float(floor.value[0]) for floor in floors.values())
    base_resampled = np.max([floor.resampled[:, 0] for floor in floors.values()], axis=0)  # [B]
    half = half_maximum_position(curve.value[None], np.array([base]))[0]
    half_resampled = half_maximum_position(curve.resampled, base_resampled)  # [B]

    def interval(positions: np.ndarray, to_layer) -> list[float | None]:
        ends = np.quantile(positions, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        values = [float(to_layer(end)) for end in ends]
        return [value if np.isfinite(value) else None for value in values]

    def between(position: float) -> float:
        return float(np.interp(position, np.arange(n_layers), layers)) if np.isfinite(position) else np.inf

    half_filled = np.where(np.isnan(half_resampled), np.inf, half_resampled)
    return Landmarks(
        clears=clears,
        onset=float(numbers[onset]) if onset < n_layers else None,
        onset_interval=interval(resampled_onset, lambda end: numbers[int(end)]),
        onset_found_share=float((resampled_onset < n_layers).mean()),
        peak=float(layers[curve.value.argmax()]),
        peak_interval=interval(curve.resampled.argmax(axis=1), lambda end: layers[int(end)]),
        peak_value=float(curve.value.max()),
        half_maximum=None if np.isnan(half) else between(half),
        half_maximum_interval=interval(half_filled, between),
        resampled_onset=numbers[resampled_onset],
    )


def study_trait(dataset: Dataset, args: argparse.Namespace) -> dict:
    """Everything measured about one trait."""
    codes = np.unique(dataset.y, return_inverse=True)[1]  # [n]
    repeats = [grouped_folds(codes, dataset.groups, args.folds, args.seed + r) for r in range(args.repeats)]
    rng = np.random.default_rng([args.seed, 1])
    shuffled = np.stack(
        [permute_by_group(codes, dataset.groups, rng) for _ in range(args.permutations)], axis=1
    )
    strengths = Strengths(args.logistic_c, args.ridge_lambda)
    d_model, n_layers = dataset.d_model, len(dataset.layers)

    def one_layer(k: int) -> dict[str, tuple[np.ndarray, ...]]:
        X = dataset.X[:, k * d_model : (k + 1) * d_model]
        return probe_layer(X, codes, shuffled, repeats, args.probes, strengths)

    trait = dataset.metadata["trait"]
    with ThreadPoolExecutor(args.jobs) as pool:  # the work is in BLAS, which leaves Python's lock
        by_layer = list(
            tqdm(pool.map(one_layer, range(n_layers)), total=n_layers, desc=f"{trait}: layers", disable=None)
        )
    floors = floor_predictions(dataset, codes, repeats, args.seed)

    # Another stream than the folds', and one per trait, so that resamples of two traits are independent.
    digest = int(dataset.sha256[:8], 16)
    weights = bootstrap_weights(dataset.groups, args.bootstrap, np.random.default_rng([args.seed, 2, digest]))
    once = np.ones((1, len(codes)))
    study: dict = {"dataset": dataset, "floors": {}, "curves": {}, "null": {}, "landmarks": {}}
    for metric in METRICS:
        for name, (predicted, scores) in floors.items():
            study["floors"][name, metric] = Curve(
                resampled_metric(metric, codes, predicted, scores, once),  # [1], broadcasts against layers
                resampled_metric(metric, codes, predicted, scores, weights)[:, None],  # [B, 1]
            )
        for probe in args.probes:
            outputs = [layer[probe] for layer in by_layer]
            curve = Curve(
                np.array([resampled_metric(metric, codes, *out[:2], once)[0] for out in outputs]),
                np.stack([resampled_metric(metric, codes, *out[:2], weights) for out in outputs], axis=1),
            )
            null = np.array(
                [
                    [
                        resampled_metric(metric, shuffled[:, p], out[2][:, [p]], out[3][:, [p]], once)[0]
                        for out in outputs
                    ]
                    for p in range(args.permutations)
                ]
            )  # [P, N]
            null_upper = float(np.quantile(null.max(axis=1), LEVEL, method="higher"))
            study["curves"][probe, metric], study["null"][probe, metric] = curve, null
            study["landmarks"][probe, metric] = landmarks(
                dataset.layers, curve, {name: study["floors"][name, metric] for name in FLOORS}, null_upper
            )
    return study


def read_rungs(folders: list[Path], datasets: list[Dataset]) -> dict[str, pd.DataFrame]:
    """`best_per_sae.csv` of each stage 2 result, by the trait whose dataset it belongs to."""
    by_source = {dataset.metadata["source"]["input_sha256"]: dataset for dataset in datasets}
    rungs = {}
    for folder in folders:
        remedy = "run s2_find_top_features/analyze_features.py"
        ran_on = read_json(folder / "run.json", remedy).get("features_run", {})
        dataset = by_source.get(ran_on.get("input_sha256"))
        if dataset is None or dataset.metadata["source"]["model"] != ran_on.get("model"):
            raise ValueError(
                f"{folder} was computed from sentences or a model that none of the datasets come from"
            )
        path = folder / "best_per_sae.csv"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {remedy}")
        rungs[dataset.metadata["trait"]] = pd.read_csv(path)
    return rungs


def onset_differences(studies: dict[str, dict], probe: str, metric: str) -> list[dict]:
    """How many layers later the second trait's onset is, for every pair, from independent resamples.

    A resample without an onset counts as later than any layer; intervals that reach there end in None.
    """
    rows = []
    for first, second in combinations(studies, 2):
        a, b = (studies[trait]["landmarks"][probe, metric] for trait in (first, second))
        with np.errstate(invalid="ignore"):
            lag = b.resampled_onset - a.resampled_onset  # inf - inf: neither has one, no order
        lag = np.where(np.isnan(lag), 0.0, lag)
        ends = np.quantile(lag, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        rows.append(
            {
                "first": first,
                "second": second,
                "layers_later": b.onset - a.onset if a.onset is not None and b.onset is not None else None,
                "interval": [float(end) if np.isfinite(end) else None for end in ends],
                "share_first_earlier": float((lag > 0).mean()),
                "share_second_earlier": float((lag < 0).mean()),
            }
        )
    return rows


def summary(studies: dict[str, dict], args: argparse.Namespace) -> dict:
    """The content of emergence.json."""
    traits = {}
    for trait, study in studies.items():
        dataset: Dataset = study["dataset"]
        entry: dict = {
            "dataset": {"path": str(dataset.path), "sha256": dataset.sha256, "metadata": dataset.metadata},
            "n_sentences": len(dataset.y),
            "n_groups": len(np.unique(dataset.groups)),
            "layers": dataset.layers,
            "floors": {},
            "probes": {},
        }
        for (name, metric), floor in study["floors"].items():
            low, high = np.quantile(floor.resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            entry["floors"].setdefault(name, {})[metric] = {"value": floor.value[0], "low": low, "high": high}
        for (probe, metric), curve in study["curves"].items():
            half_width = simultaneous_half_width(curve.value, curve.resampled)
            null, marks = study["null"][probe, metric], study["landmarks"][probe, metric]
            entry["probes"].setdefault(probe, {})[metric] = {
                "value": curve.value,
                "band_low": curve.value - half_width,
                "band_high": curve.value + half_width,
                "shuffled_mean": null.mean(axis=0),
                "shuffled_low": null.min(axis=0),
                "shuffled_high": null.max(axis=0),
                "shuffled_upper": float(np.quantile(null.max(axis=1), LEVEL, method="higher")),
                **{name: value for name, value in vars(marks).items() if name != "resampled_onset"},
            }
        traits[trait] = entry
    lead = args.probes[0]
    return {
        "format_version": 1,
        "metric": args.metric,
        "lead_probe": lead,
        "traits": traits,
        "onset_differences": onset_differences(studies, lead, args.metric),
    }


def curve_table(content: dict) -> pd.DataFrame:
    """emergence.csv: one row per trait, probe or floor, metric and layer."""
    rows = []
    for trait, entry in content["traits"].items():
        for probe, metrics in entry["probes"].items():
            for metric, figures in metrics.items():
                rows += [
                    {
                        "trait": trait,
                        "source": probe,
                        "metric": metric,
                        "layer": layer,
                        "value": value,
                        "low": low,
                        "high": high,
                        "clears_floors": bool(clears),
                    }
                    for layer, value, low, high, clears in zip(
                        entry["layers"],
                        figures["value"],
                        figures["band_low"],
                        figures["band_high"],
                        figures["clears"],
                    )
                ]
        for floor, metrics in entry["floors"].items():
            rows += [
                {"trait": trait, "source": floor, "metric": metric, **figures}
                for metric, figures in metrics.items()
            ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def describe(trait: str, entry: dict, probe: str, metric: str) -> str:
    """One line per trait for the terminal."""
    figures = entry["probes"][probe][metric]

    def place(value: float | None, interval: list[float | None]) -> str:
        low, high = (f"{end:g}" if end is not None else "none" for end in interval)
        return "none" if value is None else f"{value:.3g} [{low}, {high}]"

    strongest = max(entry["floors"], key=lambda name: entry["floors"][name][metric]["value"])
    return (
        f"{trait}: onset {place(figures['onset'], figures['onset_interval'])}, "
        f"peak {place(figures['peak'], figures['peak_interval'])} with {metric} {figures['peak_value']:.3f} "
        f"(strongest floor {strongest} {entry['floors'][strongest][metric]['value']:.3f})"
    )


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    started = time.monotonic()
    try:
        datasets = [load_stacked(path, args.folds) for path in args.datasets]
        names = [dataset.metadata["trait"] for dataset in datasets]
        if len(set(names)) < len(names):
            raise ValueError(f"two datasets are of one trait ({', '.join(names)}); give one per trait")
        rungs = read_rungs(args.s2_results, datasets)
        with threadpool_limits(1):  # the jobs are the parallelism, and results do not depend on the machine
            studies = {dataset.metadata["trait"]: study_trait(dataset, args) for dataset in datasets}
        content = json.loads(json.dumps(summary(studies, args), default=emergence_figures.plain))
        with replaced_together(args.output, last="run.json") as fresh:
            write_json(fresh / "emergence.json", content)
            curve_table(content).to_csv(fresh / "emergence.csv", index=False)
            for trait, entry in content["traits"].items():
                emergence_figures.draw_trait(fresh / f"{trait}.png", trait, entry, content, rungs.get(trait))
            if len(names) > 1:
                emergence_figures.draw_traits(fresh / "all_traits.png", content)
            write_json(
                fresh / "run.json",
                {
                    "format_version": 1,
                    "arguments": json.loads(json.dumps(vars(args), default=str)),
                    "seed": args.seed,
                    "libraries": library_versions(),
                    "inputs": {str(dataset.path): dataset.sha256 for dataset in datasets},
                    "seconds": round(time.monotonic() - started, 2),
                },
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for trait, entry in content["traits"].items():
        print(describe(trait, entry, args.probes[0], args.metric))
    print(f"wrote {args.output}: emergence.json, emergence.csv and {len(names) + (len(names) > 1)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
