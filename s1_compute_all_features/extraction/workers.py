"""Division of work over the processes that `torchrun` starts; one process alone needs nothing of it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


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
        import torch.distributed

        # gloo: only short messages are exchanged, tensors never leave their device.
        torch.distributed.init_process_group("gloo")
        return cls(
            torch.distributed.get_rank(), torch.distributed.get_world_size(), int(os.environ["LOCAL_RANK"])
        )

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process' part of `items`, every size-th one."""
        return items[self.rank :: self.size]

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` in every process and wait for all; an input error in one is raised in each of them."""
        result, error = None, None
        try:
            result = work()
        except (ValueError, OSError) as caught:
            error = caught
        errors = [error]
        if self.size > 1:
            import torch.distributed

            texts: list = [None] * self.size
            torch.distributed.all_gather_object(texts, None if error is None else str(error))
            errors = [error if error is not None else text and ValueError(text) for text in texts]
        for caught in errors:
            if caught is not None:
                raise caught
        return result

    def first_then_others(self, work: Callable[[], T]) -> T:
        """Do `work` in the first process, then in the others: what the first one caches, they find."""
        result = self.together(work if self.is_first else lambda: None)
        return result if self.is_first else work()

    def leave(self) -> None:
        if self.size > 1:
            import torch.distributed

            torch.distributed.destroy_process_group()
