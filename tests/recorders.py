"""Recorders for tests on a CPU: they repeat PyTorch's operations as a CUDA graph does."""

import torch
from torch.utils._pytree import tree_leaves

from genkit.compute.graphs import Refusal


class OperationRecorder:
    """Records work as its list of operations, each on the tensors that it had.

    A replay runs no Python of the work: it repeats the operations and writes their results where
    they were. As on a GPU, what reads a value cannot be recorded. Random numbers are drawn again.
    """

    def __init__(self):
        self.replays = 0

    def run(self, work):
        return work()

    def record(self, work):
        with _Operations() as recording:
            work()
        recording.owner = self
        return recording


class _Operations(Refusal):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = super().__torch_dispatch__(function, types, args, kwargs)
        self.calls.append((function, args, kwargs or {}, answer))
        return answer

    @torch.no_grad()
    def replay(self):
        self.owner.replays += 1
        for function, args, kwargs, answer in self.calls:
            again = function(*args, **kwargs)
            if any(returned.alias_info for returned in function._schema.returns):
                continue  # a view, or a change in place: it is where it was
            for old, new in zip(tree_leaves(answer), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and not old._is_zerotensor():
                    old.detach().copy_(new)
