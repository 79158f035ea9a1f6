"""What a steering run is to do, as the command's arguments and the files that they name say."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from autoencoders.feature_places import FeaturePlace, read_feature_places
from continuation_judge.judge_endpoint import Judge, read_judge
from extraction.run_options import Sources, read_sources
from finite_steering.continuations import OPENINGS, Writing
from finite_steering.finalists import require_in_folder
from finite_steering.measured_sentences import choose_sentences, confirmation_rows
from finite_steering.measured_text import MeasuredText, folder_tokens, neutral_files, neutral_sentences
from finite_steering.steering_files import FORMAT_VERSION
from language_model.tokens import tokenize
from twins_s1.feature_folder import FeatureFolder, open_feature_folder
from twins_s1.provenance import plain_arguments, sha256_of

ALPHAS = "-2,-1,-0.5,0.5,1,2"


@dataclass(frozen=True)
class SteeringOptions:
    """What is measured of each direction."""

    alphas: tuple[float, ...]  # -1 and 1 among them
    n_nulls: int  # of each kind
    seed: int
    writing: Writing


@dataclass(frozen=True)
class SteeringPlan:
    """Everything that a run needs but the weights."""

    arguments: dict  # for run.json
    folder: FeatureFolder
    finalists: list[FeaturePlace]
    sources: Sources
    text: MeasuredText
    options: SteeringOptions
    output: Path
    overwrite: bool
    judge: Judge | None  # of the continuations; may be added to a run that is finished

    @property
    def inputs(self) -> dict:
        """What the content of the output depends on."""
        run, text, options = self.folder.run, self.text, self.options
        return {
            "format_version": FORMAT_VERSION,
            "trait": self.folder.trait,
            "features_run": {
                "path": str(self.folder.folder),
                "run_sha256": sha256_of(self.folder.folder / "tokens.npz"),
                **{key: run.get(key) for key in ("input_sha256", "model", "model_revision", "n_tokens")},
            },
            "features": [vars(place) for place in self.finalists],
            "sentence_index": text.sentences.index,
            "held_out": text.sentences.held_out,
            "neutral_tokens": None if text.neutral is None else text.neutral.token_ids,
            "alphas": options.alphas,
            "nulls": options.n_nulls,
            "words": text.n_words,
            "bootstrap": text.n_bootstrap,
            "seed": options.seed,
            "prompts": options.writing.prompts,
            "continuation_tokens": options.writing.n_tokens,
            "dtype": self.sources.compute.dtype_name,
        }


def alpha_list(text: str) -> tuple[float, ...]:
    """Parse `-1,-0.5,1`; -1 and 1, from which slopes are taken, are always among the doses."""
    try:
        alphas = {float(part) for part in text.split(",")}
    except ValueError:
        alphas = {0.0}
    if 0 in alphas or not all(abs(alpha) < 100 for alpha in alphas):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of doses other than 0, such as -1,-0.5,1")
    return tuple(sorted(alphas | {-1.0, 1.0}))


def make_steering_plan(args: argparse.Namespace) -> SteeringPlan:
    """Return what the arguments plan, with the files that they name read and checked.

    Raises:
        ValueError, FileNotFoundError: a file is missing or wrong, or does not belong to the others.
    """
    folder = open_feature_folder(args.input)
    finalists = read_feature_places(args.features, args.top_n)
    require_in_folder(finalists, folder.folder, folder.run)
    sources = read_sources(args)
    sources.compute.prepare()
    require_same_model(sources, folder)
    require_configured(sources, finalists)
    judge = read_judge(args.judge, args.concept or folder.trait, args.judge_instructions, args.base_url)
    return SteeringPlan(
        arguments=plain_arguments(args) | {"base_url": judge and judge.url},
        folder=folder,
        finalists=finalists,
        sources=sources,
        text=measured_text(args, folder, sources),
        options=SteeringOptions(
            args.alphas,
            args.nulls,
            args.seed,
            writing(read_openings(args.prompts), args.continuation_tokens, args.seed, sources),
        ),
        output=args.output or Path(f"{folder.trait}_steering"),
        overwrite=args.overwrite,
        judge=judge,
    )


def require_same_model(sources: Sources, folder: FeatureFolder) -> None:
    """Raise ValueError if the folder was made with another model, or with other weights in the same place."""
    run, model = folder.run, sources.model
    known, own = run.get("model_fingerprint"), model.fingerprint
    if known != own if known and own else run["model"] != model.name:
        other = ", whose weights are others" if run["model"] == model.name else ""
        raise ValueError(
            f"{folder.folder} was made with {run['model']}, this run has {model.name}{other}: "
            "name that model with --model or --demo"
        )


def require_configured(sources: Sources, finalists: list[FeaturePlace]) -> None:
    """Raise ValueError for a finalist whose SAE the configurations lack."""
    configured = {(entry.layer, entry.average_l0) for entry in sources.configurations.saes}
    for place in finalists:
        if place.sae not in configured:
            raise ValueError(
                f"{sources.configurations.file} has no SAE of layer {place.layer} with L0 "
                f"{place.average_l0}: name with --config the file that the feature folder was made with"
            )


def read_openings(file: Path | None) -> tuple[str, ...]:
    """What continuations begin with: the lines of a file, or the built-in ones."""
    if file is None:
        return OPENINGS
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; check --prompts")
    openings = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not openings:
        raise ValueError(f"{file}: no line in it; expected one opening a line")
    return openings


def writing(prompts: tuple[str, ...], n_tokens: int, seed: int, sources: Sources) -> Writing:
    """Tokenise what continuations begin with; ValueError where one leaves no room for `n_tokens`."""
    config, tokenizer = sources.model.read_config()
    room = config.get_text_config().max_position_embeddings - n_tokens
    return Writing(prompts, tokenize(prompts, tokenizer, room), n_tokens, seed)


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
        n_words=args.words,
        n_bootstrap=args.bootstrap,
        seed=args.seed,
    )
