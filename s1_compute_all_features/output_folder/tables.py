"""sentences.csv and tokens.npz: what the rows of all other files belong to."""

from pathlib import Path

import pandas as pd
from input_sentences.sentence_groups import sentence_groups
from language_model.tokens import TokenizedSentences
from twins_s1.atomic_files import write_arrays, write_atomically


def write_tables(folder: Path, sentences: pd.DataFrame, tokenized: TokenizedSentences) -> None:
    """Write sentences.csv and tokens.npz where one of them is missing."""
    if (folder / "sentences.csv").exists() and (folder / "tokens.npz").exists():
        return
    table = sentences.copy()
    table.insert(0, "sentence_index", range(len(table)))
    table.insert(3, "n_tokens", tokenized.n_tokens)
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
