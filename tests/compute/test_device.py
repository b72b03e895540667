"""How precisely a GPU computes is set on purpose and recorded."""

import pytest
import torch
from toys import registry

from genkit.compute.device import choose_device, time_convolutions
from genkit.runs.provenance import describe_origin


@pytest.fixture
def flags():
    """PyTorch's switches, as another program might have left them."""
    before = switches()
    set_switches(True, True, True)
    yield
    set_switches(*before)


def set_switches(matrices, convolutions, timed):
    torch.backends.cuda.matmul.allow_tf32 = matrices
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cudnn.benchmark = timed


def switches():
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark


def test_fp32_is_fp32_wherever_a_device_is_chosen(flags):
    choose_device("cpu")
    assert switches() == (False, False, False)


def test_only_a_training_on_a_gpu_lets_cudnn_time_its_algorithms(flags):
    choose_device("cpu")
    time_convolutions(torch.device("cpu"))
    assert switches() == (False, False, False)
    time_convolutions(torch.device("cuda", 0))
    assert switches() == (False, False, True)


def test_a_run_records_how_its_gpu_computed(flags, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    torch.backends.cudnn.allow_tf32 = False
    origin = describe_origin(registry(), "vae")
    assert (origin.gpu, origin.cudnn_benchmark) == ("a card", True)
    assert (origin.tf32.convolutions, origin.tf32.matrices) == (False, True)
