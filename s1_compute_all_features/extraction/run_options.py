"""Options that a run and the checks before it share, and the plan that they amount to."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from autoencoders.configurations import Configurations, read_configurations
from autoencoders.sae_source import SaeSource
from extraction.extraction_plan import ComputeOptions, Plan
from input_sentences.input_file import read_input_sentences
from language_model.embedded_model import DEMO_MODEL_ID, demo_model_folder
from language_model.model_source import ModelSource
from output_folder.layout import encoder_of
from twins_s1.option_types import layer_list, positive_int
from twins_s1.provenance import plain_arguments

STAGE = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = "google/gemma-2-2b"
DEMO = STAGE / "demo"
CONFIGURATIONS = {
    DEFAULT_MODEL: STAGE / "gemma_scope_16k_configurations.json",
    DEMO_MODEL_ID: DEMO / "demo_configurations.json",
}


def add_source_options(parser: argparse.ArgumentParser, chooses_layers: bool = True) -> None:
    """Add the options that name model and SAEs."""
    model = parser.add_argument_group("model")
    which = model.add_mutually_exclusive_group()
    which.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"hub id or local folder (default: {DEFAULT_MODEL})"
    )
    which.add_argument(
        "--demo", action="store_true", help="the embedded Gemma 3 270M and its SAEs; needs no hub, no GPU"
    )
    model.add_argument("--revision", help="branch, tag or commit of the model on the hub (default: main)")
    model.add_argument(
        "--local-files-only", action="store_true", help="use the local Hugging Face cache, never the network"
    )
    if chooses_layers:
        model.add_argument(
            "--layers", type=layer_list, help="blocks to take, for example 0-5,12 (default: all)"
        )
    saes = parser.add_argument_group("sparse autoencoders")
    saes.add_argument(
        "--config", type=Path, help="configurations JSON (default: the file that belongs to the model)"
    )
    saes.add_argument(
        "--sae-release",
        help="hub repository, sae-lens release or local folder that the paths are relative to",
    )
    saes.add_argument("--sae-revision", help="branch, tag or commit of the SAE repository (default: main)")


def add_compute_options(parser: argparse.ArgumentParser, encodes: bool = True) -> None:
    """Add the options that say where and how precisely to compute; encodes: SAEs are run on tokens."""
    compute = parser.add_argument_group("computation")
    compute.add_argument(
        "--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="default: auto"
    )
    compute.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of model and SAEs (default: float32)",
    )
    compute.add_argument(
        "--allow-tf32", action="store_true", help="TF32 matrix products on CUDA; changes a few activations"
    )
    compute.add_argument(
        "--batch-tokens", type=positive_int, default=4096, help="padded tokens a forward pass (default: 4096)"
    )
    parser.set_defaults(chunk_tokens=None, encoder=None)
    if encodes:
        compute.add_argument(
            "--encoder",
            choices=("dense", "screened"),
            help="screened: only what a bfloat16 product with its error bound cannot exclude is computed in "
            "float32, for JumpReLU SAEs (default: the folder's; in a new one screened on a CPU with "
            "AVX512-BF16, else dense)",
        )
        compute.add_argument(
            "--chunk-tokens",
            type=positive_int,
            help="tokens encoded at once (default: 2048 on a CPU, else 8192)",
        )


def add_effect_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for a backward pass."""
    effects = parser.add_argument_group("effects")
    effects.add_argument(
        "--gradients",
        action="store_true",
        help="also the gradient of each sentence's log-likelihood at every layer that has SAEs, and from it "
        "the first-order effect of every feature; takes several times the forward pass",
    )


def with_default_output(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with an output folder where there is an input to name it after."""
    if args.output is None and args.input is not None:
        args.output = Path(f"{args.input.stem}_features")
    return args


def make_plan(args: argparse.Namespace, local_rank: int = 0, starts_anew: bool = False) -> Plan:
    """Return what the arguments plan, with the local files that they name read and checked.

    starts_anew: how the output folder was made before does not matter.

    Raises:
        ValueError, FileNotFoundError: a file is missing or wrong, or nothing says which SAEs are meant.
    """
    sentences = read_input_sentences(args.input) if args.input is not None else None
    sources = read_sources(args, local_rank)
    encoder_before = None if args.output is None or starts_anew else encoder_of(args.output)
    return Plan(
        arguments=plain_arguments(args),
        sentences=sentences,
        output=args.output,
        model=sources.model,
        configurations=sources.configurations,
        saes=sources.saes,
        chosen_layers=args.layers,
        compute=replace(sources.compute, encoder_of_folder=encoder_before),
        with_effects=args.gradients,
    )


@dataclass(frozen=True)
class Sources:
    """What the options of model, SAEs and computation amount to."""

    model: ModelSource
    configurations: Configurations
    saes: SaeSource
    compute: ComputeOptions


def read_sources(args: argparse.Namespace, local_rank: int = 0) -> Sources:
    """Return where model and SAEs come from, and how they are computed with; errors as `make_plan`."""
    place, name = (str(demo_model_folder()), DEMO_MODEL_ID) if args.demo else (args.model, args.model)
    config = args.config or CONFIGURATIONS.get(name)
    if config is None:
        raise ValueError(
            f"no SAE configurations belong to {name}: name a file with --config "
            "(build_configurations.py writes one)"
        )
    configurations = read_configurations(config)
    saes = SaeSource.of(
        configurations,
        args.sae_release,
        args.sae_revision,
        args.local_files_only,
        default_place=str(DEMO) if args.demo else None,
    )
    compute = ComputeOptions(
        args.device,
        args.dtype,
        args.allow_tf32,
        args.batch_tokens,
        args.chunk_tokens,
        args.encoder,
        local_rank,
    )
    model_source = ModelSource(place, name, args.revision, args.local_files_only)
    return Sources(model_source, configurations, saes, compute)
