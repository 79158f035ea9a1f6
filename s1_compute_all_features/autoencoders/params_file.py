"""The file of a JumpReLU SAE: Gemma Scope's `params.npz`, or Gemma Scope 2's `params.safetensors`."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from hub.partial_files import HALVES
from safetensors import SafetensorError, safe_open

NAMES = ("params.npz", "params.safetensors")
ENCODER, DECODER = HALVES["encoders"], HALVES["decoders"]


def read_arrays(file: Path, names: tuple[str, ...]) -> list[torch.Tensor]:
    """Read some arrays, which both layouts call the same but for case.

    Raises:
        ValueError: the file is damaged or lacks an array; the message says which.
    """
    try:
        if file.suffix == ".safetensors":
            return read_tensors(file, names)
        with np.load(file, allow_pickle=False) as params:
            return [torch.from_numpy(params[name]) for name in names]
    except (zipfile.BadZipFile, SafetensorError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{file}: damaged or truncated ({error}); fetch it again") from error
    except KeyError as error:
        *others, last = names
        expected = f"{', '.join(others)} and {last}" if others else last
        raise ValueError(f"{file}: {error.args[0]}; expected {expected}, Gemma Scope's layout") from error


def read_tensors(file: Path, names: tuple[str, ...]) -> list[torch.Tensor]:
    with safe_open(file, framework="pt") as params:
        for name in names:
            if name.lower() not in params.keys():  # noqa: SIM118
                raise KeyError(f"{name.lower()} is not a tensor in the file")
        tensors = [params.get_tensor(name.lower()) for name in names]
    return [tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in tensors]


def params_digest(file: Path) -> str:
    """Return a digest of the encoder's arrays; of a `params.npz` without reading them.

    The directory of that file has the checksum of each.

    Raises:
        ValueError: the file is damaged or lacks an array.
    """
    digest = hashlib.sha256()
    if file.suffix == ".safetensors":
        for tensor in read_arrays(file, ENCODER):
            digest.update(tensor.numpy().data)
        return digest.hexdigest()
    try:
        with zipfile.ZipFile(file) as params:
            members = [params.getinfo(f"{name}.npy") for name in ENCODER]
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{file}: damaged, or not Gemma Scope's layout ({error}); fetch it again") from error
    for info in members:
        digest.update(f"{info.filename} {info.file_size} {info.CRC:08x}\n".encode())
    return digest.hexdigest()
