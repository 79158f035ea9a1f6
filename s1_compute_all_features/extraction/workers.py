"""Division of work over the processes that `torchrun` starts; one process alone needs nothing of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TypeVar

import torch.distributed

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=2)  # for a process that fetches the model; torchrun ends those that died


class SharedError(ValueError):
    """An input error in one process at least, of which all processes know."""

    def __init__(self, message: str, is_mine: bool):
        super().__init__(message)
        self.is_mine = is_mine  # this process is the one to print it


@dataclass(frozen=True)
class Workers:
    """This process among `size` processes that share the output folder.

    They exchange only short texts, through the key-value store of torchrun's agent, which outlives them all:
    a process group would bring threads of its own, which can abort a process that is about to exit.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: torch.distributed.Store | None = None  # where there are several
    exchanges: Iterator[int] = field(default_factory=count, compare=False)

    @classmethod
    def from_environment(cls) -> "Workers":
        """Join the processes that torchrun's environment variables describe, or be alone."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        store, rank, size = next(torch.distributed.rendezvous("env://", timeout=LONGEST_WAIT))
        return cls(rank, size, int(os.environ["LOCAL_RANK"]), store)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process' part of `items`, every size-th one."""
        return items[self.rank :: self.size]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait on leaving until all processes leave; an input error in one is then raised in each of them.

        May be nested: an error of which all know passes the outer ones as it is.
        """
        error = None
        try:
            yield
        except SharedError:
            raise
        except (ValueError, OSError) as caught:
            if self.size == 1:
                raise
            error = caught
        if self.size > 1:
            self._raise_errors_of_all(error)

    def _raise_errors_of_all(self, error: Exception | None) -> None:
        texts = self._texts_of_all("" if error is None else f"error: {error}")
        if error is not None:
            raise SharedError(str(error), is_mine=texts.index(texts[self.rank]) == self.rank) from error
        for text in filter(None, texts):
            raise SharedError(text.removeprefix("error: "), is_mine=False)

    def _texts_of_all(self, text: str) -> list[str]:
        """Return the texts of all processes, in the order of their ranks, once each has given its own."""
        exchange = next(self.exchanges)
        self.store.set(f"{exchange}/{self.rank}", text)
        return [self.store.get(f"{exchange}/{rank}").decode() for rank in range(self.size)]

    def first_then_others(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, then in the others: what the first one caches, they find."""
        with self.together():
            result = work() if self.is_first else None
        return result if self.is_first else work()
