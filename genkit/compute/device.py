"""Where a run computes and how precisely: device, threads, autocast."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from genkit.errors import UsageError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU. From now on a
    GPU computes as `settle_arithmetic` says.

    Raises:
        UsageError: the name is not known, or this machine has no such device.
    """
    settle_arithmetic()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name!r} is not a device; write auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no MPS device")
    return device


def settle_arithmetic() -> None:
    """Compute fp32 in fp32 on a GPU: TF32 has 10 bits of mantissa, where fp32 has 23.

    PyTorch allows it in convolutions and not in matrix products. Here it is allowed nowhere, so
    that `--precision fp32`, samples and scores are the same on all devices up to rounding; who
    wants speed has bf16, which `--precision auto` takes where it is faster. Nor is an algorithm
    chosen by a timing, which would change last bits.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def time_convolutions(device: torch.device) -> None:
    """Let cuDNN time its algorithms once for each shape: for a training, whose shapes are always
    the same and which repeats them often."""
    torch.backends.cudnn.benchmark = device.type == "cuda"


def visible_devices(device: torch.device) -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES that give one process each a GPU of its own. Empty unless the
    device is CUDA without a number."""
    if device.type != "cuda" or device.index is not None:
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    return named if len(named) == count and all(named) else [str(i) for i in range(count)]


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute on that many CPU threads; afterwards their number is as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 may be faster than fp32: on CPUs with AVX512-BF16 or AMX, and on GPUs since
    Ampere. Other CPUs emulate it slowly."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which losses are computed. There is no fp16: it would need a loss scale."""
    # A disabled autocast would still empty its cache at every step, at 0.03 ms.
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def check_compiler(device: torch.device) -> None:
    """Raise UsageError if torch.compile does not work on a device: it needs a compiler."""
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # torch's errors here have no common base
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"--compile: torch.compile does not work here ({reason:.200}); it needs a C++ compiler "
            "for a CPU and Triton for a GPU. Leave --compile out"
        ) from error


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to its device, its convolutions' weights with channels last."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device. The host does not wait for a GPU: a copy of pageable memory
    would, until the GPU has done all that it was given before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def read_scalars(values: Sequence[Tensor]) -> list[float]:
    """The numbers in tensors of one element each, which a device is waited for once."""
    if len(values) < 2:
        return [float(value.item()) for value in values]
    widest = torch.float32 if values[0].device.type == "mps" else torch.float64
    stacked = torch.stack([value.detach().reshape(()).to(widest) for value in values])
    numbers: list[float] = stacked.tolist()
    return numbers


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lack of memory."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    while error and not isinstance(error, kinds) and "DefaultCPUAllocator" not in str(error):
        error = error.__cause__
    return error is not None
