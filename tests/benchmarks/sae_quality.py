"""How good the SAEs of the embedded model are, by others' tasks and beside two nulls.

    uv run --group ethics python tests/benchmarks/sae_quality.py --text DIR --work DIR [--saes DIR ...]

For every SAE of a folder in Gemma Scope's layout: explained variance, L0 and dead features on text that was
held out of training, mean AUROC of the sparse probe of sae-probes over the tasks of yardstick_tasks.txt, and
of the best single feature for each trait, chosen on one half of people's sentences and measured on the other.
Nulls: the residual stream's own dimensions, standardised on that text; and as many random directions as the
SAE has features, each with the threshold at which they fire as often as the SAE's do on average.
`--text` is what gather_text.py wrote.
Activations are kept in `--work`: a second start, or another folder of SAEs, computes only what is new.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[2]
S1 = ROOT / "s1_compute_all_features"
sys.path.insert(0, str(S1))

from language_model.embedded_model import demo_model_folder  # noqa: E402
from language_model.model_source import load_model  # noqa: E402
from language_model.residual_stream import residual_stream_batches  # noqa: E402
from language_model.tokens import pack_batches, tokenize  # noqa: E402
from sae_measures import (  # noqa: E402
    Encode,
    Sae,
    best_feature_auroc,
    described,
    mean_with_interval,
    random_directions,
    read_saes,
    standardised,
)
from sae_probe_tasks import Task, probe_auroc, read_task  # noqa: E402
from twins_s1.atomic_files import write_arrays, write_text  # noqa: E402
from twins_s1.progress import progress  # noqa: E402

TASKS = S1 / "demo/yardstick_tasks.txt"
KS = (1, 16)
HELD_OUT_EVERY = 20  # of the texts of a source, in the order in which training takes them


@dataclass(frozen=True)
class Texts:
    """Residual streams of texts: of all their tokens, of which text t has offsets[t]:offsets[t + 1]."""

    offsets: np.ndarray
    layers: dict[int, np.ndarray]  # [T, d_model]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    on_text: str
    aurocs: dict[int, np.ndarray]  # by k, [n_tasks]
    traits: np.ndarray  # [n_traits]
    sae: Sae | None = None  # None: a null
    l0: float | None = None


def held_out_texts(folder: Path, tokens_a_source: int, tokenizer) -> list[str]:
    """Return texts that train_demo_saes.py holds out, the same share of each source, cut at 127 tokens."""
    texts = []
    for file in sorted(folder.glob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines()
        n_tokens = 0
        for index in np.random.default_rng(0).permutation(len(lines))[::HELD_OUT_EVERY]:
            ids = tokenizer(json.loads(lines[index])["text"], add_special_tokens=False).input_ids[:127]
            if len(ids) >= 5:
                texts.append(tokenizer.decode(ids))
                n_tokens += len(ids)
            if n_tokens >= tokens_a_source:
                break
    if not texts:
        raise FileNotFoundError(f"{folder}: no .jsonl of gather_text.py in it")
    return texts


class Activations:
    """Residual streams of the embedded model after some layers, kept in a folder."""

    def __init__(self, work: Path, layers: list[int]):
        self.work, self.layers = work, layers
        self.model, self.tokenizer = load_model(
            str(demo_model_folder()), dtype=torch.float32, device=torch.device("cpu")
        )

    def of(self, name: str, texts: list[str], last_only: bool = False) -> Texts:
        """Return the residual streams of all tokens of the texts, or only of the last of each."""
        asked = json.dumps([name, texts, self.layers, last_only])
        file = self.work / f"{hashlib.sha256(asked.encode()).hexdigest()[:20]}.npz"
        if not file.exists():
            write_arrays(file, **self._computed(texts, last_only))
        with np.load(file) as stored:
            return Texts(stored["offsets"], {layer: stored[f"layer_{layer}"] for layer in self.layers})

    def _computed(self, texts: list[str], last_only: bool) -> dict[str, np.ndarray]:
        tokenized = tokenize(texts, self.tokenizer, self.model.config.max_position_embeddings)
        offsets = tokenized.sentence_offsets
        kept = offsets[1:] - 1 if last_only else np.arange(offsets[-1])
        place = np.full(offsets[-1], -1)
        place[kept] = np.arange(len(kept))
        d_model = self.model.config.hidden_size
        arrays = {f"layer_{layer}": np.empty((len(kept), d_model), np.float32) for layer in self.layers}
        # Matrix products in bfloat16, the residual stream itself in float32, as the SAEs were trained.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batches = pack_batches(tokenized.n_positions, 4096)
            for rows, states in residual_stream_batches(self.model, tokenized, self.layers, batches):
                inside = place[rows] >= 0
                for layer in self.layers:
                    arrays[f"layer_{layer}"][place[rows][inside]] = states[layer].numpy()[inside]
        return arrays | {"offsets": np.arange(len(texts) + 1) if last_only else offsets}


@dataclass(frozen=True)
class Measured:
    """All residual streams that the yardstick needs."""

    held_out: Texts
    tasks: list[tuple[Task, Texts]]
    traits: list[tuple[pd.DataFrame, Texts]]

    def row(self, name: str, layer: int, on_text: str, encode: Encode) -> Row:
        by_k = {k: np.empty(len(self.tasks)) for k in KS}
        for index, (task, texts) in enumerate(self.tasks):
            codes = encode(texts.layers[layer])
            for k in KS:
                by_k[k][index] = probe_auroc(codes, task, k)
        traits = []
        for table, texts in self.traits:
            pooled = np.maximum.reduceat(
                encode(texts.layers[layer]), texts.offsets[:-1], axis=0
            )  # [n, d_sae]
            positive = table["concept_strength_label"].to_numpy() == 3
            traits.append(best_feature_auroc(pooled, positive, table["group"].to_numpy()))
        return Row(name, on_text, by_k, np.array(traits))

    def rows(self, saes: list[Sae]) -> Iterator[Row]:
        """Yield the rows of each SAE, of random directions of its L0, and of each layer's residual stream."""
        seen = set()
        for sae in sorted(saes, key=lambda sae: sae.layer):
            x = self.held_out.layers[sae.layer]
            if sae.layer not in seen:
                seen.add(sae.layer)
                dimensions = standardised(x)
                yield self.row(f"residual stream, layer {sae.layer}", sae.layer, "– | – | – | –", dimensions)
            l0, on_text = described(sae, x)
            yield replace(self.row(sae.name, sae.layer, on_text, sae.encode), sae=sae, l0=l0)
            directions = random_directions(x, len(sae.arrays["b_enc"]), l0)
            yield self.row("— random directions", sae.layer, f"– | – | {l0:.1f} | –", directions)


def table_line(row: Row) -> str:
    cells = [
        f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        for mean, low, high in map(mean_with_interval, row.aurocs.values())
    ]
    return f"| {row.name} | {row.on_text} | {' | '.join(cells)} | " + (
        f"{row.traits.mean():.3f} ({', '.join(f'{value:.2f}' for value in row.traits)}) |"
    )


def compared(rows: list[Row], first: Path) -> Iterator[str]:
    """Yield how the AUROCs of each SAE of a further folder differ from the nearest one's of the first folder.

    Nearest: on the same layer, in log L0. Differences are taken task by task.
    """
    old = [row for row in rows if row.sae and row.sae.folder == first]
    for row in rows:
        rivals = [rival for rival in old if row.sae and rival.sae.layer == row.sae.layer]
        if not rivals or row.sae.folder == first:
            continue
        rival = min(rivals, key=lambda rival: abs(np.log(rival.l0 / row.l0)))
        differences = [
            f"k={k} {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            for k in KS
            for mean, low, high in [mean_with_interval(row.aurocs[k] - rival.aurocs[k])]
        ]
        traits = (row.traits - rival.traits).mean()
        yield f"{row.name} − {rival.name}: {', '.join(differences)}, traits {traits:+.3f}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="folder that gather_text.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="folder for activations and results.json")
    parser.add_argument("--saes", type=Path, nargs="+", default=[S1 / "demo"], help="default: those shipped")
    parser.add_argument(
        "--people",
        type=Path,
        default=ROOT / "s0_dataset_generation/human_data",
        help="folder of people's labelled sentences, a CSV a trait (default: s0's human_data)",
    )
    parser.add_argument("--train", type=int, default=1024, help="training rows a task (default: 1024)")
    parser.add_argument("--test", type=int, default=400, help="test rows a task (default: 400)")
    parser.add_argument(
        "--held-out", type=int, default=5000, help="held-out tokens of each source of text (default: 5000)"
    )
    return parser


def measure(args: argparse.Namespace, layers: list[int]) -> Measured:
    people = sorted(args.people.glob("*.csv"))
    if not people:
        raise FileNotFoundError(
            f"{args.people}: no CSV in it; s0's import_hendrycks.py --from-package writes them"
        )
    activations = Activations(args.work, layers)
    held_out = held_out_texts(args.text, args.held_out, activations.tokenizer)
    names = TASKS.read_text(encoding="utf-8").splitlines()
    tasks, traits = [], []
    with progress(1 + len(names) + len(people), "set", "activations") as bar:
        texts = activations.of("held out", held_out)
        bar.update()
        for name in names:
            task = read_task(name, args.train, args.test)
            tasks.append((task, activations.of(name, task.prompts, last_only=True)))
            bar.update()
        for file in people:
            table = pd.read_csv(file)
            traits.append((table, activations.of(file.stem, table["sentence"].tolist())))
            bar.update()
    return Measured(texts, tasks, traits)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        saes = [sae for folder in args.saes for sae in read_saes(folder)]
        measured = measure(args, sorted({sae.layer for sae in saes}))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [file.stem for file in sorted(args.people.glob("*.csv"))]
    print(
        f"{len(measured.tasks)} tasks, {args.train} training and {args.test} test rows at most; "
        f"{len(next(iter(measured.held_out.layers.values())))} held-out tokens\n\n"
        "| | explained variance | without the largest dimension | L0 | dead | AUROC k=1 | AUROC k=16 "
        f"| best feature for a trait ({', '.join(names)}) |\n|---|---|---|---|---|---|---|---|"
    )
    rows, results = [], []
    for row in measured.rows(saes):
        rows.append(row)
        print(table_line(row), flush=True)
        by_task = {
            f"k={k}": dict(zip([task.name for task, _ in measured.tasks], values.tolist()))
            for k, values in row.aurocs.items()
        }
        results.append({"name": row.name, "on text": row.on_text, "traits": row.traits.tolist()} | by_task)
        write_text(args.work / "results.json", json.dumps(results, indent=2))
    print(*compared(rows, args.saes[0]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
