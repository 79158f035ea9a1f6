"""What each adjective of ETHICS says about a trait: it fits, is the opposite, related, or unrelated."""

from dataclasses import dataclass
from pathlib import Path

from sentences.labelled_tables import read_rows

TABLE = Path(__file__).resolve().parents[1] / "ethics_adjectives.csv"
TRAITS = ("aggression", "bravery", "caring", "dishonesty", "unfairness")
VERDICTS = ("fits", "opposite", "related", "unrelated")


@dataclass(frozen=True)
class Adjectives:
    """The adjectives of one trait by verdict; one that is in none of the lists has not been judged."""

    fits: frozenset[str]
    opposite: frozenset[str]
    related: frozenset[str]
    unrelated: frozenset[str]


def adjectives_of(trait: str) -> Adjectives:
    """The lists of one of TRAITS, out of the table beside the commands."""
    lists: dict[str, set[str]] = {verdict: set() for verdict in VERDICTS}
    for line, row in read_rows(TABLE, ("adjective", "sentences", *TRAITS)):
        verdict = row[trait]
        if verdict and verdict not in VERDICTS:
            raise ValueError(f"{TABLE}, line {line}: {trait} {verdict!r}; expected {', '.join(VERDICTS)}")
        if verdict:
            lists[verdict].add(row["adjective"])
    return Adjectives(**{verdict: frozenset(words) for verdict, words in lists.items()})
