"""Whether features see faults, and more of them as they grow: ladders of damage on photos, emoji
and digits, under EfficientNet-Lite0 at several sizes and layers.

    python tests/bench/feature_ladders.py --photos cifar10-jpeg.zip --sides 64 96 128
    python tests/bench/feature_ladders.py --photos cifar10-jpeg.zip --write docs/metrics.md

The zip holds images as SPLIT/CLASS/NAME; emoji and digits come with genkit. Prints for each
setting the share of steps of the ladders that KID puts in order, and how much worse than the worst
damage it finds noise; then the KID of every step. With --write the tables replace what stands
between the markers in a file.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from metric_faults import as_markdown, grain, through_pillow
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from genkit.config.run import RunConfig
from genkit.registry.catalogue import load_registry
from genkit.runs.build import load_data
from genkit.specs import Config
from genkit_efficientnet import features
from genkit_efficientnet.features import EfficientNet

BEGIN, END = "<!-- made by tests/bench/feature_ladders.py -->", "<!-- end of ladders -->"
# Place in what the network returns and length, by what the tables call them.
LAYERS = {
    "320, unit": (0, True),
    "320, raw": (0, False),
    "1,280, unit": (1, True),
    "1,280, raw": (1, False),
}
DRAWS = 20  # of half of the samples, on which the order of steps is asked


@dataclass(frozen=True)
class Kind:
    """Images of one kind: uint8, (N, C, H, W), with labels, (N,) int64, the first `reference` of
    them to compare with."""

    name: str
    images: Tensor
    labels: Tensor
    reference: int


def photos(path: Path, count: int) -> Iterator[tuple[Tensor, str]]:
    """Images of the training split of a zip, drawn at random."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("train/")]
        for place in np.random.default_rng(0).permutation(len(names))[:count]:
            image = Image.open(io.BytesIO(archive.read(names[place]))).convert("RGB")
            yield torch.from_numpy(np.array(image)).permute(2, 0, 1), names[place].split("/")[1]


def kinds(path: Path, reference: int, samples: int) -> Iterator[Kind]:
    found = list(photos(path, reference + samples))
    classes = sorted({label for _, label in found})
    labels = torch.tensor([classes.index(label) for _, label in found])
    yield Kind("photos", torch.stack([image for image, _ in found]), labels, reference)
    registry = load_registry()
    for kind, name in (("emoji", "emoji-mini"), ("digits", "mnist-mini")):
        data = load_data(registry, RunConfig(data=name))
        images = torch.from_numpy(np.concatenate([data.train.images, data.test.images]))
        labels = torch.from_numpy(np.concatenate([data.train.labels, data.test.labels]))
        if images.shape[1] == 4:  # premultiplied, over white
            images = images[:, :3] + (255 - images[:, 3:])
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
        order = order[: reference + samples]
        yield Kind(kind, images[order], labels[order], len(order) - samples)


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return change


def hue(degrees: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        turned = np.array(image.convert("HSV"))
        turned[..., 0] += round(degrees / 360 * 256)
        return Image.fromarray(turned, "HSV").convert("RGB")

    return change


def tiles(images: Tensor, count: int) -> Tensor:
    """Each image cut into count x count tiles, which change places, each image's in its own way."""
    size = images.shape[-1] // count
    cut = images.unfold(2, size, size).unfold(3, size, size)  # (N, C, count, count, size, size)
    cut = cut.flatten(2, 3)
    generator = torch.Generator().manual_seed(3)
    orders = torch.rand(len(images), count**2, generator=generator).argsort(1)
    cut = torch.stack([image[:, order] for image, order in zip(cut, orders, strict=True)])
    cut = cut.unflatten(2, (count, count))
    return cut.transpose(3, 4).flatten(4, 5).flatten(2, 3).contiguous()


def ladders(images: Tensor, labels: Tensor) -> dict[str, dict[str, Tensor]]:
    """Damaged images by the kind of damage and its strength, each ladder from weak to strong."""
    classes = int(labels.max()) + 1

    def repeated(count: int) -> Tensor:
        return images[:count].repeat(len(images) // count + 1, 1, 1, 1)[: len(images)]

    found = {
        "blur, sd": {
            f"{sigma} px": gaussian_blur(images, 2 * round(3 * sigma) + 1, sigma)
            for sigma in (0.5, 1.0, 2.0)
        },
        "grain, sd": {str(sigma): grain(images, sigma) for sigma in (8, 16, 32, 64)},
        "JPEG, quality": {str(q): through_pillow(images, jpeg(q)) for q in (70, 40, 15)},
        "classes missing": {str(n): images[labels < classes - n] for n in (1, 3, 5)},
        "distinct images": {str(n): repeated(n) for n in (500, 100, 20)},
        "tiles shuffled": {f"{n} x {n}": tiles(images, n) for n in (2, 4)},
    }
    if images.shape[1] == 3:
        found["hue turned by"] = {
            f"{n} degrees": through_pillow(images, hue(n)) for n in (15, 30, 60)
        }
    return found


class Distances:
    """KID of features, (N, D), to a reference, (M, D), as a whole and of parts of them."""

    def __init__(self, samples: Tensor, reference: Tensor, within_reference: float) -> None:
        self.within = cubic(samples, samples)
        self.across = cubic(samples, reference).mean(1)
        self.constant = within_reference

    def kid(self, places: Tensor | None = None) -> float:
        """A thousand times the unbiased squared MMD."""
        if places is None:
            places = torch.arange(len(self.across))
        inside = mean_of_pairs(self.within[places][:, places])
        return 1000 * (inside - 2 * float(self.across[places].mean()) + self.constant)

    def kid_of_half(self, generator: torch.Generator) -> float:
        """The same of half of the samples, drawn at random."""
        count = len(self.across)
        return self.kid(torch.randperm(count, generator=generator)[: count // 2])


def cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1).double() ** 3


def mean_of_pairs(values: Tensor) -> float:
    """The mean of a matrix, (N, N), without its diagonal."""
    return float(values.sum() - values.trace()) / (len(values) * (len(values) - 1))


def extract(network: torch.nn.Module, images: Tensor, side: int) -> list[Tensor]:
    """What the network gives: pooled trunk, head and logits."""
    features.SIDE = side
    with torch.inference_mode():
        parts = [network(features.enlarge(chunk)) for chunk in images.split(features.CHUNK)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def measure(kind: Kind, network: torch.nn.Module, side: int) -> dict[str, dict]:
    """For each layer the KID of every step of the ladders, and the share of steps in order."""
    real = kind.images[kind.reference :]
    steps = ladders(real, kind.labels[kind.reference :])
    generator = torch.Generator().manual_seed(4)
    noise = torch.randint(256, real.shape, dtype=torch.uint8, generator=generator)
    wanted = {("real", ""): real}
    wanted |= {(name, step): each for name, one in steps.items() for step, each in one.items()}
    wanted[("uniform noise", "")] = noise
    start = time.process_time()
    base = extract(network, kind.images[: kind.reference], side)
    found = {key: extract(network, images, side) for key, images in wanted.items()}
    seen = kind.reference + sum(len(images) for images in wanted.values())
    rate = seen / (time.process_time() - start)
    answers = {}
    for layer, (place, unit) in LAYERS.items():

        def prepare(values: list[Tensor], place: int = place, unit: bool = unit) -> Tensor:
            return features.to_unit_length(values[place]) if unit else values[place]

        reference = prepare(base)
        constant = mean_of_pairs(cubic(reference, reference))
        sets = {key: Distances(prepare(one), reference, constant) for key, one in found.items()}
        right = total = 0
        for draw, (name, one) in itertools.product(range(DRAWS), steps.items()):
            generator = torch.Generator().manual_seed(draw)
            keys = [("real", ""), *((name, step) for step in one)]
            ladder = [sets[key].kid_of_half(generator) for key in keys]
            right += sum(low < high for low, high in itertools.pairwise(ladder))
            total += len(one)
        values = {key: one.kid() for key, one in sets.items()}
        *others, worst = values.values()
        answers[layer] = {
            "values": values,
            "order": right / total,
            "rate": rate,
            "noise": worst / max(others),
        }
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="zip of SPLIT/CLASS/NAME images")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, features.SIDE, 128])
    parser.add_argument("--reference", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="file with the markers")
    options = parser.parse_args()

    torch.set_num_threads(1)
    network = EfficientNet(Config()).network
    found: dict[tuple[int, str], dict[str, dict]] = {}
    for kind in kinds(options.photos, options.reference, options.samples):
        for side in options.sides:
            for layer, answer in measure(kind, network, side).items():
                found.setdefault((side, layer), {})[kind.name] = answer
                print(kind.name, side, layer, f"{answer['order']:.1%} {answer['noise']:.2f}")
    names = [*next(iter(found.values()))]
    lines = [["pixels", "values", "images/s"]]
    lines[0] += [f"{name}: {what}" for what in ("in order", "noise") for name in names]
    for (side, layer), by_kind in found.items():
        rate = min(answer["rate"] for answer in by_kind.values())
        cells = [f"{by_kind[name]['order']:.1%}" for name in names]
        cells += [f"{by_kind[name]['noise']:.2f}" for name in names]
        lines.append([str(side), layer, f"{rate:.0f}", *cells])
    chosen = found[features.SIDE, next(iter(LAYERS))]
    steps = [["KID x1000", *names]]
    for key in dict.fromkeys(key for answer in chosen.values() for key in answer["values"]):
        values = [chosen[name]["values"].get(key) for name in names]
        cells = ["-" if value is None else f"{value:,.1f}" for value in values]
        steps.append([" ".join(key).strip(), *cells])
    text = f"{as_markdown(lines)}\n\n{as_markdown(steps)}"
    print(text)
    if options.write:
        content = options.write.read_text(encoding="utf-8")
        before, after = content.split(BEGIN)[0], content.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
