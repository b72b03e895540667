"""Work recorded once and repeated by one call: CUDA graphs, behind an interface that has no CUDA.

A GPU is often faster than the host can launch operations one by one. A recording launches all of
them together. It repeats the same operations on the same tensors: what Python decided, and what it
computed itself, is as it was when it was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


class Refusal(TorchDispatchMode):
    """Raises RuntimeError for operations that cannot be recorded: those whose result the host
    reads, or whose size depends on values, and copies between the host and a device.

    CUDA would refuse most of them too, but a capture that CUDA ends by itself leaves PyTorch's
    generator and its memory in a state that does not allow to go on.
    """

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in self.READS or by_mask:
            raise RuntimeError(f"a value is read ({name}) while work is recorded")
        answer = function(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, Tensor)]
        moved = name in ("_to_copy", "copy_") and any(
            (each.device.type == "cpu") != (answer.device.type == "cpu") for each in given
        )
        # torch.tensor(numbers, device=...) appears as lift_fresh alone.
        if moved or (name == "lift_fresh" and answer.device.type != "cpu"):
            raise RuntimeError(f"values are copied ({name}) between host and device")
        return answer


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory.

    All that it runs is on one side stream, and the caller's stream waits for it: capturing is not
    possible on the default stream, and autograd remembers the streams of earlier gradients. Never
    more than one recording is replayed at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._generator = torch.cuda.default_generators[self._stream.device.index]

    def run(self, work: Callable[[], Answer]) -> Answer:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            answer = work()
        current.wait_stream(self._stream)
        return answer

    def record(self, work: Callable[[], object]) -> Recording:
        """Each recording has a state of the generator of its own: that of a capture which fails
        refuses to draw numbers ever after, and is given up with it."""
        with Refusal():
            self.run(work)  # rehearsed, since a capture must not fail
        current = torch.cuda.current_stream(self._stream.device)
        state = self._generator.graphsafe_get_state()
        self._generator.graphsafe_set_state(self._generator.clone_state())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream), Refusal():
                work()
        except BaseException:
            torch.cuda.set_stream(current)
            self._generator.graphsafe_set_state(state)
            raise
        return _CudaRecording(graph, self._generator)


class _CudaRecording:
    """A CUDA graph and the state of the generator that belongs to it."""

    def __init__(self, graph: torch.cuda.CUDAGraph, generator: torch.Generator) -> None:
        self._graph = graph
        self._generator = generator
        self._state = generator.graphsafe_get_state()

    def replay(self) -> None:
        seed = self._generator.initial_seed()
        self._generator.graphsafe_set_state(self._state)
        self._generator.manual_seed(seed)
        self._graph.replay()
