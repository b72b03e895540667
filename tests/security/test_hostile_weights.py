"""Third-party weights: refused in one sentence, and the model stays as it was."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forged import FAULTS, LAST, turned
from safetensors.torch import save as to_safetensors
from toys import Denoiser, TinyGAN, same_bits, snapshot

from genkit.errors import CheckpointError
from genkit.runs.checkpoint import load_weights, save_weights


def poisoned(value: float) -> bytes:
    tensors = {key: tensor.clone() for key, tensor in Denoiser().state_dict().items()}
    tensors[LAST].view(-1)[-1] = value
    return to_safetensors(tensors)


# What must be said of some faults; of the others, that the file cannot be read.
SAID = {
    "header of 2^63 bytes": "header would have",
    "header of -1 bytes": "header would have",
    "header with NaN": "NaN",
    "header nested deeply": "nested",
    "a key twice": "twice",
    "same size, other type": "torch.int32",
    "shape negative": "shape",
    "shape text": "shape",
    "shape huge": "shape",
    "shape turned": "has shape (16, 64), the model (64, 16)",
    "a tensor too many": r"'\x1b[31m', which the model does not have",
    "bytes that no tensor has": "lacks 'layers.0.bias'",
}
OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "another model's": (lambda: to_safetensors(TinyGAN(lambda *_: []).state_dict()), "model"),
    "NaN": (lambda: poisoned(math.nan), f"{LAST!r} holds NaN or infinite values"),
    "infinite": (lambda: poisoned(-math.inf), f"{LAST!r} holds NaN or infinite values"),
}


@pytest.mark.parametrize("kind", [*FAULTS, *OTHERS])
def test_hostile_weights_are_refused_and_the_model_stays_as_it_was(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "model.safetensors"
    if kind in OTHERS:
        make, words = OTHERS[kind]
        path.write_bytes(make())
    else:
        words = SAID.get(kind, "cannot be read as safetensors")
        path.write_bytes(FAULTS[kind](to_safetensors(Denoiser().state_dict())))
    model = Denoiser()
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_weights(path, model)
    assert words in str(error.value) and str(path) in str(error.value)
    assert len(str(error.value)) < 600 and str(error.value).isprintable()
    assert same_bits(snapshot(model), before)


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "link to itself"])
def test_weights_that_are_not_a_file_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "link to a device" else path.name)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_weights(path, Denoiser())


def test_weights_much_larger_than_the_model_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(2**40)  # a file with a hole takes no room
    with pytest.raises(CheckpointError, match="it has 1,099,511,627,776 bytes"):
        load_weights(path, Denoiser())


def test_the_order_of_tensors_in_a_file_does_not_matter(tmp_path: Path) -> None:
    """safetensors orders by type and name; a file in another order is as good."""
    model, other = Denoiser(), Denoiser()
    save_weights(tmp_path / "a", model, {})
    (tmp_path / "b").write_bytes(turned((tmp_path / "a").read_bytes()))
    load_weights(tmp_path / "b", other)
    assert same_bits(snapshot(model), snapshot(other))


def test_float8_weights_are_looked_at_too() -> None:
    """torch has no isfinite for them."""
    from genkit.runs.state_file import compare_types

    own = {"a": torch.ones(2).to(torch.float8_e4m3fn)}
    compare_types(own, own, "it")
    with pytest.raises(CheckpointError, match="holds NaN"):
        compare_types({"a": torch.tensor([1, math.nan]).to(torch.float8_e4m3fn)}, own, "it")
