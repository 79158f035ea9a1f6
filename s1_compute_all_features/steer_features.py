"""Steer the model along a few features, and measure whether it moves towards the trait, beside nulls.

Adds α times a feature's largest activation times its decoder row after the feature's layer, and measures how
the likelihood of held-out sentences changes by label, what neutral text loses, and what the model then writes.
"""

import argparse
import sys
import time
from pathlib import Path

from extraction.device_memory import named_memory_failure
from extraction.run_options import Sources, add_compute_options, add_source_options, read_sources
from finite_steering.continuations import OPENINGS, Writing
from finite_steering.finalists import FeaturePlace, read_finalists, require_in_folder
from finite_steering.measured_sentences import choose_sentences, confirmation_rows
from finite_steering.measured_text import MeasuredText, folder_tokens, neutral_files, neutral_sentences
from finite_steering.steering_files import FORMAT_VERSION, opened_for_steering, write_tables
from finite_steering.steering_run import Steering, SteeringOptions, drop_scratch, steer_all
from hub.failures import network_forbidden
from language_model.tokens import tokenize
from twins_s1.atomic_files import write_json
from twins_s1.feature_folder import FeatureFolder, open_feature_folder
from twins_s1.option_types import natural_int, positive_int
from twins_s1.provenance import library_versions, plain_arguments, sha256_of

ALPHAS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


def alpha_list(text: str) -> tuple[float, ...]:
    """Parse `-1,-0.5,1`; -1 and 1, from which slopes are taken, are always among the doses."""
    try:
        alphas = {float(part) for part in text.split(",")}
    except ValueError:
        alphas = {0.0}
    if 0 in alphas or not all(abs(alpha) < 100 for alpha in alphas):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of doses other than 0, such as -1,-0.5,1")
    return tuple(sorted(alphas | {-1.0, 1.0}))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = parser.add_argument_group("files")
    files.add_argument(
        "--features",
        type=Path,
        required=True,
        help="CSV with layer,average_l0,feature_id, such as s2's ranking",
    )
    files.add_argument("--input", type=Path, required=True, help="feature folder that they were found in")
    files.add_argument("--output", type=Path, help="folder to write (default: ./<trait>_steering)")
    files.add_argument(
        "--split",
        type=Path,
        help="s2's split.csv, to measure on held-out sentences (default: beside --features)",
    )
    files.add_argument(
        "--overwrite", action="store_true", help="start anew in a folder made with other inputs"
    )
    measured = parser.add_argument_group("what is measured")
    measured.add_argument("--top-n", type=positive_int, default=10, help="rows of --features (default: 10)")
    measured.add_argument(
        "--alphas",
        type=alpha_list,
        default=ALPHAS,
        metavar="LIST",
        help="doses, in units of a feature's largest activation (default: -2,-1,-0.5,0.5,1,2)",
    )
    measured.add_argument(
        "--max-sentences", type=positive_int, default=20, help="sentences of each label (default: 20)"
    )
    measured.add_argument(
        "--nulls",
        type=positive_int,
        default=20,
        help="null features, and Gaussian directions, an SAE (default: 20)",
    )
    measured.add_argument(
        "--neutral",
        type=Path,
        nargs="+",
        help="labelled CSVs whose label 0 is neutral text, or .txt of lines (default: the other CSVs beside "
        "the folder's input)",
    )
    measured.add_argument(
        "--bootstrap", type=positive_int, default=1000, help="resamples of the intervals (default: 1000)"
    )
    measured.add_argument(
        "--seed", type=natural_int, default=0, help="of sentences, nulls, bootstrap, sampling (default: 0)"
    )
    writing = parser.add_argument_group("continuations")
    writing.add_argument("--prompts", type=Path, help="text file, an opening a line (default: built-in ones)")
    writing.add_argument(
        "--continuation-tokens", type=positive_int, default=24, help="tokens to write (default: 24)"
    )
    add_source_options(parser)
    add_compute_options(parser)
    return parser


def require_same_model(sources: Sources, folder: FeatureFolder) -> None:
    """Raise ValueError if the folder was made with another model."""
    if folder.run["model"] != sources.model.name:
        raise ValueError(
            f"{folder.folder} was made with {folder.run['model']}, this run has {sources.model.name}: "
            "name that model with --model or --demo"
        )


def read_openings(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return OPENINGS
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; check --prompts")
    openings = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not openings:
        raise ValueError(f"{file}: no line in it; expected one opening a line")
    return openings


def measured_text(args: argparse.Namespace, folder: FeatureFolder, sources: Sources) -> MeasuredText:
    """Choose and tokenise what is scored."""
    config, tokenizer = sources.model.read_config()
    split = args.split or args.features.with_name("split.csv")
    held_out = confirmation_rows(split, len(folder.labels))
    if held_out is None:
        print(f"note: no held-out sentences ({split}): measuring on all", file=sys.stderr)
    chosen = choose_sentences(folder.labels, folder.groups, held_out, args.max_sentences, args.seed)
    texts = neutral_sentences(args.neutral or neutral_files(folder), args.max_sentences, args.seed)
    if not texts:
        print("note: no neutral text; name some with --neutral", file=sys.stderr)
    most_positions = config.get_text_config().max_position_embeddings
    return MeasuredText(
        folder=folder,
        sentences=chosen,
        tokenized=folder_tokens(folder, tokenizer.bos_token_id).subset(chosen.index),
        neutral=tokenize(texts, tokenizer, most_positions) if texts else None,
        batch_tokens=args.batch_tokens,
        n_bootstrap=args.bootstrap,
        seed=args.seed,
    )


def steer(args: argparse.Namespace) -> str:
    """Do the whole run; return the closing line."""
    started = time.monotonic()
    folder = open_feature_folder(args.input)
    finalists = read_finalists(args.features, args.top_n)
    require_in_folder(finalists, folder.folder, folder.run)
    sources = read_sources(args)
    sources.compute.prepare()
    require_same_model(sources, folder)
    entries = {(entry.layer, entry.average_l0): entry for entry in sources.configurations.saes}
    options = SteeringOptions(
        args.alphas,
        args.nulls,
        args.seed,
        Writing(read_openings(args.prompts), args.continuation_tokens, args.seed),
    )
    output = args.output or Path(f"{folder.trait}_steering")
    text = measured_text(args, folder, sources)
    with opened_for_steering(output, inputs_of(folder, finalists, text, options), args.overwrite):
        config, tokenizer = sources.model.read_config()
        with named_memory_failure(sources.compute.device):
            model = sources.model.load_weights(
                config, dtype=sources.compute.dtype, device=sources.compute.device
            )
            steering = Steering(model, tokenizer, sources.saes, entries, folder.run["d_model"], text, options)
            units = steer_all(steering, finalists, output)
        slopes = write_tables(output, units)
        record = inputs_of(folder, finalists, text, options) | {
            "arguments": plain_arguments(args),
            "libraries": library_versions("torch", "transformers", "numpy", "scipy", "pandas"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(output / "run.json", record)
        drop_scratch(output)
    own = slopes[slopes["kind"] == "feature"]
    return (
        f"{output}: {len(own)} features and {len(slopes) - len(own)} null directions on "
        f"{len(text.sentences.index)} sentences in {record['seconds']:.0f} s; "
        f"{(own['p_null'] <= 0.05).sum()} features with p_null <= 0.05; see {output / 'slopes.csv'}"
    )


def inputs_of(
    folder: FeatureFolder, finalists: list[FeaturePlace], text: MeasuredText, options: SteeringOptions
) -> dict:
    """What the content of the output depends on."""
    run = folder.run
    return {
        "format_version": FORMAT_VERSION,
        "trait": folder.trait,
        "features_run": {
            "path": str(folder.folder),
            "run_sha256": sha256_of(folder.folder / "tokens.npz"),
            **{key: run.get(key) for key in ("input_sha256", "model", "model_revision", "n_tokens")},
        },
        "features": [vars(place) for place in finalists],
        "sentence_index": text.sentences.index,
        "held_out": text.sentences.held_out,
        "neutral_tokens": None if text.neutral is None else text.neutral.token_ids,
        "alphas": options.alphas,
        "nulls": options.n_nulls,
        "bootstrap": text.n_bootstrap,
        "seed": options.seed,
        "prompts": options.writing.prompts,
        "continuation_tokens": options.writing.n_tokens,
    }


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        with network_forbidden(args.local_files_only):
            print(steer(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
