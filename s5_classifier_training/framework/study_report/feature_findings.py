"""What stage 2 found for a trait: its ranking, the held-out figures, and what each feature fires on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from study_report.quoted_words import QuotedWords, read_quoted_words
from study_report.run_identity import RunIdentity
from twins_s5.feature_folder import read_run, required_file
from twins_s5.ranking_folder import ANALYZE, IDENTIFYING, read_ranking, read_split

N_BEST = 5  # features with a row of their own
PLACE = list(IDENTIFYING)


@dataclass(frozen=True)
class FeatureFindings:
    """A `<trait>_results` folder."""

    folder: Path
    run: dict  # run.json
    ranked: pd.DataFrame
    discovery: pd.DataFrame
    best_per_sae: pd.DataFrame
    split: pd.DataFrame  # split.csv: sentence_index, group, concept_strength_label, part
    examples: list[dict]
    words: QuotedWords  # what others say of the features

    @property
    def identity(self) -> RunIdentity:
        return RunIdentity.of(self.run["features_run"])

    @property
    def has_held_out(self) -> bool:
        return (self.split["part"] == "confirmation").any()

    @property
    def has_effects(self) -> bool:
        return "evidence" in self.ranked

    @property
    def transfers(self) -> list[str]:
        """Names of the other sentences on which the ranked features were measured as they are."""
        matches = (re.fullmatch(r"transfer_(.+)_auroc", column) for column in self.ranked)
        return [match[1] for match in matches if match]

    def best(self) -> pd.DataFrame:
        """The first ranked feature of each family: others of a family are the same direction again."""
        return self.ranked.drop_duplicates("family_id").head(N_BEST)

    def nearest_misses(self) -> pd.DataFrame:
        """The first features by rank that failed a filter, with the held-out figures where there are any.

        Stage 2 measures the best feature of every SAE on held-out sentences, filters or not.
        """
        missed = self.discovery[self.discovery["failed_filters"].notna()].head(N_BEST)
        held_out = [column for column in self.best_per_sae if column.startswith(("confirm", "transfer_"))]
        return missed.merge(self.best_per_sae[PLACE + held_out], on=PLACE, how="left")

    def first(self) -> dict | None:
        """The feature ranked first, or where none passed the nearest miss; None if none is eligible."""
        table = self.ranked if len(self.ranked) else self.nearest_misses()
        return None if table.empty else table.iloc[0].to_dict()


def read_findings(folder: Path) -> FeatureFindings:
    """Open a results folder of stage 2.

    Raises FileNotFoundError for a missing file, ValueError for one of another format.
    """
    run = read_run(folder, ANALYZE)
    missing = [key for key in ("features_run", "summary", "arguments", "pool") if key not in run]
    if missing:
        raise ValueError(f"{folder / 'run.json'} has no {missing[0]}; {ANALYZE}")
    split_path = required_file(folder, "split.csv", ANALYZE)
    read_split(folder, run["features_run"]["n_sentences"])  # checks it
    return FeatureFindings(
        folder=folder,
        run=run,
        ranked=read_ranking(folder, "ranked_features.csv"),
        discovery=read_ranking(folder, "discovery_ranking.csv"),
        best_per_sae=read_ranking(folder, "best_per_sae.csv"),
        split=pd.read_csv(split_path),
        examples=read_examples(folder),
        words=read_quoted_words(folder, run),
    )


def read_examples(folder: Path) -> list[dict]:
    """The content of feature_examples.json."""
    path = required_file(folder, "feature_examples.json", ANALYZE)
    try:
        examples = json.loads(path.read_text(encoding="utf-8"))
        complete = all({*PLACE, "examples"} <= example.keys() for example in examples)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no list of examples ({error}); {ANALYZE}") from None
    if not complete:
        raise ValueError(f"{path} names no layer, average_l0 and feature_id for each example; {ANALYZE}")
    return examples
