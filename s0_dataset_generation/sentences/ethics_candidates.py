"""Propose seed sentences from your own copy of the ETHICS data, for a judge or for you to label."""

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import llm_client
import numpy as np
import rubric
from generate_sentences import run_record
from label_sentences import JudgingPlan, judge, median_labels
from llm_client import LLMClient, Settings, open_journal
from sentence_tables import (
    LABELS,
    LabelledSentence,
    csv_text,
    duplicate_rows,
    labelled_text,
    parse_label,
    read_rows,
    write_json,
    write_text,
)

# The files of the published archive (Hendrycks et al. 2021, arXiv 2008.02275): `label,scenario` with
# "sentence [SEP] trait", and `label,input,is_short,edited` with label 1 for a wrong act.
VIRTUE_FILES = ("virtue_train.csv", "virtue_test.csv", "virtue_test_hard.csv")
COMMONSENSE_FILES = ("cm_train.csv", "cm_test.csv", "cm_test_hard.csv")
SEPARATOR = "[SEP]"
MAX_WORDS = 40
CANDIDATE_COLUMNS = ("sentence", "concept_strength_label", "group", "proposed_label", "source", "why")


@dataclass(frozen=True)
class Words:
    """How ETHICS names a trait: virtue adjectives for it and against it, and stems of its domain's words."""

    shown: tuple[str, ...]
    opposite: tuple[str, ...]
    stems: tuple[str, ...]


WORDS = {
    "dishonesty": Words(
        ("dishonest", "deceitful", "deceptive", "untruthful", "insincere", "fraudulent", "lying"),
        ("honest", "truthful", "sincere", "candid", "frank"),
        ("lie", "lied", "lying", "cheat", "fak", "pretend", "forg", "secret", "truth", "honest"),
    ),
    "aggression": Words(
        ("aggressive", "hostile", "violent", "belligerent", "combative", "threatening", "cruel", "abusive"),
        ("peaceful", "gentle", "calm", "nonviolent", "mild"),
        ("hit", "punch", "kick", "shov", "threat", "yell", "scream", "attack", "fight", "fought", "slap"),
    ),
    "caring": Words(
        ("caring", "compassionate", "kind", "considerate", "sympathetic", "nurturing", "thoughtful"),
        ("uncaring", "callous", "inconsiderate", "unkind", "selfish", "cold", "indifferent"),
        ("comfort", "hug", "nurse", "help", "care", "caring", "sick", "console", "feed", "visit"),
    ),
    "bravery": Words(
        ("brave", "courageous", "heroic", "valiant", "bold", "fearless", "gallant"),
        ("cowardly", "timid", "fearful", "timorous", "scared"),
        ("brave", "fear", "afraid", "scared", "danger", "rescue", "courage", "burning", "drown", "soldier"),
    ),
    "unfairness": Words(
        ("unfair", "unjust", "biased", "prejudiced", "partial", "discriminatory", "bigoted", "exploitative"),
        ("fair", "just", "impartial", "unbiased", "equitable"),
        ("fair", "equal", "favor", "favour", "bias", "share", "bonus", "promot", "rule", "discriminat"),
    ),
}


@dataclass(frozen=True)
class Candidate:
    sentence: str
    proposed_label: int
    source: str
    why: str

    @property
    def group(self) -> str:
        return "ethics-" + rubric.slug(self.source)


def find_files(folder: Path, names: Sequence[str]) -> list[Path]:
    return [path for name in names for path in sorted(folder.rglob(name))]


def virtue_candidates(path: Path, words: Words) -> Iterable[Candidate]:
    """Sentences that annotators found to show the trait (3), its opposite (1), or another trait (0)."""
    for line, row in read_rows(path, ("label", "scenario")):
        sentence, separator, adjective = row["scenario"].rpartition(SEPARATOR)
        if not separator or row["label"] not in ("0", "1"):
            raise ValueError(
                f"{path}, line {line}: expected label 0 or 1 and a scenario 'sentence {SEPARATOR} trait'"
            )
        if row["label"] == "0":
            continue
        adjective = adjective.strip().lower()
        label = 3 if adjective in words.shown else 1 if adjective in words.opposite else 0
        if label or not mentions(sentence, words):
            yield Candidate(tidy(sentence), label, f"{path.name} {line}", f"annotated as {adjective}")


def commonsense_candidates(path: Path, words: Words) -> Iterable[Candidate]:
    """Short acts: in the trait's words and wrong (2), in its words and not wrong (1), neither (0)."""
    for line, row in read_rows(path, ("label", "input", "is_short")):
        if row["label"] not in ("0", "1") or row["is_short"] not in ("True", "False"):
            raise ValueError(f"{path}, line {line}: expected label 0 or 1 and is_short True or False")
        if row["is_short"] == "False":
            continue
        wrong = row["label"] == "1"
        if mentions(row["input"], words):
            label, why = (
                (2, "uses the trait's words, act judged wrong") if wrong else (1, "uses the trait's words")
            )
        elif not wrong:
            label, why = 0, "none of the trait's words"
        else:
            continue
        yield Candidate(tidy(row["input"]), label, f"{path.name} {line}", why)


def mentions(text: str, words: Words) -> bool:
    stems = "|".join(re.escape(stem) for stem in words.stems)
    return bool(stems) and re.search(rf"\b(?:{stems})", text, re.IGNORECASE) is not None


def tidy(sentence: str) -> str:
    return " ".join(sentence.split())


def propose(folder: Path, words: Words, per_label: int, seed: int) -> list[Candidate]:
    """Up to `per_label` candidates of each proposed label, in a seeded random order, without duplicates.

    Commonsense acts that use the trait's words may turn out to be any of 1 to 3; the judge or you decide.
    Raises FileNotFoundError when the folder has none of the published files, ValueError for a malformed one.
    """
    virtue, commonsense = find_files(folder, VIRTUE_FILES), find_files(folder, COMMONSENSE_FILES)
    if not virtue and not commonsense:
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(VIRTUE_FILES + COMMONSENSE_FILES)} in it or below; --ethics-dir "
            "names the unpacked ETHICS archive"
        )
    found = [candidate for path in virtue for candidate in virtue_candidates(path, words)]
    found += [candidate for path in commonsense for candidate in commonsense_candidates(path, words)]
    found = [c for c in found if c.sentence and len(c.sentence.split()) <= MAX_WORDS]
    best: dict[str, Candidate] = {}
    for candidate in found:  # one virtue sentence stands in several rows, once per adjective
        known = best.get(candidate.sentence)
        if known is None or candidate.proposed_label > known.proposed_label:
            best[candidate.sentence] = candidate
    rng = np.random.default_rng(seed)
    chosen = []
    for label in LABELS:
        pool = [candidate for candidate in best.values() if candidate.proposed_label == label]
        chosen += [pool[i] for i in rng.permutation(len(pool))[:per_label]]
    dropped = duplicate_rows([candidate.sentence for candidate in chosen])
    return [candidate for i, candidate in enumerate(chosen) if i not in dropped]


def candidates_text(candidates: Sequence[Candidate], labels: Sequence[int | None]) -> str:
    rows = (
        (c.sentence, "" if label is None else label, c.group, c.proposed_label, c.source, c.why)
        for c, label in zip(candidates, labels)
    )
    return csv_text(CANDIDATE_COLUMNS, rows)


def choose_seeds(
    candidates: Sequence[Candidate], labels: Sequence[int | None], per_label: int
) -> list[LabelledSentence]:
    """The first `per_label` rows of each label, those whose proposal was confirmed before the others."""
    rows = [(c, label) for c, label in zip(candidates, labels) if label is not None]
    rows.sort(
        key=lambda row: row[0].proposed_label != row[1]
    )  # stable: the random order stays within both parts
    return [
        LabelledSentence(candidate.sentence, label, candidate.group)
        for wanted in LABELS
        for candidate, label in [row for row in rows if row[1] == wanted][:per_label]
    ]


def read_hand_labelled(path: Path) -> tuple[list[Candidate], list[int | None]]:
    """A candidates file back from its labeller; rows with an empty label are rejected ones."""
    candidates, labels = [], []
    for line, row in read_rows(path, CANDIDATE_COLUMNS):
        where = f"{path}, line {line}"
        proposed = parse_label(row["proposed_label"], where)
        candidates.append(Candidate(tidy(row["sentence"]), proposed, row["source"], row["why"]))
        text = row["concept_strength_label"].strip()
        labels.append(parse_label(text, where) if text else None)
    if all(label is None for label in labels):
        raise ValueError(
            f"{path}: no label filled in; write 0 to 3 into concept_strength_label, empty to reject a row"
        )
    return candidates, labels


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    rubric.add_trait_arguments(parser)
    group = parser.add_argument_group("candidates")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--ethics-dir", type=Path, help="folder of the unpacked ETHICS archive")
    source.add_argument(
        "--labelled",
        type=Path,
        help="candidates file whose concept_strength_label you filled in: make seeds of it",
    )
    group.add_argument(
        "--words", help="comma-separated adjectives for a trait that is not built in, e.g. generous,giving"
    )
    group.add_argument("--opposite-words", default="", help="adjectives of its opposite, e.g. stingy,greedy")
    group.add_argument(
        "--candidates-per-label",
        type=int,
        default=40,
        help="candidates of each proposed label (default: %(default)s)",
    )
    group.add_argument("--per-label", type=int, default=5, help="seeds of each label (default: %(default)s)")
    group.add_argument(
        "--by-hand",
        action="store_true",
        help="write candidates for hand labelling even where an endpoint is set up",
    )
    llm_client.add_endpoint_arguments(parser, judge=True, generator=False)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        type=Path,
        help="seed CSV; candidates go to <name>.candidates.csv beside it (default: "
        "initial_hendrycks_data/<trait>.csv in this folder)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that another run wrote")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(argv)


def words_for(arguments: argparse.Namespace) -> Words:
    """The word list of --words, or the built-in one; ValueError where there is neither."""
    if arguments.words is not None:
        shown, opposite = (
            tuple(word.strip().lower() for word in text.split(",") if word.strip())
            for text in (arguments.words, arguments.opposite_words)
        )
        if not shown:
            raise ValueError("--words is empty; give adjectives such as generous,giving")
        return Words(shown, opposite, shown + opposite)
    key = rubric.slug(arguments.trait)
    if key not in WORDS:
        raise ValueError(
            f"no word list for {arguments.trait!r}: give --words; built in are {', '.join(sorted(WORDS))}"
        )
    return WORDS[key]


def report_seeds(output: Path, seeds: list[LabelledSentence], per_label: int) -> int:
    counts = [sum(seed.label == label for seed in seeds) for label in LABELS]
    print(f"wrote {output}: {len(seeds)} seeds, {'/'.join(map(str, counts))} of labels 0/1/2/3")
    short = [
        f"label {label} has {count} of {per_label}"
        for label, count in zip(LABELS, counts)
        if count < per_label
    ]
    if short:
        print(f"too few: {'; '.join(short)}; raise --candidates-per-label or add sentences by hand")
    return 1 if short else 0


async def judge_candidates(
    arguments: argparse.Namespace, candidates: list[Candidate], trait: rubric.Trait, settings: Settings
) -> int:
    started = time.monotonic()
    output, candidates_path = arguments.output, arguments.output.with_suffix(".candidates.csv")
    plan = JudgingPlan(trait, [], arguments.judge_model, votes=1, batch_size=20, seed=arguments.seed)
    journal = open_journal(output, trait.name, arguments.overwrite, also=[candidates_path])
    try:
        async with LLMClient(settings, journal) as client:
            votes = await judge(client, plan, [c.sentence for c in candidates], "candidates")
        labels = median_labels(votes)
        seeds = choose_seeds(candidates, labels, arguments.per_label)
        write_text(candidates_path, candidates_text(candidates, labels))
        write_text(output, labelled_text(seeds))
        journal.add_output(candidates_path)
        journal.add_output(output)
        write_json(output.with_suffix(".run.json"), run_record(arguments, [], client, started))
    finally:
        journal.close()
    print(client.usage_line())
    return report_seeds(output, seeds, arguments.per_label)


def import_seeds(arguments: argparse.Namespace) -> int:
    for option in ("per_label", "candidates_per_label"):
        if getattr(arguments, option) < 1:
            raise ValueError(f"--{option.replace('_', '-')} {getattr(arguments, option)}: expected 1 or more")
    trait = rubric.find_trait(arguments.trait, arguments.definition, arguments.output)
    if arguments.output is None:
        folder = Path(os.path.relpath(Path(__file__).parent / "initial_hendrycks_data"))
        arguments.output = folder / f"{rubric.slug(arguments.trait)}.csv"
    output = arguments.output
    if arguments.labelled:
        candidates, labels = read_hand_labelled(arguments.labelled)
        refuse_existing(output, arguments.overwrite)
        seeds = choose_seeds(candidates, labels, arguments.per_label)
        write_text(output, labelled_text(seeds))
        return report_seeds(output, seeds, arguments.per_label)
    candidates = propose(
        arguments.ethics_dir, words_for(arguments), arguments.candidates_per_label, arguments.seed
    )
    counts = [sum(c.proposed_label == label for c in candidates) for label in LABELS]
    print(f"{len(candidates)} candidates, {'/'.join(map(str, counts))} of proposed labels 0/1/2/3")
    llm_client.load_environment()
    if not arguments.by_hand and llm_client.endpoint_is_set(arguments):
        settings = llm_client.settings_from(arguments, trait)
        return asyncio.run(judge_candidates(arguments, candidates, trait, settings))
    path = output.with_suffix(".candidates.csv")
    refuse_existing(path, arguments.overwrite)
    write_text(path, candidates_text(candidates, [None] * len(candidates)))
    print(
        f"wrote {path}: fill in concept_strength_label (leave it empty to reject a row), then run this "
        f"script with --labelled {path} instead of --ethics-dir"
    )
    return 0


def refuse_existing(path: Path, overwrite: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; choose another file with --output, or replace it with --overwrite"
        )


def main(argv: list[str] | None = None) -> int:
    arguments = parse_args(argv)
    return llm_client.exit_status(lambda: import_seeds(arguments))


if __name__ == "__main__":
    sys.exit(main())
