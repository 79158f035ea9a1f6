"""Progress of long work: a tqdm bar on a terminal, elsewhere a plain line now and then."""

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

PLAIN_SECONDS = 30  # between two lines where standard error is no terminal


@contextmanager
def progress(total: int | None, unit: str, description: str, shown: bool = True) -> Iterator[tqdm]:
    """Yield a tqdm bar to `update`; where standard error is a file or a pipe, it speaks in plain lines.

    A line is printed every PLAIN_SECONDS also while nothing moves, so that a log shows what is waited for.
    """
    if not shown or sys.stderr.isatty():
        with tqdm(total=total, unit=unit, desc=description, disable=not shown) as bar:
            yield bar
        return
    done = threading.Event()
    with tqdm(total=total, unit=unit, desc=description, file=io.StringIO()) as bar:
        speaker = threading.Thread(target=_speak, args=(bar, done), daemon=True)
        speaker.start()
        try:
            yield bar
        finally:
            done.set()
            speaker.join()


def _speak(bar: tqdm, done: threading.Event) -> None:
    while not done.wait(PLAIN_SECONDS):
        of_total = "" if bar.total is None else f" of {bar.total:,}"
        elapsed = tqdm.format_interval(bar.format_dict["elapsed"])
        print(f"{bar.desc}: {bar.n:,}{of_total} {bar.unit}s after {elapsed}", file=sys.stderr, flush=True)
