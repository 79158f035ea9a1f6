"""Where this project keeps what it fetched or converted."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return `$TRAIT_TRACING_CACHE`, else `$XDG_CACHE_HOME/trait-tracing`, else `~/.cache/trait-tracing`."""
    if root := os.environ.get("TRAIT_TRACING_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trait-tracing"
