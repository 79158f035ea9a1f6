"""Draws all sentences to files, in several processes, leaving out those whose figure is there already."""

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from drawing_inputs.drawn_run import DrawnRun
from drawing_inputs.sentence_labels import LABELS, UNLABELLED, figure_folder
from twins_s3.atomic_files import write_bytes, write_json
from twins_s3.progress import progress

from .sentence_figure import SentenceFigure
from .sentence_style import SentenceStyle
from .typography import Typography

STAGE = Path(__file__).parents[1]
DRAWING_SOURCES = (  # all code that decides how a sentence's figure looks
    "drawing_inputs/feature.py",
    "drawing_inputs/sentence_labels.py",
    "drawings/figure_files.py",
    "drawings/sentence_drawing.py",
    "drawings/sentence_figure.py",
    "drawings/sentence_style.py",
    "drawings/token_row.py",
    "drawings/typography.py",
    "plotting_utils.py",
    "twins_s3/palette.py",
)


class SentencePainter:
    """Draws sentences to files, keeping one figure for each number of token rows."""

    def __init__(self, run: DrawnRun, typography: Typography, style: SentenceStyle, output: Path):
        self.run, self.typography, self.style, self.output = run, typography, style, output
        self.scale = run.scale  # [n_features]
        self.figures: dict[int, SentenceFigure] = {}
        matplotlib.rcParams.update(typography.rc_settings())
        # A fallback font without a bold cut would be logged for every title.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

    def __call__(self, row: int) -> None:
        s1, tokens = self.run.s1, self.run.tokens_of(row)
        figure = self._figure(-(-int(s1.n_tokens[row]) // self.style.tokens_per_row))
        text = s1.sentences["sentence"].iat[row]
        figure.draw(row, int(self.run.labels[row]), text, s1.tokens[tokens], self.run.activations[tokens])
        write_bytes(sentence_path(self.output, self.run, row, self.style), figure.image_bytes())

    def _figure(self, n_rows: int) -> SentenceFigure:
        if n_rows not in self.figures:
            self.figures[n_rows] = SentenceFigure(
                self.run.features, self.scale, self.typography, self.style, n_rows
            )
        return self.figures[n_rows]


def sentence_path(output: Path, run: DrawnRun, row: int, style: SentenceStyle) -> Path:
    return output / figure_folder(run.labels[row]) / f"sentence_{row:06d}.{style.file_format}"


_painter: SentencePainter | None = None  # of a worker process


def _start_worker(*painter_arguments) -> None:
    global _painter
    _painter = SentencePainter(*painter_arguments)


def _paint(row: int) -> None:
    _painter(row)


def drawing_key(run: DrawnRun, typography: Typography, style: SentenceStyle) -> str:
    """SHA-256 of all that decides how a sentence's figure looks, this code and matplotlib's included."""
    s1 = run.s1
    facts = [
        asdict(style),
        [asdict(feature) for feature in run.features],
        typography.families,
        sorted(typography.missing),
        matplotlib.__version__,
        s1.sentences["sentence"].tolist(),
        s1.tokens.tolist(),
    ]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for array in (run.labels, s1.sentence_offsets, run.activations):
        digest.update(np.ascontiguousarray(array).tobytes())
    for source in DRAWING_SOURCES:
        digest.update((STAGE / source).read_bytes())
    return digest.hexdigest()


def rows_to_draw(
    run: DrawnRun, rows: np.ndarray, typography: Typography, style: SentenceStyle, output: Path
) -> list[int]:
    """The sentences of `rows` without a complete figure of the same inputs.

    Figures of other inputs are removed first, so that the folder never shows two runs as one.
    """
    record = output / "sentence_figures.json"
    keys = recorded_keys(record)
    key = drawing_key(run, typography, style)
    if keys.get(style.file_format) != key:
        for label in (*LABELS, UNLABELLED):
            for stale in output.glob(f"{figure_folder(label)}/sentence_*.{style.file_format}"):
                stale.unlink()
        write_json(record, dict(sorted({**keys, style.file_format: key}.items())))
    return [int(row) for row in rows if not sentence_path(output, run, row, style).exists()]


def recorded_keys(record: Path) -> dict[str, str]:
    """File format -> key of the figures that exist in it."""
    if not record.exists():
        return {}
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{record} is not a JSON object ({error}); delete it, then all sentences are redrawn"
        ) from None


def draw_sentences(
    run: DrawnRun, rows: np.ndarray, typography: Typography, style: SentenceStyle, output: Path, jobs: int
) -> int:
    """Draw the sentences of `rows`, in `jobs` processes; return how many had to be drawn."""
    missing = rows_to_draw(run, rows, typography, style, output)
    painter_arguments = (run, typography, style, output)
    with progress(len(missing), "figure", "sentences", shown=bool(missing)) as bar:
        if jobs == 1 or len(missing) < 16:  # starting processes takes longer than so few figures
            painter = SentencePainter(*painter_arguments)
            for row in missing:
                painter(row)
                bar.update()
        else:
            for _ in _painted_in_processes(missing, jobs, painter_arguments):
                bar.update()
    return len(missing)


def _painted_in_processes(rows: list[int], jobs: int, painter_arguments: tuple) -> Iterator[None]:
    """Draw `rows` in `jobs` processes and yield at each that is drawn."""
    # Spawned, not forked: a fork copies the locks of the parent's BLAS threads.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_start_worker, initargs=painter_arguments
        ) as pool:
            yield from pool.map(_paint, rows, chunksize=4)
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that draws sentences was ended from outside, perhaps for want of memory; "
            "what is drawn is kept: run again, with fewer --jobs"
        ) from None
