"""How well the gradient predicts what finite steering does, for random features of several layers.

    uv run python tests/benchmarks/first_order_slopes.py --input FEATURES

FEATURES is a folder of s1 made on the embedded model with `--gradients`. Features that fire in ten sentences
at least are drawn from one SAE of each of three layers: the slope (D(α) - D(-α)) / 2α, D being the mean
log-probability per token of label 3 minus label 0, α in units of the feature's largest activation, beside its
first-order prediction. At small α both must agree, up to rounding and the sample of the vocabulary; what they
lack at α = 1 is curvature.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "s1_compute_all_features"))

from autoencoders.configurations import read_configurations  # noqa: E402
from autoencoders.feature_places import FeaturePlace  # noqa: E402
from autoencoders.sae_source import SaeSource  # noqa: E402
from extraction.run_options import CONFIGURATIONS, DEMO  # noqa: E402
from finite_steering.directions import finalist_direction  # noqa: E402
from finite_steering.dose_response import GAP_LABELS  # noqa: E402
from finite_steering.finalists import activity  # noqa: E402
from finite_steering.measured_sentences import MeasuredSentences, choose_sentences  # noqa: E402
from finite_steering.measured_text import MeasuredText, folder_tokens  # noqa: E402
from finite_steering.recorded_text import RecordedText  # noqa: E402
from language_model.embedded_model import DEMO_MODEL_ID, demo_model_folder  # noqa: E402
from language_model.model_source import load_model  # noqa: E402
from twins_s1.feature_folder import (  # noqa: E402
    FeatureFolder,
    find_sae,
    open_feature_folder,
    read_sae_activations,
)
from twins_s1.progress import progress  # noqa: E402

MIN_FIRING = 10  # sentences


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="feature folder with gradients")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 9, 15], help="default: 3 9 15")
    parser.add_argument("--features", type=int, default=18, help="of each layer (default: 18)")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.5, 1.0], help="default: 0.1 0.5 1")
    parser.add_argument("--sentences", type=int, default=20, help="of each of two labels (default: 20)")
    parser.add_argument("--words", type=int, default=32768, help="of the vocabulary (default: 32768)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    model, tokenizer = load_model(str(demo_model_folder()), dtype=torch.float32, device=torch.device("cpu"))
    folder = open_feature_folder(args.input)
    sentences = of_gap_labels(choose_sentences(folder.labels, folder.groups, None, args.sentences, args.seed))
    tokenized = folder_tokens(folder, tokenizer.bos_token_id).subset(sentences.index)
    text = MeasuredText(folder, sentences, tokenized, None, 4096, args.words, 1, args.seed)
    recorded = RecordedText.of(model, text, args.layers)
    slopes = {layer: slopes_of_layer(recorded, layer, args) for layer in args.layers}  # [feature, 1 + alphas]
    report("all layers", np.concatenate(list(slopes.values())), args.alphas)
    for layer, of_layer in slopes.items():
        report(f"layer {layer}", of_layer, args.alphas)
    return 0


def of_gap_labels(chosen: MeasuredSentences) -> MeasuredSentences:
    kept = np.isin(chosen.labels, GAP_LABELS)
    return MeasuredSentences(chosen.index[kept], chosen.labels[kept], chosen.groups[kept], chosen.held_out)


def slopes_of_layer(recorded: RecordedText, layer: int, args: argparse.Namespace) -> np.ndarray:
    """Predicted slope, then the measured one at each α, of random features of the layer's first SAE."""
    folder = recorded.text.folder
    configurations = read_configurations(CONFIGURATIONS[DEMO_MODEL_ID])
    entry = next(entry for entry in configurations.saes if entry.layer == layer)
    saes = SaeSource.of(configurations, None, None, True, default_place=str(DEMO))
    w_dec = saes.read_decoder(entry, recorded.text.folder.run["d_model"])
    activations = read_sae_activations(folder, find_sae(folder, layer, entry.average_l0))
    seen = activity(activations)
    rng = np.random.default_rng([args.seed, layer])
    chosen = rng.choice(often_firing(activations, folder), size=args.features, replace=False)
    probe = recorded.probe(layer)
    found = []
    with progress(len(chosen), "feature", f"layer {layer}") as bar:
        for feature in chosen:
            direction = finalist_direction(FeaturePlace(layer, entry.average_l0, int(feature)), seen, w_dec)
            row = [probe.gap(probe.first_order(direction))]
            for alpha in args.alphas:
                up, down = (probe.change(a * direction.vector, GAP_LABELS) for a in (alpha, -alpha))
                row.append((probe.gap(up) - probe.gap(down)) / (2 * alpha))
            found.append(row)
            bar.update()
    return np.array(found)


def often_firing(activations, folder: FeatureFolder) -> np.ndarray:
    """Ids of features that fire in `MIN_FIRING` sentences at least."""
    n_sentences = len(folder.labels)
    sentence = np.repeat(np.arange(n_sentences), np.diff(folder.sentence_offsets))  # [T]
    token, feature = activations.nonzero()
    firing = np.unique(np.stack([sentence[token], feature]), axis=1)
    return np.flatnonzero(np.bincount(firing[1], minlength=activations.shape[1]) >= MIN_FIRING)


def report(name: str, slopes: np.ndarray, alphas: list[float]) -> None:
    predicted = slopes[:, 0]
    print(f"{name}: {len(predicted)} features, predicted slopes of standard deviation {predicted.std():.4f}")
    for alpha, measured in zip(alphas, slopes[:, 1:].T):
        r_squared = 1 - ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()
        correlation = np.corrcoef(predicted, measured)[0, 1]
        off = np.median(np.abs(measured - predicted) / np.abs(predicted))
        print(
            f"  α = {alpha:<5g} r {correlation:6.3f}   R² of measured = predicted {r_squared:6.3f}   "
            f"median |difference| {100 * off:5.1f} %"
        )


if __name__ == "__main__":
    sys.exit(main())
