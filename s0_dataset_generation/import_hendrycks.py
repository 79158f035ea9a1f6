"""Take from the ETHICS data a test set that people labelled, and seed sentences to be labelled."""

import argparse
import os
import sys
from pathlib import Path

from command_line.exit_status import exit_status
from command_line.options import (
    add_endpoint_arguments,
    add_output_arguments,
    add_trait_arguments,
    refuse_existing,
)
from command_line.run_record import RunRecord
from endpoint.answer_journal import open_journal
from endpoint.llm_client import ask
from endpoint.settings import STAGE, endpoint_is_set, settings_from
from human_text.ethics_adjectives import TRAITS
from human_text.ethics_files import archive_files, package_files
from human_text.ethics_test_set import ethics_test_set
from human_text.test_sets import JudgedRow, write_test_set
from prompts.rubric import Trait, find_trait, slug
from sentences.ethics_candidates import (
    Candidate,
    candidates_text,
    choose_seeds,
    propose,
    read_hand_labelled,
    words_for,
)
from sentences.labelled_tables import LABELS, LabelledSentence, labelled_text
from sentences.sentence_judge import JudgingPlan, judge, median_labels
from twins_s0.atomic_files import write_text
from twins_s0.option_types import positive_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_trait_arguments(parser)
    add_source_arguments(parser)
    add_test_set_arguments(parser)
    add_candidate_arguments(parser)
    add_endpoint_arguments(parser, judge=True, generator=False)
    add_output_arguments(
        parser,
        "seed CSV; candidates go to <name>.candidates.csv beside it (default: "
        "initial_hendrycks_data/<trait>.csv in this folder)",
        required=False,
        dry_run=False,
    )
    return parser


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("source")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--from-package",
        action="store_true",
        help="the part of ETHICS in the installed package sae-probes (dependency group ethics)",
    )
    source.add_argument("--ethics-dir", type=Path, help="folder of the unpacked ETHICS archive")
    source.add_argument(
        "--labelled",
        type=Path,
        help="candidates file whose concept_strength_label you filled in: make seeds of it",
    )


def add_test_set_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("test set")
    group.add_argument(
        "--test-set",
        type=Path,
        help="CSV of people's sentences to write (default with --from-package, for the five built-in traits: "
        "human_data/<trait>.csv in this folder)",
    )
    group.add_argument(
        "--test-set-only", action="store_true", help="write the test set and propose no seed sentences"
    )
    group.add_argument(
        "--with-opposite",
        action="store_true",
        help="take sentences that show the trait's opposite into the test set, as label 1",
    )


def add_candidate_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("candidates")
    group.add_argument(
        "--words", help="comma-separated adjectives for a trait that is not built in, e.g. generous,giving"
    )
    group.add_argument("--opposite-words", help="adjectives of its opposite, e.g. stingy,greedy")
    group.add_argument(
        "--candidates-per-label",
        type=positive_int,
        default=40,
        help="candidates of each proposed label (default: %(default)s)",
    )
    group.add_argument(
        "--per-label", type=positive_int, default=5, help="seeds of each label (default: %(default)s)"
    )
    group.add_argument(
        "--by-hand",
        action="store_true",
        help="write candidates for hand labelling even where an endpoint is set up",
    )


def import_ethics(arguments: argparse.Namespace) -> int:
    if arguments.output is None:
        arguments.output = beside_the_commands("initial_hendrycks_data", arguments.trait)
    trait = find_trait(arguments.trait, arguments.definition, arguments.output)
    if arguments.labelled:
        return seeds_labelled_by_hand(arguments, trait)
    files = package_files() if arguments.from_package else archive_files(arguments.ethics_dir)
    record = RunRecord.begin(arguments, trait, files)
    path = test_set_path(arguments)
    rows = [] if path is None else test_set(arguments, files, path)
    status = 0 if arguments.test_set_only else propose_seeds(arguments, trait, files, record)
    if path is not None:
        write_test_set(path, rows, record)
    return status


def beside_the_commands(folder: str, trait: str) -> Path:
    return Path(os.path.relpath(STAGE / folder)) / f"{slug(trait)}.csv"


def test_set_path(arguments: argparse.Namespace) -> Path | None:
    """Where the test set goes; None where none is asked for, or a trait of one's own has none."""
    by_default = arguments.from_package and slug(arguments.trait) in TRAITS
    if arguments.test_set is None and (by_default or arguments.test_set_only):
        return beside_the_commands("human_data", arguments.trait)
    return arguments.test_set


def test_set(arguments: argparse.Namespace, files: list[Path], path: Path) -> list[JudgedRow]:
    refuse_existing(path, arguments.overwrite, "--test-set")
    return ethics_test_set(files, slug(arguments.trait), arguments.seed, arguments.with_opposite)


def propose_seeds(arguments: argparse.Namespace, trait: Trait, files: list[Path], record: RunRecord) -> int:
    words = words_for(arguments.trait, arguments.words, arguments.opposite_words)
    candidates = propose(files, words, arguments.candidates_per_label, arguments.seed)
    counts = [sum(c.proposed_label == label for c in candidates) for label in LABELS]
    print(f"{len(candidates)} candidates, {'/'.join(map(str, counts))} of proposed labels 0/1/2/3")
    if not arguments.by_hand and endpoint_is_set(arguments.base_url):
        return seeds_labelled_by_judge(arguments, trait, candidates, record)
    return candidates_to_label(arguments, candidates, record)


def seeds_labelled_by_hand(arguments: argparse.Namespace, trait: Trait) -> int:
    candidates, labels = read_hand_labelled(arguments.labelled)
    record = RunRecord.begin(arguments, trait, [arguments.labelled])
    refuse_existing(arguments.output, arguments.overwrite)
    seeds = choose_seeds(candidates, labels, arguments.per_label)
    write_text(arguments.output, labelled_text(seeds))
    record.write(arguments.output)
    return report_seeds(arguments.output, seeds, arguments.per_label)


def seeds_labelled_by_judge(
    arguments: argparse.Namespace, trait: Trait, candidates: list[Candidate], record: RunRecord
) -> int:
    output, candidates_path = arguments.output, arguments.output.with_suffix(".candidates.csv")
    settings = settings_from(arguments, trait)
    plan = JudgingPlan(trait, [], arguments.judge_model, votes=1, batch_size=20, seed=arguments.seed)
    sentences = [candidate.sentence for candidate in candidates]
    with open_journal(output, trait.name, arguments.overwrite, also=[candidates_path]) as journal:
        votes, usage = ask(settings, journal, lambda client: judge(client, plan, sentences, "candidates"))
        labels = median_labels(votes)
        seeds = choose_seeds(candidates, labels, arguments.per_label)
        write_text(candidates_path, candidates_text(candidates, labels))
        write_text(output, labelled_text(seeds))
        journal.add_output(candidates_path)
        journal.add_output(output)
        record.write(output, usage=usage, url=settings.url)
    print(usage.line())
    return report_seeds(output, seeds, arguments.per_label)


def candidates_to_label(arguments: argparse.Namespace, candidates: list[Candidate], record: RunRecord) -> int:
    path = arguments.output.with_suffix(".candidates.csv")
    refuse_existing(path, arguments.overwrite)
    write_text(path, candidates_text(candidates, [None] * len(candidates)))
    record.write(path)
    print(
        f"wrote {path}: fill in concept_strength_label (leave it empty to reject a row), then run this "
        f"script with --labelled {path} instead of "
        f"{'--from-package' if arguments.from_package else '--ethics-dir'}"
    )
    return 0


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


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: import_ethics(arguments))


if __name__ == "__main__":
    sys.exit(main())
