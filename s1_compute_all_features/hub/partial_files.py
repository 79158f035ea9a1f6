"""Some arrays of a `params.npz` or `params.safetensors` on the hub, fetched by range requests."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hub.failures import wait_or_raise
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

HALVES = {"encoders": ("W_enc", "b_enc", "threshold"), "decoders": ("W_dec",)}
DIRECTORY_BYTES = 1 << 14  # read first: where a file of a few arrays says where each lies
CHUNK_BYTES = 1 << 20


class WholeFileNeededError(Exception):
    """The members of this file cannot be had alone."""


def stream_range(url: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield bytes `start` to `stop` of a file on the hub; a connection that is cut is resumed where it broke.

    Raises:
        WholeFileNeededError: the server does not answer range requests.
        HTTPError: refused, or no progress in several attempts.
    """
    failures = 0
    while start < stop:
        # The hub redirects large files to signed addresses elsewhere, and the client drops the token there.
        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            ) as response:
                hf_raise_for_status(response)
                # A server that ignores ranges answers 200 with the whole file.
                if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise WholeFileNeededError
                before = start
                for chunk in response.iter_bytes():  # as they come: a cut loses none
                    start += len(chunk)
                    failures = 0
                    yield chunk
            if not before < start <= stop:
                raise WholeFileNeededError  # a server that means something else by ranges
        except HTTPError as error:
            failures += 1
            wait_or_raise(error, failures)


def fetch_half(url: str, size: int, half: str, target: Path) -> None:
    """Write the arrays of one half of an SAE's file of `size` bytes at a URL, in a file of the same format.

    half: "encoders" or "decoders". target: in a folder that is there; ends as the file on the hub does.

    Raises:
        WholeFileNeededError: they cannot be had alone.
        HTTPError: refused, or no progress in several attempts.
    """
    if target.suffix == ".safetensors":  # Gemma Scope 2, whose names are in lower case
        fetch_tensors(url, size, [name.lower() for name in HALVES[half]], target)
    else:
        fetch_members(url, size, [f"{name}.npy" for name in HALVES[half]], target)


def fetch_tensors(url: str, size: int, names: Sequence[str], target: Path) -> None:
    """Write a safetensors file of some tensors of a remote one of `size` bytes.

    Eight bytes tell the length of the JSON behind them, which tells the bytes of each tensor, counted from
    its end (https://huggingface.co/docs/safetensors).

    Raises:
        WholeFileNeededError: no ranges, a tensor is missing, or the file is none of this format.
    """
    first = b"".join(stream_range(url, 0, min(size, DIRECTORY_BYTES)))
    begin = 8 + int.from_bytes(first[:8], "little")
    if begin > size:
        raise WholeFileNeededError
    header = first[8:begin] + b"".join(stream_range(url, len(first), begin))
    chosen, spans, stop = {}, [], 0
    try:
        stored = json.loads(header)
        for name in names:
            span = stored[name]["data_offsets"]
            spans.append(span)
            start, stop = stop, stop + span[1] - span[0]
            chosen[name] = stored[name] | {"data_offsets": [start, stop]}
    except (ValueError, KeyError, TypeError) as error:
        raise WholeFileNeededError from error
    part = target.with_suffix(".part")
    try:
        with part.open("wb") as file:
            directory = json.dumps(chosen).encode()
            directory += b" " * (-len(directory) % 8)  # the tensors are aligned
            file.write(len(directory).to_bytes(8, "little") + directory)
            for start, stop in spans:
                for chunk in stream_range(url, begin + start, begin + stop):
                    file.write(chunk)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def fetch_members(url: str, size: int, members: Sequence[str], target: Path) -> None:
    """Write an NPZ of some members of a remote `params.npz` of `size` bytes.

    The NPZ's directory stands at its end, and tells where each member lies. The spans go to their places
    in a sparse file without a name, which zipfile then reads as if it were whole, checksums included.

    Raises:
        WholeFileNeededError: no ranges, a member is compressed or missing, or the bytes are damaged.
    """
    part = target.with_suffix(".part")
    with tempfile.TemporaryFile(dir=target.parent) as sparse:
        sparse.truncate(size)

        def fill(start: int, stop: int) -> None:
            sparse.seek(start)
            for chunk in stream_range(url, start, stop):
                sparse.write(chunk)

        directory = max(0, size - DIRECTORY_BYTES)
        fill(directory, size)
        try:
            with zipfile.ZipFile(sparse) as source, zipfile.ZipFile(part, "w") as chosen:
                ends = sorted([*(info.header_offset for info in source.infolist()), source.start_dir])
                infos = [source.getinfo(name) for name in members]
                if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                    raise WholeFileNeededError
                for info in infos:
                    end = next(end for end in ends if end > info.header_offset)
                    fill(info.header_offset, min(end, directory))
                    with (
                        source.open(info) as stored,
                        chosen.open(info.filename, "w", force_zip64=True) as copy,
                    ):
                        shutil.copyfileobj(stored, copy, CHUNK_BYTES)
            part.replace(target)
        except (zipfile.BadZipFile, KeyError) as error:
            raise WholeFileNeededError from error
        finally:
            part.unlink(missing_ok=True)
