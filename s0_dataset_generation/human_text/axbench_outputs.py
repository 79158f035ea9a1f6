"""AxBench's concept datasets: texts written to hold a concept, and texts written without any."""

import difflib
from pathlib import Path

import pandas as pd
from human_text.test_sets import SHOWN, UNRELATED, JudgedRow, balanced, without_repeats
from prompts.rubric import slug
from sentences.labelled_tables import tidy

COLUMNS = ("input", "output", "output_concept", "category")


def read_outputs(path: Path) -> pd.DataFrame:
    """The table; ValueError where it is no Parquet file, lacks a column or has an empty text."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a data.parquet of AxBench")
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a Parquet file that can be read ({reason})") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    texts = table["output"]
    empty = texts.isna() | (texts.astype(str).str.strip() == "")
    if empty.any():
        raise ValueError(f"{path}, row {int(empty.to_numpy().argmax())}: empty output; delete the row")
    return table.reset_index(drop=True)


def axbench_test_set(path: Path, concept: str, seed: int) -> list[JudgedRow]:
    """Outputs that were written with the concept, and as many of the negative ones, written without."""
    table = read_outputs(path)
    positive = table[table["category"] == "positive"]
    concepts = [str(name) for name in positive["output_concept"].unique()]
    if concept not in concepts:
        near = difflib.get_close_matches(concept, concepts, n=3, cutoff=0)
        raise ValueError(
            f"{path}: no positive text of the concept {concept!r}, {len(concepts)} others; nearest: "
            + "; ".join(near)
        )
    shown = positive[positive["output_concept"] == concept]
    unrelated = table[table["category"] == "negative"]
    rows = [
        JudgedRow(tidy(text), label, f"axbench-{slug(path.stem)}-{row}", said, path.name, int(row))
        for part, label, said in ((shown, SHOWN, concept), (unrelated, UNRELATED, "none"))
        for row, text in part["output"].items()
    ]
    return balanced(without_repeats(rows), seed, with_opposite=False)
