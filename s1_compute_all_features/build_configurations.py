"""Write a configurations JSON for extract_sae_features.py from the registry of released SAEs in sae-lens."""

import argparse
import math
import re
import sys
from pathlib import Path

from autoencoders.sae_lens_registry import WEIGHTS, format_of, layer_of_hook, registry, releases_of
from twins_s1.atomic_files import write_json

OTHER_SITES = re.compile(r"(?<![a-z])(mlp|attn?|transcoder|clt|embedding|resid_mid)", re.IGNORECASE)


def width_to_d_sae(width: str) -> int:
    """Return the number of features behind a nominal width: `16k` is 16384, `1m` 1048576, `2pow14` 16384."""
    if power := re.fullmatch(r"2pow(\d+)", width):
        return 2 ** int(power[1])
    amount = float(width[:-1]) * {"k": 1e3, "m": 1e6}[width[-1]]
    return 2 ** round(math.log2(amount))


def width_of(repo_id: str, path: str) -> tuple[str, int] | tuple[None, None]:
    """Return the nominal width of an SAE and its number of features, if its name tells them."""
    if named := re.search(r"width[_-](\d+[km]|2pow\d+)", f"{repo_id}/{path}"):
        return named[1], width_to_d_sae(named[1])
    if named := re.search(r"-W(\d+)K-", repo_id):  # Qwen Scope: a multiple of 1024, no power of two
        return f"{named[1]}k", 1024 * int(named[1])
    return None, None


def layer_of(repo_id: str, sae_id: str, path: str) -> int | None:
    """Return the block after which an SAE reads the residual stream, None if it reads something else."""
    if hook := re.match(r"blocks\.\d+\.(attn\.)?hook_(resid_(post|pre|mid)|[a-z]+)", sae_id):
        layer = layer_of_hook(hook[0])
        return None if layer == -1 else layer  # what enters block 0 is after no block
    if sublayer := re.match(r"l(\d+)([ram])_", sae_id):  # Llama Scope: residual stream, attention, MLP
        return int(sublayer[1]) if sublayer[2] == "r" else None
    if OTHER_SITES.search(f"{repo_id}/{path}"):
        return None
    layer = re.search(r"layer_?(\d+)", sae_id)
    return int(layer[1]) if layer else None


def hub_model_id(name: str) -> str:
    """Return the hub id of a model that the registry names in short (`gemma-2-2b` is `google/gemma-2-2b`)."""
    if "/" in name:
        return name
    from transformer_lens.loading_from_pretrained import get_official_model_name

    return get_official_model_name(name)


def build(
    release: str, *, width: str | None = None, match: re.Pattern | None = None, model: str | None = None
) -> tuple[dict, list[str]]:
    """Return the configurations of the SAEs of a release, by layer and L0, and the ids of those left out.

    Left out is what does not read the residual stream after a block. Where neither path nor registry tell
    an SAE's L0 it is 0, where its name does not tell its width `d_sae` is `None`. Neuronpedia ids are matched
    by path over every registry release of the same repository: the `-canonical` releases name most of them.

    Raises:
        ValueError: unknown release, one that reads other places, no SAE of that width or name, or several
            that would share a file; the message names what there is.
    """
    chosen = released(release)
    repo_id = chosen["repo_id"]
    asked = [
        sae
        for sae in chosen["saes"]
        if width in (None, width_of(repo_id, sae["path"])[0])
        and (match is None or match.search(sae["id"]) or match.search(sae["path"]))
    ]
    if not asked:
        options = {"--width": width, "--match": match and match.pattern}
        widths = {width_of(repo_id, sae["path"])[0] for sae in chosen["saes"]} - {None}
        raise ValueError(
            f"--release {release} has no SAE for "
            f"{', '.join(f'{option} {text!r}' for option, text in options.items() if text)}: its widths are "
            f"{', '.join(sorted(widths)) or 'not in its names'}, its ids like {chosen['saes'][0]['id']}"
        )
    layers = {sae["id"]: layer_of(repo_id, sae["id"], sae["path"]) for sae in asked}
    left_out = [sae_id for sae_id, layer in layers.items() if layer is None]
    if len(left_out) == len(asked):
        raise ValueError(
            f"--release {release}: its SAEs (such as {asked[0]['path']}) do not read the residual stream "
            "after a block, which is what this stage extracts"
        )
    neuronpedia = {
        sae["path"]: sae["neuronpedia"]
        for other in releases_of(repo_id).values()
        for sae in other["saes"]
        if sae.get("neuronpedia")
    }
    saes: dict[tuple[int, int], dict] = {}  # by layer and L0, which name their files
    ids: dict[tuple[int, int], str] = {}
    for sae in asked:
        if layers[sae["id"]] is None:
            continue
        named_l0 = re.search(r"average_l0_(\d+)", sae["path"])
        average_l0 = int(named_l0[1]) if named_l0 else round(sae.get("l0", 0))
        place = layers[sae["id"]], average_l0
        if ids.setdefault(place, sae["id"]) != sae["id"]:
            raise ValueError(
                f"--release {release}: {ids[place]} and {sae['id']} have the same layer and L0 "
                f"({average_l0 or 'unknown'}), so their files would have one name: choose with --width or "
                "--match"
            )
        saes[place] = {
            "layer": layers[sae["id"]],
            "average_l0": average_l0,
            "path": sae["path"],
            "d_sae": width_of(repo_id, sae["path"])[1],
            "neuronpedia_id": neuronpedia.get(sae["path"]),
        }
    content = {"release": release, "repo_id": repo_id, "model": model or hub_model_id(chosen["model"])}
    if format_of(chosen) != "gemma_2":
        content["format"] = "params.safetensors" if format_of(chosen) == "gemma_3" else "sae-lens"
    return content | {"saes": [saes[place] for place in sorted(saes)]}, left_out


def released(release: str) -> dict:
    """Return a release of the registry, or all of a hub repository's that hold SAEs as one.

    Releases of one repository name different SAEs alike: as one, their paths are their ids.

    Raises:
        ValueError: there is none of this name, or its format is none of SAEs.
    """
    if release not in registry() and releases_of(release):
        parts = [part for part in releases_of(release).values() if format_of(part) in ("gemma_2", *WEIGHTS)]
        paths = {sae["path"]: sae | {"id": sae["path"]} for part in parts for sae in part["saes"]}
        if parts:
            return parts[0] | {"saes": list(paths.values())}
    if release not in registry():
        stem = release.split("-res")[0][:14]
        near = ", ".join(sorted(name for name in registry() if name.startswith(stem))) or "none of that name"
        raise ValueError(f"--release {release!r} is not in sae-lens' registry; similar: {near}")
    chosen = registry()[release]
    if format_of(chosen) not in ("gemma_2", *WEIGHTS):
        raise ValueError(
            f"--release {release}: its format {format_of(chosen)} holds no SAEs that encode the residual "
            "stream token by token, which is what this stage extracts"
        )
    return chosen


def pattern(text: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--release",
        default="gemma-scope-2b-pt-res",
        help="release in sae-lens' registry, or a hub repository: all its releases (default: "
        "gemma-scope-2b-pt-res)",
    )
    parser.add_argument("--width", help="nominal width such as 16k or 2pow14 (default: all)")
    parser.add_argument(
        "--match",
        type=pattern,
        metavar="TEXT",
        help="only SAEs whose id or path contains this text or regular expression, such as 'trainer_0$'",
    )
    parser.add_argument("--model", help="hub id of the model (default: as the registry says)")
    parser.add_argument(
        "--output", type=Path, help="file to write (default: ./<release>_<width>_configurations.json)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    output = args.output or Path("_".join(filter(None, [args.release, args.width, "configurations.json"])))
    try:
        content, left_out = build(args.release, width=args.width, match=args.match, model=args.model)
        write_json(output, content)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pages = sum(sae["neuronpedia_id"] is not None for sae in content["saes"])
    layers = len({sae["layer"] for sae in content["saes"]})
    print(
        f"{output}: {len(content['saes'])} SAEs on {layers} layers of {content['model']}, "
        f"{pages} with a Neuronpedia page"
        + (f"; {len(left_out)} left out, not after a block: {', '.join(left_out)}" if left_out else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
