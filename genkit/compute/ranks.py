"""Several processes that train one model: which of them this is, and what they exchange.

Plugins know nothing of them: each rank computes losses on its part of the global batch, and the
gradients of a phase are summed as one flat tensor. Started by torchrun or by `--devices N`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from genkit.compute.device import send
from genkit.errors import GenkitError, UsageError
from genkit.io.processes import is_launched

PATIENCE = timedelta(minutes=10)  # for a rank that is late; one that dies is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. All methods that exchange something are
    called by every rank, in the same order; of a single rank they cost nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks to the user."""
        return self.rank == 0

    def part(self, total: int) -> slice:
        """This rank's part of a batch of `total` images; sizes differ by one at most."""
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def sum_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Replace the gradients by their sums over the ranks, and return the sum of the losses.

        Losses were weighted by each rank's share of the batch, so the sums are those of the whole
        batch. A gradient that no rank has stays None.
        """
        if self.count == 1:
            return loss
        missing = [p.grad is None for p in parameters]
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        here = send(torch.tensor([not m for m in missing], dtype=torch.float32), loss.device)
        flat = torch.cat([part.float() for part in parts] + [here, loss.detach().float().view(1)])
        with exchanging():
            distributed.all_reduce(flat)
        sizes = [p.numel() for p in parameters] + [len(parameters), 1]
        sums = torch.split(flat, sizes)
        for parameter, total, was_missing, ranks_with_it in zip(
            parameters, sums, missing, sums[-2], strict=False
        ):
            if was_missing:  # only there the answer is looked at, for which a device is waited
                parameter.grad = torch.empty_like(parameter) if ranks_with_it > 0 else None
            if parameter.grad is not None:  # in its memory format: fused optimizers count on that
                parameter.grad.copy_(total.view_as(parameter))
        return sums[-1].squeeze(0)

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Each value summed over the ranks, which have the same names."""
        if self.count == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        with exchanging():
            distributed.all_reduce(numbers)
        return dict(zip(values, numbers.tolist(), strict=True))

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over the ranks."""
        if self.count == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        with exchanging():
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return [float(number) for number in numbers]

    def wait(self) -> None:
        """Until all ranks have come this far."""
        self.largest(0)

    def copy_buffers(self, module: nn.Module) -> None:
        """Give all ranks the first one's buffers, BatchNorm's statistics for instance."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in module.buffers():
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for same in by_type.values():
            flat = torch.cat([tensor.detach().flatten() for tensor in same])
            with exchanging():
                distributed.broadcast(flat, src=0)
            parts = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, values in zip(same, parts, strict=True):
                tensor.detach().copy_(values.view_as(tensor))

    def gather(self, images: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Each rank's images, of which rank i has `sizes[i]`, on all ranks: on the CPU."""
        if self.count == 1:
            return [images]
        padded = torch.zeros(max(sizes), *images.shape[1:], dtype=images.dtype)
        padded[: len(images)] = images
        found = [torch.empty_like(padded) for _ in sizes]
        with exchanging():
            distributed.all_gather(found, padded)
        return [part[:size] for part, size in zip(found, sizes, strict=True)]

    def text(self, text: str) -> str:
        """The first rank's text, on all ranks."""
        if self.count == 1:
            return text
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        size = int(self.largest(len(content) if self.first else 0)[0])
        shared = content.clone() if self.first else torch.empty(size, dtype=torch.uint8)
        with exchanging():
            distributed.broadcast(shared, src=0)
        return bytes(shared.tolist()).decode()

    def device(self, device: torch.device) -> torch.device:
        """The rank's own device of a kind: with CUDA, each rank on a machine has another one."""
        if device.type != "cuda" or self.count == 1:
            return device
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
        return own


ALONE = Ranks()


@contextmanager
def exchanging() -> Iterator[None]:
    """What a lost connection raises becomes one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise GenkitError(
            "another process of this training has ended or cannot be reached "
            f"({str(error).splitlines()[0]:.120})"
        ) from error


@contextmanager
def joined() -> Iterator[Ranks]:
    """All processes that torchrun started together, or this one alone.

    Raises:
        UsageError: torchrun's environment variables are not all there.
    """
    if not is_launched():
        yield ALONE
        return
    cuda = torch.cuda.is_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    except ValueError as error:
        raise UsageError(f"the processes cannot meet: {error}; start them by torchrun") from None
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
