"""sae-lens' registry of released SAEs, and the formats of those that encode the residual stream.

Read from its YAML: importing sae-lens takes many seconds.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path

import yaml

# The file of the weights, by the registry's name of the format. What is not listed (transcoders,
# cross-layer transcoders, attention outputs, temporal SAEs) does not encode a token's residual stream.
WEIGHTS = {
    "sae_lens": "{path}/sae_weights.safetensors",
    "gemma_3": "{path}/params.safetensors",
    "llama_scope": "{path}/checkpoints/final.safetensors",
    "llama_scope_r1_distill": "{path}/sae_weights.safetensors",
    "dictionary_learning_1": "{path}/ae.pt",
    "sparsify": "{path}/sae.safetensors",
    "qwen_scope": "{path}",
    "deepseek_r1": "{path}",
    "goodfire": "{path}",
}


@cache
def registry() -> dict[str, dict]:
    """Return sae-lens' registry of released SAEs as it stands in its YAML, by release name."""
    package = Path(importlib.util.find_spec("sae_lens").origin).parent
    with (package / "pretrained_saes.yaml").open(encoding="utf-8") as file:
        return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def releases_of(release: str) -> dict[str, dict]:
    """Return the registry's releases behind a release name or a hub repository, none if it knows neither."""
    if release in registry():
        return {release: registry()[release]}
    return {name: entry for name, entry in registry().items() if entry["repo_id"] == release}


def format_of(entry: dict) -> str:
    """Return the registry's name of the format of a release."""
    return entry.get("conversion_func") or "sae_lens"


def hub_repository(release: str) -> str:
    """Return the hub repository of a release of sae-lens' registry; anything else unchanged."""
    return registry()[release]["repo_id"] if release in registry() else release


def registered(path: str, release: str) -> tuple[str, str, str]:
    """Return `(release name, sae_id, file of the weights)` of the SAE at `path` of a release or repository.

    A repository that the registry does not know holds folders in sae-lens' disk format, which are their ids.

    Raises:
        ValueError: the release has no such SAE, or it is none of the residual stream.
    """
    releases = releases_of(release)
    if not releases:
        return release, path, WEIGHTS["sae_lens"].format(path=path)
    for name, entry in releases.items():
        for sae in entry["saes"]:
            if str(sae["path"]) != path:
                continue
            if format_of(entry) not in WEIGHTS:
                raise ValueError(
                    f"{release}/{path}: its format {format_of(entry)} holds no SAEs that encode the residual "
                    "stream token by token"
                )
            return name, sae["id"], WEIGHTS[format_of(entry)].format(path=path)
    raise ValueError(
        f"{release}/{path}: sae-lens' registry has no such SAE; build_configurations.py writes those it has"
    )


def layer_of_hook(hook_name: str) -> int | None:
    """Return the block after which a hook reads the residual stream, -1 before the first, None elsewhere.

    Names are TransformerLens' (`blocks.3.hook_resid_post`, in its bridge `blocks.3.hook_out`) or those of the
    model's modules (`model.layers.3`, `transformer.h.3`), whose output it is.
    """
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_(resid_post|out|resid_pre|in)", hook_name):
        return int(found[1]) - (found[2] in ("resid_pre", "in"))
    if found := re.fullmatch(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)(?:\.output)?", hook_name):
        return int(found[1])
    return None
