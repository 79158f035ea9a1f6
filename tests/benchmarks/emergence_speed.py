"""Time of the emergence study at the full model's size: 26 layers, d_model 2,304, 1,000 synthetic sentences.

python tests/benchmarks/emergence_speed.py            # one trait; five take five times as long
python tests/benchmarks/emergence_speed.py --layers 4 # a sample of the layers, extrapolated
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "s5_classifier_training" / "framework"))
FULL_LAYERS, TRAITS = 26, 5


def write_stacked(path: Path, n: int, n_layers: int, d_model: int) -> None:
    """Noise with the label in one direction from the middle layer on; four labels, groups of two."""
    rng = np.random.default_rng(0)
    labels = np.arange(n, dtype=np.int64) % 4
    X = rng.normal(size=(n, n_layers * d_model)).astype(np.float32)  # [n, N * d_model]
    for layer in range(n_layers // 2, n_layers):
        X[:, layer * d_model : layer * d_model + 200] += 0.3 * labels[:, None]
    words = np.array([f"w{i}" for i in range(3000)])
    metadata = {
        "format_version": 1,
        "strategy": "hidden-to-concept",
        "task": "classification",
        "trait": "synthetic",
        "source": {"input_sha256": "", "model": "synthetic"},
    }
    np.savez(
        path,
        X=X,
        y=labels,
        sentence_index=np.arange(n),
        group=np.arange(n) // 2,
        layers=np.arange(n_layers),
        d_model=np.int64(d_model),
        sentences=np.array([" ".join(row) for row in rng.choice(words, size=(n, 18))]),
        part=np.full(n, ""),
        metadata=np.array(json.dumps(metadata)),
    )


def main() -> int:
    import emergence

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=FULL_LAYERS, help="layers to run (default: 26)")
    parser.add_argument("--sentences", type=int, default=1000, help="sentences (default: 1000)")
    parser.add_argument("--d-model", type=int, default=2304, help="width (default: 2304)")
    parser.add_argument("--jobs", type=int, default=2, help="layers at the same time (default: 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.npz"
        write_stacked(path, args.sentences, args.layers, args.d_model)
        started, cpu = time.monotonic(), time.process_time()
        status = emergence.main([str(path), "--output", folder, "--jobs", str(args.jobs)])
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    scale = TRAITS * FULL_LAYERS / args.layers
    print(
        f"{args.layers} layers: {seconds:.0f} s wall, {cpu:.0f} s processor; "
        f"{TRAITS} traits of {FULL_LAYERS} layers at this rate: {scale * seconds / 60:.1f} min wall, "
        f"{scale * cpu / args.jobs / 60:.1f} min with {args.jobs} idle cores"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
