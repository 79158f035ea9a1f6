"""The options that several commands have, each with one name, type and default."""

import argparse
from pathlib import Path

from sentences.labelled_tables import LABELS
from twins_s0.option_types import natural_int, positive_int, real_number

DEFAULT_MODEL = "gpt-5.6-terra"


def odd_number(text: str) -> int:
    """An argparse type: an odd whole number, so that the median of that many labels is a label."""
    number = positive_int(text)
    if number % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not odd; the median would be no label")
    return number


def add_trait_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("trait")
    group.add_argument("--trait", required=True, help='name of the trait, e.g. "Dishonesty"; any trait works')
    group.add_argument(
        "--definition",
        help="what the trait is and what it is not, in a sentence or two (default: <trait>.definition.txt "
        "beside the seed file, then the built-in definition of a shipped trait)",
    )


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sentences")
    group.add_argument(
        "--seed-file",
        type=Path,
        required=True,
        help="CSV of example sentences with their labels: sentence,concept_strength_label[,group]",
    )
    for label in reversed(LABELS):
        group.add_argument(
            f"--label{label}-count",
            type=natural_int,
            default=0,
            help=f"sentences to write with label {label} (default: %(default)s)",
        )
    group.add_argument(
        "--batch-size",
        type=positive_int,
        default=10,
        help="sentences written per request (default: %(default)s)",
    )
    group.add_argument(
        "--max-rounds",
        type=positive_int,
        default=6,
        help="rounds in which missing sentences are asked for (default: %(default)s)",
    )


def requested_counts(arguments: argparse.Namespace) -> dict[int, int]:
    """Sentences wanted per label; ValueError where none are."""
    counts = {label: getattr(arguments, f"label{label}_count") for label in LABELS}
    if not any(counts.values()):
        raise ValueError("nothing to write: give at least one of --label3-count … --label0-count above 0")
    return {label: count for label, count in counts.items() if count}


def add_judging_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--judge-votes",
        type=odd_number,
        default=1,
        help="labels asked for each sentence, an odd number; their median counts (default: %(default)s)",
    )
    group.add_argument(
        "--judge-batch-size",
        type=positive_int,
        default=20,
        help="sentences judged per request (default: %(default)s)",
    )
    group.add_argument(
        "--keep",
        choices=("agree", "all"),
        default="agree",
        help="agree: rows whose judged label is the intended one; all: every row, with the judged label "
        "(default: %(default)s)",
    )


def add_endpoint_arguments(parser: argparse.ArgumentParser, judge: bool, generator: bool = True) -> None:
    """The options for the endpoint; `judge` and `generator` say which of the two roles the command has."""
    group = parser.add_argument_group(
        "endpoint", "The key is read from OPENAI_API_KEY, or from .env beside the scripts."
    )
    if generator:
        group.add_argument("--model", default=DEFAULT_MODEL, help="model that writes (default: %(default)s)")
    if judge:
        default = "the value of --model" if generator else DEFAULT_MODEL
        group.add_argument(
            "--judge-model",
            default=None if generator else DEFAULT_MODEL,
            help=f"model that labels (default: {default})",
        )
    group.add_argument(
        "--base-url",
        help="URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1 (default: OPENAI_BASE_URL, "
        "then OpenAI's own); a server that needs no key is used without one",
    )
    group.add_argument(
        "--concurrency",
        type=positive_int,
        default=8,
        help="requests under way at once (default: %(default)s)",
    )
    group.add_argument(
        "--max-retries",
        type=natural_int,
        default=6,
        help="further tries of a question whose request failed or whose answer cannot be used (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--timeout",
        type=real_number(0.001),
        default=120.0,
        help="seconds to wait for one answer (default: %(default)s)",
    )
    if generator:
        group.add_argument(
            "--temperature",
            type=real_number(0),
            help="sampling temperature of the writing model (default: the model's own)",
        )
    group.add_argument(
        "--seed",
        type=natural_int,
        default=0,
        help="seed of all shuffling, also sent to the server (default: %(default)s)",
    )
    for option, tokens in (("--price-in", "input"), ("--price-out", "output")):
        group.add_argument(
            option, type=real_number(0), help=f"price of a million {tokens} tokens, to show the cost"
        )


def add_output_arguments(
    parser: argparse.ArgumentParser, output_help: str, required: bool = True, dry_run: bool = True
) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, required=required, help=output_help)
    group.add_argument("--overwrite", action="store_true", help="replace files that another run wrote")
    if dry_run:
        group.add_argument(
            "--dry-run", action="store_true", help="print prompts and an estimate, ask nothing"
        )


def refuse_existing(path: Path, overwrite: bool, option: str = "--output") -> None:
    """FileExistsError where the file is there and `--overwrite` was not given."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; choose another file with {option}, or replace it with --overwrite"
        )
