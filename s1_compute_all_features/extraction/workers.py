"""Division of work over the processes that `torchrun` starts; one process alone needs nothing of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
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
    """This process among `size` processes that share the output folder."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Workers":
        """Join the group that torchrun's environment variables describe, or be alone."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        # gloo: only short messages are exchanged, tensors never leave their device.
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        return cls(
            torch.distributed.get_rank(), torch.distributed.get_world_size(), int(os.environ["LOCAL_RANK"])
        )

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
        texts: list[str | None] = [None] * self.size
        torch.distributed.all_gather_object(texts, None if error is None else str(error))
        if error is not None:
            raise SharedError(str(error), is_mine=texts.index(str(error)) == self.rank) from error
        for text in filter(None, texts):
            raise SharedError(text, is_mine=False)

    def first_then_others(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, then in the others: what the first one caches, they find."""
        with self.together():
            result = work() if self.is_first else None
        return result if self.is_first else work()

    def leave(self) -> None:
        if self.size > 1:
            torch.distributed.destroy_process_group()
