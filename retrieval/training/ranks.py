"""Several processes as one batch: which share is ours, and gathering that gradients flow back through.

One process is the same code with a world of one. Processes are those of `torchrun`: gloo on CPUs, nccl on GPUs. Knows
nothing about models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor

_WAIT = timedelta(
    hours=12
)  # others wait while the leading process encodes a large table; torchrun ends them if it dies


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among all: rank of world, and the device it works on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def own(self, size: int) -> slice:
        """Our share of `size` rows, which is a multiple of world."""
        share = size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, x: Tensor) -> Tensor:
        """Rows of all processes in rank order; the gradient of each row goes back to the process that made it."""
        if self.world == 1:
            return x
        parts = dist_functional.all_gather(x.contiguous())  # type: ignore[no-untyped-call]
        return torch.cat(parts, dim=0)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over processes, without gradient."""
        if self.world == 1:
            return x.detach()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """A block that the leading process has left before another enters it, whether or not it failed."""
        if not self.leads:
            self.wait()
        try:
            yield
        finally:
            if self.leads:
                self.wait()

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The process group that `torchrun` describes in the environment, or a world of one; on GPUs if there are any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if world == 1:
        yield Ranks(device=device)
        return
    if cuda:
        torch.cuda.set_device(device)  # or the collectives of every process would meet on the first GPU
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_WAIT)
    try:
        yield Ranks(rank=dist.get_rank(), world=world, device=device)
    finally:
        dist.destroy_process_group()
