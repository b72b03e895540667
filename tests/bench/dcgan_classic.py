"""Training speed of DCGAN: genkit's loop against the classic script, in one interleaved run.

The classic script is the usual tutorial: a data set of PIL images with torchvision transforms, a
DataLoader with two workers, fp32, plain Adam, a print of losses each step. Both train the exact
1 x 28 x 28 network on the same digits with the same batch size, on one thread.

    python tests/bench/dcgan_classic.py [--steps 5] [--rounds 9]
"""

import argparse
import io
import statistics
import time
from contextlib import redirect_stdout

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from genkit.config import RunConfig
from genkit.data import Split
from genkit.device import choose_precision, place
from genkit.loop import Loop
from genkit.registry import load_registry
from genkit.runs import build_model, load_data
from genkit.specs import ImageShape
from genkit.stream import Stream

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 28, 28)


class Pictures(Dataset):
    """What torchvision's MNIST does with each image."""

    def __init__(self, images):
        self.images = images
        self.transform = transforms.Compose(
            [transforms.Resize(28), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index, 0]))


def classic(spec, split: Split, batch_size: int):
    """The tutorial's loop as an endless generator of steps."""
    model = build_model(spec, spec.config(batch_size=batch_size), SHAPE, 0).train()
    generator, discriminator = model.generator, model.discriminator
    loader = DataLoader(Pictures(split.images), batch_size, shuffle=True, num_workers=2)
    criterion = nn.BCEWithLogitsLoss()
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    while True:
        for real in loader:
            if len(real) < batch_size:
                continue
            ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
            discriminator.zero_grad()
            loss_real = criterion(discriminator(real), ones)
            loss_real.backward()
            fake = generator(torch.randn(len(real), 100))
            loss_fake = criterion(discriminator(fake.detach()), zeros)
            loss_fake.backward()
            optimizer_d.step()
            generator.zero_grad()
            loss_g = criterion(discriminator(fake), ones)
            loss_g.backward()
            optimizer_g.step()
            with redirect_stdout(io.StringIO()):
                print((loss_real + loss_fake).item(), loss_g.item())
            yield


def ours(spec, split: Split, batch_size: int, precision: str):
    """genkit's loop as an endless generator of steps."""
    config = spec.config(batch_size=batch_size)
    model = place(build_model(spec, config, SHAPE, 0), CPU)
    stream = Stream(split, batch_size=batch_size, seed=0, device=CPU)
    loop = Loop(model, stream, seed=0, precision=precision, ema_half_life=config.ema_half_life)
    while True:
        loop.iterate()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="steps in a row")
    parser.add_argument("--rounds", type=int, default=9, help="times that all variants take turns")
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    spec = registry.trainers.find("dcgan")
    split = load_data(registry, RunConfig()).train
    size = arguments.batch_size
    variants = {"classic, fp32": classic(spec, split, size)}
    variants["genkit, fp32"] = ours(spec, split, size, "fp32")
    if choose_precision("auto", CPU) == "bf16":
        variants["genkit, bf16"] = ours(spec, split, size, "bf16")
    for variant in variants.values():
        next(variant)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, variant in variants.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                next(variant)
            times[name].append((time.perf_counter() - start) / arguments.steps)
    base = times["classic, fp32"]
    print(f"{arguments.rounds} rounds of {arguments.steps} steps, batch {size}, wall time")
    for name, values in times.items():
        ratios = [b / v for b, v in zip(base, values, strict=True)]
        print(
            f"{name:14}  {size / statistics.median(values):6.0f} img/s  "
            f"x{statistics.median(ratios):.2f} (x{min(ratios):.2f} to x{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
