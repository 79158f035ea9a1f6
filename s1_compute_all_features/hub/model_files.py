"""Files of a model's repository on the hub: what is cached, and whether the rest can be had."""

import json
from pathlib import Path

from hub.failures import named_failures
from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)


def is_local_folder(model: str) -> bool:
    """Return whether `model` is a folder, or may be a hub id.

    Raises:
        FileNotFoundError: it is written as a path, and there is no such folder.
    """
    if Path(model).is_dir():
        return True
    if model.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{model}: no such folder; --model takes a hub id or a folder with config.json"
        )
    return False


def require_hub_file(repo_id: str, filename: str, revision: str | None, local_files_only: bool) -> str:
    """Fetch one small file of a model's repository, so that trouble with access shows before gigabytes do.

    Raises:
        FileNotFoundError: it cannot be had; the message names cause and remedy.
    """
    with named_failures(repo_id, filename, revision, option="--model", local_files_only=local_files_only):
        return hf_hub_download(repo_id, filename, revision=revision, local_files_only=local_files_only)


def weights_are_cached(repo_id: str, revision: str | None) -> bool:
    """Return whether all files of a model's weights are in the Hugging Face cache."""

    def cached(name: str) -> str | None:
        file = try_to_load_from_cache(repo_id, name, revision=revision)
        return file if isinstance(file, str) else None

    for index in filter(None, map(cached, (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME))):
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        return all(map(cached, set(shards)))
    return any(map(cached, (SAFE_WEIGHTS_NAME, WEIGHTS_NAME)))


def require_weights(repo_id: str, revision: str | None, local_files_only: bool) -> None:
    """Say that a model's weights cannot be fetched; transformers would say that it has none.

    Raises:
        FileNotFoundError: they are not in the cache, and fetching them is forbidden.
    """
    if (local_files_only or is_offline_mode()) and not weights_are_cached(repo_id, revision):
        raise FileNotFoundError(
            f"{repo_id}: its weights are not in the local cache, and --local-files-only or HF_HUB_OFFLINE "
            "forbids fetching them: run once online"
        )
