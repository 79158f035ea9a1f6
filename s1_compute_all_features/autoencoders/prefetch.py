"""SAEs read and hashed ahead, while the one before is computed."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from autoencoders.configurations import SaeEntry
from autoencoders.encoding import Encoder
from autoencoders.sae_source import SaeSource

READ_AHEAD_BYTES = 1 << 30  # of encoders that wait in main memory


@dataclass(frozen=True)
class LoadedSae:
    """An SAE in main memory, and what tells its weights from others."""

    entry: SaeEntry
    encoder: Encoder
    encoder_sha256: str
    weights_id: str


def prefetch(
    entries: Sequence[SaeEntry], source: SaeSource, d_model: int, readers: int
) -> Iterator[LoadedSae]:
    """Yield the SAEs in order; up to `readers` threads read and hash the next ones.

    Encoders that wait hold `READ_AHEAD_BYTES` together, or are one.
    """

    def load(entry: SaeEntry) -> LoadedSae:
        encoder = source.read(entry, d_model)
        return LoadedSae(entry, encoder, encoder.sha256(), source.weights_id(entry))

    remaining = iter(entries)
    with ThreadPoolExecutor(readers) as pool:
        ahead = deque(pool.submit(load, entry) for entry in islice(remaining, 1))
        try:
            while ahead:
                loaded = ahead.popleft().result()
                room = min(readers, READ_AHEAD_BYTES // (4 * d_model * loaded.encoder.d_sae))
                for entry in islice(remaining, max(1, room) - len(ahead)):
                    ahead.append(pool.submit(load, entry))
                yield loaded
        finally:
            for future in ahead:
                future.cancel()
