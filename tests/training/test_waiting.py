"""In an iteration nothing waits for a GPU: shown on tensors that have no values, which
nobody can read, and by the operations of the loop as it runs on a GPU."""

import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import CPU, SHAPE, TINY, Denoiser, make_loop, random_images, registry

from genkit.compute import device as devices
from genkit.compute.device import place, read_scalars
from genkit.config.resolve import resolve
from genkit.data.splits import Augmentation, Split
from genkit.errors import TrainingError
from genkit.runs.build import build_model
from genkit.specs import ImageShape
from genkit.training import stream as streams
from genkit.training.loop import Loop
from genkit.training.stream import Stream

CUDA = torch.device("cuda", 0)
NOWHERE = torch.device("meta")


class Operations(TorchDispatchMode):
    """Counts what would wait for a GPU: numbers read from tensors, sizes that depend on values, and
    what is made on the CPU and copied to another device."""

    WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self):
        super().__init__()
        self.waits = []
        self.sent = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name().split(".")[0] in self.WAITS:
            self.waits.append(function.name())
        answer = function(*args, **(kwargs or {}))
        copied = function.name().startswith(("aten::_to_copy", "aten::copy_"))
        if copied and any(a.device != answer.device for a in args if isinstance(a, torch.Tensor)):
            self.sent += 1
        return answer


def built_in(name, **options):
    spec = registry().trainers.find(name)
    resolved = resolve(spec, given={**TINY[name], **options})
    return build_model(spec, resolved.options, ImageShape(*SHAPE), 0)


def deferred(model, **options):
    """A loop over tensors of the CPU that believes it is on a GPU."""
    loop = make_loop(model, random_images(20), **options)
    loop.waits = False
    return loop


@pytest.mark.parametrize("name", ["dcgan", "gan", "vae", "pixelcnn", "flow", "diffusion"])
def test_iterations_of_built_in_models_read_no_value(name):
    loop = deferred(built_in(name), ema_half_life=100, averages=[50])
    loop.iterate()  # makes the optimizers' state
    with Operations() as seen:
        for _ in range(4):  # across the end of an epoch
            loop.iterate()
    assert seen.waits == []


def test_the_count_sees_a_read():
    with Operations() as seen:
        make_loop(Denoiser()).iterate()  # on a CPU each loss is read at once
    assert "aten::_local_scalar_dense" in seen.waits


@pytest.mark.parametrize("name", ["dcgan", "vae", "pixelcnn"])
def test_an_iteration_runs_on_tensors_that_have_no_values(name, monkeypatch):
    # Whoever reads a number of torch's "meta" device gets an exception.
    adam = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    sent = []

    def send(tensor, device):
        sent.append(tuple(tensor.shape))
        return torch.empty_like(tensor, device=device)

    monkeypatch.setattr(streams, "send", send)
    split = Split(random_images(20), augmentation=Augmentation(flip=True, shift=1))
    stream = Stream(split, batch_size=8, seed=0, device=NOWHERE)
    loop = Loop(place(built_in(name), NOWHERE), stream, seed=0, ema_half_life=100)
    with Operations() as seen:
        logs = [loop.iterate() for _ in range(5)]
    found = [value for value in logs[-1].values() if isinstance(value, torch.Tensor)]
    assert found and all(value.device == NOWHERE for value in found)
    assert sent.count((20,)) == 2  # the order of each epoch
    assert sent.count((3, 8, 1)) == 5 and len(sent) == 7  # of each batch three numbers an image
    assert seen.sent == 0  # and nothing beside them
    with pytest.raises((RuntimeError, NotImplementedError)):
        loop.check_finite()


def test_logs_are_read_by_one_transfer():
    loop = deferred(built_in("dcgan"))
    loop.iterate()
    with Operations() as seen:
        values = loop.take_logs()
    assert len(values) > 2 and len(seen.waits) <= 1


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(0.1),
        torch.tensor([7]),
        torch.tensor(0.1).bfloat16(),
        torch.tensor(2.5).double(),
    ],
)
def test_scalars_are_read_as_they_are(value):
    assert read_scalars([value, torch.tensor(1.0)]) == [value.item(), 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_read_late_still_names_its_phase_and_step(bad):
    model = Denoiser()
    loop = deferred(model)
    loop.iterate()
    model.noise = bad
    loop.iterate()
    model.noise = 1.0
    loop.iterate()
    with pytest.raises(TrainingError, match=r"phase 'denoise' became (nan|inf) in step 2"):
        loop.check_finite()


def test_losses_that_nobody_reads_are_read_in_time(monkeypatch):
    monkeypatch.setattr("genkit.training.loop.MOST_UNCHECKED", 3)
    model = Denoiser()
    loop = deferred(model)
    model.noise = math.nan
    loop.iterate()
    loop.iterate()
    with pytest.raises(TrainingError, match="in step 1"):
        loop.iterate()


def test_to_a_gpu_tensors_go_from_pinned_memory_without_a_wait(monkeypatch):
    calls = []

    class Pinned:
        def to(self, device, non_blocking=False):
            calls.append((device, non_blocking))

    class Pageable:
        def pin_memory(self):
            return Pinned()

    devices.send(Pageable(), CUDA)
    assert calls == [(CUDA, True)]
    assert devices.send(torch.ones(2), CPU).device == CPU
