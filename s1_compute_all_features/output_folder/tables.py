"""sentences.csv and tokens.npz: what the rows of all other files belong to."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from input_sentences.csv_rows import LABEL
from input_sentences.sentence_groups import sentence_groups
from language_model.tokens import TokenizedSentences
from twins_s1.atomic_files import write_arrays, write_atomically


def write_tables(folder: Path, sentences: pd.DataFrame, tokenized: TokenizedSentences) -> None:
    """Write both where one of them is missing; columns of theirs that the input has are written anew.

    Raises:
        ValueError: tokens.npz is there and holds other tokens.
    """
    if (folder / "tokens.npz").exists():
        require_same_tokens(folder / "tokens.npz", tokenized)
        if (folder / "sentences.csv").exists():
            return
    table = sentences.drop(columns=["sentence_index", "n_tokens"], errors="ignore")
    table.insert(0, "sentence_index", range(len(table)))
    table.insert(3 if LABEL in table else 2, "n_tokens", tokenized.n_tokens)
    table["group"] = sentence_groups(sentences)
    write_atomically(
        folder / "sentences.csv", lambda part: table.to_csv(part, index=False, lineterminator="\n")
    )
    write_arrays(
        folder / "tokens.npz",
        token_ids=tokenized.token_ids,
        tokens=tokenized.tokens,
        sentence_offsets=tokenized.sentence_offsets,
    )


def require_same_tokens(file: Path, tokenized: TokenizedSentences) -> None:
    try:
        with np.load(file, allow_pickle=False) as there:
            same = all(
                np.array_equal(there[name], getattr(tokenized, name))
                for name in ("token_ids", "sentence_offsets")
            )
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{file}: damaged ({error}); delete it and run again") from error
    if not same:
        raise ValueError(
            f"{file} holds other tokens than the tokenizer now makes of these sentences, so the rows of what "
            "is there would not be theirs: choose another --output, or --overwrite to start anew"
        )
