"""Every answer on disk before anything is made of it, so that a run that was stopped pays for none twice."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twins_s2.folder_lock import only_writer

JOURNAL = "explanations.journal.jsonl"


def request_key(model: str, messages: list[dict[str, str]], attempt: int) -> str:
    """What the journal finds an answer by."""
    content = json.dumps([model, messages, attempt], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


class AnswerJournal:
    """One JSON line per answer, synced; a last line cut off by a crash is dropped on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, dict] = {}
        self._lock = threading.Lock()
        existing = path.read_bytes() if path.exists() else b""
        whole = existing[: existing.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                self.answers[record["key"]] = record
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}: not a journal line; move the file away") from None
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def add(self, key: str, answer: dict) -> None:
        with self._lock:
            self._file.write((json.dumps({"key": key} | answer, ensure_ascii=False) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self.answers[key] = answer

    def close(self) -> None:
        """Close the file, and delete it when no answer ever came."""
        self._file.close()
        if not self.answers:
            self.path.unlink()


@contextmanager
def open_journal(results: Path) -> Iterator[AnswerJournal]:
    """The journal in a results folder, held against other processes."""
    path = results / JOURNAL
    with only_writer(path, str(path)):
        journal = AnswerJournal(path)
        try:
            yield journal
        finally:
            journal.close()
