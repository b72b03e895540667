"""Work recorded once and repeated by one call: CUDA graphs, behind an interface that has no CUDA.

A GPU is often faster than the host can launch operations one by one. A recording launches all of
them together. It repeats the same operations on the same tensors: what Python decided, and what it
computed itself, is as it was when it was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

Answer = TypeVar("Answer")


class Recording(Protocol):
    """Recorded work."""

    def replay(self) -> object:
        """Do it again, on what its tensors hold now; random numbers come from the generator as it
        is seeded now."""


class Recorder(Protocol):
    """What can record work on one device."""

    def run(self, work: Callable[[], Answer]) -> Answer:
        """Do work now, in the way that it will be recorded: what it does only at the first time,
        such as choosing algorithms, is then done."""

    def record(self, work: Callable[[], object]) -> Recording:
        """Record work, which may or may not be done on the way. Any exception says that it cannot
        be recorded, for instance since it reads a value."""


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory.

    All that it runs is on one side stream, and the caller's stream waits for it: capturing is not
    possible on the default stream, and autograd remembers the streams of earlier gradients. Never
    more than one recording is replayed at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], Answer]) -> Answer:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            answer = work()
        current.wait_stream(self._stream)
        return answer

    def record(self, work: Callable[[], object]) -> Recording:
        graph = torch.cuda.CUDAGraph()  # the default generator belongs to every graph
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph
