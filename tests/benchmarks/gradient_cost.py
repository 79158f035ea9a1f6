"""The cost of likelihood gradients beside the forward pass, and of all effects beside finite differences.

    uv run python tests/benchmarks/gradient_cost.py --sentences 40

On the embedded model and its SAEs: seconds per 1,000 tokens of the forward pass that records every layer, and
of the gradient pass; then the effects of all features of one SAE by our product, and by one finite difference
for each feature (a few are run, the rest extrapolated).
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "s1_compute_all_features"))

from autoencoders.configurations import read_configurations  # noqa: E402
from autoencoders.sae_effects import steering  # noqa: E402
from autoencoders.sae_source import SaeSource  # noqa: E402
from extraction.run_options import CONFIGURATIONS, DEMO  # noqa: E402
from language_model.embedded_model import DEMO_MODEL_ID, demo_model_folder  # noqa: E402
from language_model.likelihood_gradients import MOST_POSITIONS, gradient_batches  # noqa: E402
from language_model.model_source import load_model  # noqa: E402
from language_model.residual_stream import residual_stream_batches  # noqa: E402
from language_model.tokens import pack_batches, tokenize  # noqa: E402
from language_model.upper_blocks import UpperBlocks, record_batches  # noqa: E402
from language_model.vocabulary_head import VocabularyHead  # noqa: E402

SENTENCES = ROOT / "s0_dataset_generation/expanded_data/aggression.csv"


def seconds(work: Callable) -> tuple[float, object]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=40, help="of the aggression set (default: 40)")
    parser.add_argument("--differences", type=int, default=2, help="finite differences to run (default: 2)")
    args = parser.parse_args()
    model, tokenizer = load_model(str(demo_model_folder()), dtype=torch.float32, device=torch.device("cpu"))
    with SENTENCES.open(encoding="utf-8") as handle:
        texts = [row["sentence"] for row in csv.DictReader(handle)][: args.sentences]
    tokenized = tokenize(texts, tokenizer, 2048)
    n_tokens = len(tokenized.token_ids)
    batches = pack_batches(tokenized.n_positions, MOST_POSITIONS)
    layers = list(range(model.config.num_hidden_layers))
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{len(texts)} sentences, {n_tokens} tokens, {len(layers)} layers")

    forward, _ = seconds(lambda: list(residual_stream_batches(model, tokenized, layers, batches)))
    backward, found = seconds(lambda: list(gradient_batches(model, tokenized, layers, batches)))
    for name, taken in (("forward pass, all layers", forward), ("gradient pass, all layers", backward)):
        print(f"{name:<28} {1000 * taken / n_tokens:8.2f} s per 1,000 tokens")
    print(f"{'ratio':<28} {backward / forward:8.1f}")

    configurations = read_configurations(CONFIGURATIONS[DEMO_MODEL_ID])
    entry = next(entry for entry in configurations.saes if entry.layer == 9)
    saes = SaeSource.of(configurations, None, None, True, default_place=str(DEMO))
    w_dec = saes.read_decoder(entry, model.config.hidden_size)
    gradients = np.empty((n_tokens, w_dec.shape[1]), np.float32)
    for batch in found:
        gradients[batch.rows] = batch.by_layer[entry.layer]
    product, effects = seconds(lambda: steering(gradients, tokenized.sentence_offsets, w_dec))
    recorded = record_batches(model, [entry.layer], tokenized, batches)
    upper = UpperBlocks(VocabularyHead(model), entry.layer, recorded)

    def one_difference(feature: int, step: float = 1.0) -> np.ndarray:
        above, below = (
            upper.mean_log_probs((batch, sign * step * w_dec[feature]) for batch in upper.batches)
            for sign in (1, -1)
        )
        return (above - below) / (2 * step)

    features = range(args.differences)
    taken, differences = seconds(lambda: [one_difference(feature) for feature in features])
    one = taken / args.differences
    correlation = np.corrcoef(np.concatenate(differences), effects[:, : args.differences].T.ravel())[0, 1]
    whole = product + backward
    print(f"all {len(w_dec)} features by product    {product:8.4f} s (with the gradient pass {whole:.1f} s)")
    print(f"one finite difference        {one:8.2f} s; all, extrapolated: {one * len(w_dec):.0f} s")
    print(f"ratio                        {one * len(w_dec) / whole:8.0f} with the pass")
    print(f"                             {one * len(w_dec) / product:8.0f} without it")
    print(
        f"correlation of both          {correlation:8.4f} over {args.differences} features and all sentences"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
