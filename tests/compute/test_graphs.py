"""What cannot be recorded is refused before CUDA sees it; recordings keep to their own streams and
generators. CUDA itself is replaced by what notes its calls."""

import types
from contextlib import contextmanager

import pytest
import torch

from genkit.compute import graphs
from genkit.compute.graphs import CudaRecorder, Refusal

HERE, ELSEWHERE = torch.arange(3.0), torch.empty(3, device="meta")


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda: HERE.sum().item(), "a value is read"),
        (lambda: float(HERE[0]), "a value is read"),
        (lambda: bool(HERE.any()), "a value is read"),
        (lambda: HERE[HERE > 1], "a value is read"),
        (lambda: HERE.unique(), "a value is read"),
        (lambda: HERE.to("meta"), "between host and device"),
        (lambda: ELSEWHERE.copy_(HERE), "between host and device"),
        (lambda: torch.ops.aten.lift_fresh(ELSEWHERE), "between host and device"),
    ],
)
def test_what_makes_the_host_wait_is_refused(work, reason):
    with pytest.raises(RuntimeError, match=reason), Refusal():
        work()


def test_the_rest_is_done():
    weight = torch.ones(3, requires_grad=True)
    with Refusal():
        x = torch.randn(4, 3) * torch.tensor(2.0)
        torch.where(x > 0, x, 0).matmul(weight).sum().backward()
        moved = ELSEWHERE.to(torch.bfloat16) + 1
    assert weight.grad.shape == (3,) and moved.device.type == "meta"


class Generator:
    """The default generator of a GPU: a state that can be exchanged."""

    def __init__(self):
        self.state = {"seed": 1, "broken": False}

    def graphsafe_get_state(self):
        return self.state

    def graphsafe_set_state(self, state):
        self.state = state

    def clone_state(self):
        return dict(self.state)

    def initial_seed(self):
        return self.state["seed"]

    def manual_seed(self, seed):
        self.state["seed"] = seed


class Cuda:
    """The parts of torch.cuda that a recorder calls. A capture that fails leaves its stream current
    and breaks the generator's state, as PyTorch's does."""

    def __init__(self):
        self.default_generators = [Generator()]
        self.current = self.Stream(torch.device("cuda", 0))
        self.replayed = []

    class Stream:
        def __init__(self, device):
            self.device = torch.device(device.type, 0)
            self.waited_for = []

        def wait_stream(self, other):
            self.waited_for.append(other)

    def graph_pool_handle(self):
        return "pool"

    def current_stream(self, device):
        return self.current

    def set_stream(self, stream):
        self.current = stream

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def CUDAGraph(self):
        generator = self.default_generators[0]
        return types.SimpleNamespace(replay=lambda: self.replayed.append(generator.state))

    @contextmanager
    def graph(self, graph, pool, stream):
        before, self.current = self.current, stream
        state = self.default_generators[0].state
        state["broken"] = True
        yield
        state["broken"] = False
        self.current = before


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    return cuda


def test_work_runs_on_a_side_stream_that_waits_and_is_waited_for(cuda):
    default, recorder = cuda.current, CudaRecorder(torch.device("cuda"))
    side = recorder.run(lambda: cuda.current)
    assert side is not default and cuda.current is default
    assert side.waited_for == [default] and default.waited_for == [side]


def test_each_replay_draws_by_the_seed_of_its_step_in_a_state_of_its_own(cuda):
    generator = cuda.default_generators[0]
    recorder = CudaRecorder(torch.device("cuda"))
    first, second = recorder.record(lambda: None), recorder.record(lambda: None)
    for seed, recording in ((7, first), (8, second), (9, first)):
        generator.manual_seed(seed)
        recording.replay()
        assert cuda.replayed[-1]["seed"] == seed
    assert cuda.replayed[0] is cuda.replayed[2] is not cuda.replayed[1]


def test_a_capture_that_fails_leaves_stream_and_generator_as_they_were(cuda):
    default, times = cuda.current, []

    def work():
        times.append(1)
        if len(times) == 2:  # the first time is the rehearsal
            raise RuntimeError("CUDA has ended the capture")

    with pytest.raises(RuntimeError, match="ended the capture"):
        CudaRecorder(torch.device("cuda")).record(work)
    assert cuda.current is default
    assert cuda.default_generators[0].state == {"seed": 1, "broken": False}


def test_work_that_cannot_be_recorded_fails_in_its_rehearsal_before_any_capture(cuda):
    cuda.graph = None  # would raise TypeError
    with pytest.raises(RuntimeError, match="a value is read"):
        CudaRecorder(torch.device("cuda")).record(lambda: HERE.sum().item())
