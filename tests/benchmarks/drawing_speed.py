"""Measures how many sentence figures one process draws per second, and how much memory it takes.

Run from the repository root: `python tests/benchmarks/drawing_speed.py`. Processor time is what counts on a
machine that does other work as well; wall time is printed beside it.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "s3_feature_activation_graphs")]

from drawing_inputs.drawn_run import load_run  # noqa: E402
from drawings.sentence_drawing import SentencePainter  # noqa: E402
from drawings.sentence_style import SentenceStyle  # noqa: E402
from drawings.typography import Typography  # noqa: E402
from synthetic_features import SyntheticSae, write_feature_folder  # noqa: E402


def peak_memory() -> float:
    """MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=200, help="figures drawn of each kind")
    parser.add_argument("--tokens", type=int, default=25, help="tokens of each sentence")
    parser.add_argument("--features", type=int, default=10, help="features in each figure")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        s1 = write_feature_folder(
            Path(folder) / "s1",
            n_sentences=options.sentences,
            saes=(SyntheticSae(1, 8),),
            sentence_lengths=(options.tokens, options.tokens),
        )
        run = load_run(s1, None, [(1, 8, i) for i in range(options.features)], options.features)
        typography = Typography.covering(run.s1.sentences["sentence"])
        for kind in ("lines", "heatmap", "both"):
            painter = SentencePainter(run, typography, SentenceStyle(kind=kind), Path(folder))
            painter(0)  # builds the figure
            memory = peak_memory()
            wall, processor = time.perf_counter(), time.process_time()
            for row in range(options.sentences):
                painter(row)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            print(
                f"{kind}: {options.sentences / processor:.1f} figures per second of processor time, "
                f"{options.sentences / wall:.1f} per second of wall time; memory grew by "
                f"{peak_memory() - memory:.0f} MiB to {peak_memory():.0f} MiB"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
