"""The journal of a run: every answer on disk before anything is made of it, so that no start asks twice."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twins_s0.folder_lock import only_writer
from twins_s0.provenance import sha256_of

JOURNAL_FORMAT = 1


class Journal:
    """One JSON line per answer, synced; also which requests were given up, and which files were written.

    A last line cut off by a crash is dropped on opening. Raises ValueError when the file belongs to another
    trait or is no journal.
    """

    def __init__(self, path: Path, trait: str) -> None:
        self.path = path
        self.answers: dict[str, dict] = {}  # key of the question and attempt -> answer
        self._given_up: dict[str, dict] = {}  # the same key -> why, and with how many retries
        self._outputs: set[str] = set()  # SHA-256 of the files written from this journal
        existing = path.read_bytes() if path.exists() else b""
        whole = existing[: existing.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                if number == 1:
                    self._check_header(record, trait)
                elif "key" in record:
                    self.answers[record["key"]] = record
                elif "given_up" in record:
                    self._given_up[record["given_up"]] = record
                elif "output_sha256" in record:
                    self._outputs.add(record["output_sha256"])
            except (json.JSONDecodeError, TypeError, UnicodeDecodeError):
                raise ValueError(f"{path}, line {number}: not a journal line; move the file away") from None
        self._file = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not whole:
            self._append({"journal_format": JOURNAL_FORMAT, "trait": trait})

    def _check_header(self, record: dict, trait: str) -> None:
        if record.get("journal_format") != JOURNAL_FORMAT:
            raise ValueError(f"{self.path}: not a journal of format {JOURNAL_FORMAT}; move the file away")
        if record["trait"] != trait:
            raise ValueError(
                f"{self.path}: the journal of another trait ({record['trait']}, not {trait}); choose another "
                "--output"
            )

    def _append(self, record: dict) -> None:
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def add_answer(self, key: str, answer: dict) -> None:
        self._append({"key": key} | answer)
        self.answers[key] = answer

    def add_given_up(self, key: str, reason: str, refused: bool, max_retries: int) -> None:
        """Remember that a run went on without this answer: a resumed one does so too."""
        entry = {"given_up": key, "reason": reason, "refused": refused, "max_retries": max_retries}
        self._append(entry)
        self._given_up[key] = entry

    def given_up(self, key: str, max_retries: int) -> dict | None:
        """What `add_given_up` was told, unless the request may now be retried more often than it was."""
        entry = self._given_up.get(key)
        return entry if entry and (entry["refused"] or max_retries <= entry["max_retries"]) else None

    def add_output(self, path: Path) -> None:
        """Remember a finished output, so that the next run may replace it."""
        digest = sha256_of(path)
        if digest not in self._outputs:
            self._append({"output": path.name, "output_sha256": digest})
            self._outputs.add(digest)

    def wrote(self, path: Path) -> bool:
        """Whether the file is, unchanged, one that a run with this journal wrote."""
        return sha256_of(path) in self._outputs

    def close(self) -> None:
        """Close the file, and delete it when no answer ever came."""
        self._file.close()
        if not self.answers:
            self.path.unlink()


@contextmanager
def open_journal(output: Path, trait: str, overwrite: bool, also: Sequence[Path] = ()) -> Iterator[Journal]:
    """The journal beside `output`, held against other processes, if the outputs are nobody else's files.

    Raises FileExistsError when `output` or one of `also` exists and no run with this journal wrote it, unless
    `overwrite`; ValueError when another process writes the journal.
    """
    if output.is_dir():
        raise IsADirectoryError(f"{output}: a folder; --output names the CSV file to write")
    existing = [path for path in (output, *also) if path.exists() and not overwrite]
    path = output.with_suffix(".journal.jsonl")
    if existing and not path.exists():
        refuse_existing(existing[0])
    with only_writer(path, str(path)):
        journal = Journal(path, trait)
        try:
            for other in existing:
                if not journal.wrote(other):
                    refuse_existing(other)
            yield journal
        finally:
            journal.close()


def refuse_existing(path: Path) -> None:
    raise FileExistsError(
        f"{path} exists and no earlier start of this command wrote it; choose another file with --output, or "
        "replace it with --overwrite"
    )
