"""One writer at a time for a folder or file that several starts of a command could share."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_writer(lock_file: Path, what: str) -> Iterator[None]:
    """Hold an advisory lock on `lock_file` (made if need be, left in place); it ends with the process.

    Raises:
        ValueError: another process holds it; the message begins with `what`, for example the folder's path.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{what} is being written by another process: wait for it to end, or write elsewhere"
            ) from None
        yield
