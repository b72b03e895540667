"""The scripts of the porting page and the plugins they turn into are the same algorithms."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
import torchvision.datasets
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genkit.compute.seeds import derive_seed, seed_generators
from genkit.config.resolve import resolve
from genkit.data import Split
from genkit.model import Batch, GenerativeModel
from genkit.runs.build import build_model
from genkit.specs import ImageShape
from genkit.testing import PromiseBroken, check_trainer
from genkit.training.loop import Loop
from genkit.training.stream import Stream

torch.set_num_threads(1)

PAGE = Path(__file__).parents[2] / "docs" / "porting.md"
CPU = torch.device("cpu")
STEPS, SEED, BATCH_SIZE = 5, 0, 16
SMALL = {"latent": 16, "width": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The page's code by the file names in its first lines; the plugins can be imported."""
    folder = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    found = {re.match(r"# (\w+\.py)", block)[1]: block for block in blocks}
    for name, block in found.items():
        (folder / name).write_text(block, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield found
    sys.path.remove(str(folder))


@pytest.fixture
def doubles() -> Iterator[None]:
    """Numbers of 64 bits: Adam turns the rounding of a gradient near 0 into whole steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class DoubleStream(Stream):
    def batch(self, number: int) -> Batch:
        return Batch(super().batch(number).images.double())


class Side:
    """A port on its way through genkit's loop, and what a script needs to go the same way."""

    def __init__(self, module: ModuleType, **options: Any) -> None:
        (spec,) = module.register_trainers()
        config = resolve(spec, given={"batch_size": BATCH_SIZE, **options}).options
        self.model = build_model(spec, config, ImageShape(1, 28, 28), SEED)
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        images = np.random.RandomState(0).randint(0, 256, (100, 1, 28, 28)).astype(np.uint8)
        self.stream = DoubleStream(Split(images), batch_size=BATCH_SIZE, seed=SEED, device=CPU)
        self.loop = Loop(self.model, self.stream, seed=SEED)

    def run(self) -> None:
        for _ in range(STEPS):
            self.loop.iterate()

    def give_weights(self, net: nn.Module, name: str) -> None:
        """Load the port's initial weights into a network of the script."""
        prefix = f"{name}."
        own = {k.removeprefix(prefix): v for k, v in self.start.items() if k.startswith(prefix)}
        net.load_state_dict(own)

    def batches(self, per_step: int = 1) -> Iterator[Tensor]:
        """Images as the loop sees them; at each step the noise starts as it does there."""
        for number in range(STEPS * per_step):
            if number % per_step == 0:
                seed_generators(CPU, derive_seed(SEED, "step", number // per_step))
            yield self.stream.batch(number).images

    def assert_same(self, net: nn.Module, name: str, still: str = "") -> None:
        """The script's parameters moved, but for one, and to where the port's are."""
        theirs = dict(net.named_parameters())
        assert theirs
        for key, ours in getattr(self.model, name).named_parameters():
            moved = (theirs[key] - self.start[f"{name}.{key}"]).abs().max()
            assert moved > 5e-4 or key == still
            torch.testing.assert_close(ours, theirs[key], rtol=0, atol=1e-6)


@pytest.fixture
def script(
    code: dict[str, str], doubles: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Side, dict[str, Any]]:
    """The first script after one epoch of a few batches, and its port."""
    import classic_gan

    side, names = Side(classic_gan), {"__name__": "__main__"}

    class Loader:
        def __init__(self, *arguments: object, batch_size: int, **options: object) -> None:
            assert batch_size == 64 and options["shuffle"]

        def __iter__(self) -> Iterator[tuple[Tensor, None]]:
            for name in ("netG", "netD"):
                side.give_weights(names[name], name)
            return ((images, None) for images in side.batches())

    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda *arguments, **options: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    text, number = re.subn(
        r"(nz, .*, epochs = .*), 25$", r"\1, 1", code["train_gan.py"], flags=re.M
    )
    assert number == 1
    exec(compile(text, "train_gan.py", "exec"), names)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pth"}
    return side, names


def test_port_has_the_scripts_settings(code: dict[str, str]) -> None:
    import classic_gan

    config = classic_gan.ClassicGANConfig()
    first = next(line for line in code["train_gan.py"].splitlines() if line.startswith("nz,"))
    values = [config.latent, config.width, config.width, config.batch_size, config.learning_rate]
    assert first == f"nz, ngf, ndf, batch_size, lr, epochs = {', '.join(map(str, values))}, 25"


def test_port_of_the_script_is_the_same_algorithm(script: tuple[Side, dict[str, Any]]) -> None:
    side, names = script
    side.run()
    for name in ("netG", "netD"):
        side.assert_same(names[name], name)


def test_batch_norm_of_the_ported_generator_counts_two_passes_a_step(
    script: tuple[Side, dict[str, Any]],
) -> None:
    """The trap that the page tells of; and nothing but running averages differs."""
    side, names = script
    side.run()
    ours, theirs = side.model.netG[1], names["netG"][1]
    assert (ours.num_batches_tracked, theirs.num_batches_tracked) == (2 * STEPS, STEPS)
    assert side.model.netD[3].num_batches_tracked == names["netD"][3].num_batches_tracked


def test_initial_weights_of_the_port_are_the_scripts(script: tuple[Side, dict[str, Any]]) -> None:
    """Normal with deviation 0.02, about 0 for convolutions and about 1 for BatchNorm."""
    side, _ = script
    for name, value in side.start.items():
        if name.endswith("weight") and value.numel() > 5000:
            assert abs(value.mean()) < 1e-3 and abs(value.std() - 0.02) < 1e-3
    assert abs(side.start["netG.1.weight"].mean() - 1) < 0.01


@pytest.mark.thorough
def test_port_of_wgan_gp_is_the_same_algorithm(code: dict[str, str], doubles: None) -> None:
    import wgan_gp

    side, names = Side(wgan_gp, learning_rate=1e-3), {"torch": torch}
    twin = Side(wgan_gp, learning_rate=1e-3).model
    adam = torch.optim.Adam
    names |= {"netG": twin.netG, "netC": twin.netC, "nz": 64, "device": CPU, "iterations": STEPS}
    names["optimizerG"] = adam(twin.netG.parameters(), lr=1e-3, betas=(0.0, 0.9))
    names["optimizerC"] = adam(twin.netC.parameters(), lr=1e-3, betas=(0.0, 0.9))
    names["batches"] = side.batches(per_step=5)
    exec(compile(code["wgan_gp_loop.py"], "wgan_gp_loop.py", "exec"), names)
    side.run()
    side.assert_same(twin.netG, "netG")
    side.assert_same(twin.netC, "netC", still="5.bias")  # it cancels in the difference


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [("classic_gan", {}), ("wgan_gp", {"critic_steps": 2})])
def test_port_keeps_its_promises(code: dict[str, str], name: str, more: dict[str, int]) -> None:
    (spec,) = importlib.import_module(name).register_trainers()
    check_trainer(spec, options=SMALL | more, shapes=((1, 28, 28), (3, 28, 28)))


def test_old_weight_norm_cannot_be_copied_for_the_average() -> None:
    """As the page says; spectral normalisation can be."""
    with pytest.warns(FutureWarning, match="deprecated"):
        layer = nn.utils.weight_norm(nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(layer)


def variant(monkeypatch: pytest.MonkeyPatch, model: type[GenerativeModel]) -> Any:
    """The spec of the port with another class behind it."""
    import classic_gan

    monkeypatch.setattr(classic_gan, "ClassicGAN", model)
    return classic_gan.register_trainers()[0]


@pytest.mark.slow
def test_spectral_normalisation_works_in_a_port(
    code: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import classic_gan

    class Normalised(classic_gan.ClassicGAN):
        def __init__(self, config: Any, image_shape: ImageShape) -> None:
            super().__init__(config, image_shape)
            for place in (0, 2, 5):
                spectral_norm(self.netD[place])

    spec = variant(monkeypatch, Normalised)
    check_trainer(spec, options=SMALL, shapes=((1, 28, 28),))


@pytest.mark.slow
@pytest.mark.parametrize("registered", [False, True])
def test_counter_must_be_a_buffer_to_survive_resuming(
    code: dict[str, str], monkeypatch: pytest.MonkeyPatch, registered: bool
) -> None:
    import classic_gan

    class Counting(classic_gan.ClassicGAN):
        """Its loss grows with the number of times it was asked for."""

        def __init__(self, config: Any, image_shape: ImageShape) -> None:
            super().__init__(config, image_shape)
            if registered:
                self.register_buffer("count", torch.zeros(()))
            else:
                self.count = torch.zeros(())

        def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, extras = super().generator_loss(batch)
            self.count += 1
            return loss * (1 + self.count / 10), extras

    spec = variant(monkeypatch, Counting)
    options = {"options": SMALL, "shapes": ((1, 28, 28),)}
    if registered:
        check_trainer(spec, **options)
    else:
        with pytest.raises(PromiseBroken, match="resumed training must equal an uninterrupted"):
            check_trainer(spec, **options)
