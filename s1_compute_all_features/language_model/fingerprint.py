"""Which weights a local model has, from little of them: a folder has no commit as a repository has."""

import hashlib
from pathlib import Path

WEIGHTS = ("*.safetensors", "*.bin")
WHOLE_BYTES = 1 << 26  # a file up to this size is read whole
STRIDE, SAMPLE = 1 << 22, 1 << 16  # of a larger one, the first 64 KiB of every 4 MiB


def weights_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over name, size and content of a model's weight files.

    Large files are sampled, which takes a second for 10 GB and sees every array of 4 MiB. Neither times nor
    place of the files matter, nor their configuration: what that changes, tokens and shapes, shows elsewhere.
    """
    digest = hashlib.sha256()
    for file in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as handle:
            if size <= WHOLE_BYTES:
                digest.update(handle.read())
                continue
            for start in range(0, size, STRIDE):
                handle.seek(start)
                digest.update(handle.read(SAMPLE))
    return digest.hexdigest()
