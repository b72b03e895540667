"""Which metric sees which fault: real test images, damaged in known ways, under every metric.

    python tests/bench/metric_faults.py                                        # mnist-mini
    python tests/bench/metric_faults.py --data mnist --data-root DIR -n 5000 --write docs/metrics.md

Prints two tables of Markdown: the values, and whether each metric sees each fault. With
--write they replace what stands between the markers in a file.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from genkit.config.run import RunConfig
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.io.progress import Lines
from genkit.metrics import choice
from genkit.registry.catalogue import load_registry
from genkit.report.ranking import half_width_of, score_columns
from genkit.report.rows import ScoreRow
from genkit.report.tables import estimate, score_cell
from genkit.runs.build import load_data
from genkit.specs import Column

BEGIN, END = "<!-- made by tests/bench/metric_faults.py -->", "<!-- end -->"
MARKS = {"worse": "seen", "same": "-", "better": "liked"}


def grain(images: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images.float() + sigma * noise).round().clamp(0, 255).byte()


def blur(images: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(images.float(), size, 1, size // 2, count_include_pad=True).round().byte()


def through_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    out = torch.empty_like(images)
    for place, image in enumerate(images.permute(0, 2, 3, 1).squeeze(-1).numpy()):
        pixels = torch.tensor(list(change(Image.fromarray(image)).tobytes()), dtype=torch.uint8)
        height, width = image.shape[:2]
        out[place] = pixels.view(height, width, -1).permute(2, 0, 1)
    return out


def resized(image: Image.Image) -> Image.Image:
    width, height = image.size
    larger = image.resize((width + 4, height + 4), Image.Resampling.BILINEAR)
    return larger.resize((width, height), Image.Resampling.BILINEAR)


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer)


def padded_and_cropped(images: Tensor) -> Tensor:
    return F.pad(images, [2] * 4)[:, :, 2:-2, 2:-2].contiguous()


def faults(
    images: Tensor, labels: Tensor, places: Tensor, train: Tensor
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Sets of samples by name, the first of them without a fault, and where in the test split the
    images are that they were made of (-1: not there), which are no neighbours of theirs.

    Args:
        images, labels, places: of test images.
        train: as many training images.
    """

    def without(*classes: int) -> tuple[Tensor, Tensor]:
        kept = ~torch.isin(labels, torch.tensor(classes))
        return images[kept], places[kept]

    half, repeats = len(images) // 2, len(images) // 100
    changed = {
        "real": images,
        **{f"grain, sd {sigma}": grain(images, sigma) for sigma in (8, 16, 32, 64)},
        **{f"box blur {size} x {size}": blur(images, size) for size in (3, 5, 7)},
        **{f"shifted by {n} px": torch.roll(images, (n, n), (2, 3)) for n in (1, 3)},
        "28 to 32 to 28, bilinear": through_pillow(images, resized),
        "padded to 32, cropped to 28": padded_and_cropped(images),
        "JPEG, quality 75": through_pillow(images, jpeg),
        "two levels": (images > 127).byte() * 255,
    }
    generator = torch.Generator().manual_seed(2)
    noise = torch.randint(256, images.shape, dtype=torch.uint8, generator=generator)
    return {name: (samples, places) for name, samples in changed.items()} | {
        "without 8": without(8),
        "without 1, 8 and 9": without(1, 8, 9),
        "only 1": without(0, *range(2, 10)),
        "100 images, repeated": (
            images[:100].repeat(repeats, 1, 1, 1),
            places[:100].repeat(repeats),
        ),
        "half of them copies": (
            torch.cat([images[:half], train[:half]]),
            torch.cat([places[:half], torch.full((half,), -1)]),
        ),
        "all of them copies": (train, None),
        "uniform noise": (noise, None),
    }


def verdict(row: ScoreRow, real: ScoreRow, column: Column) -> str:
    """Whether a value is worse or better than that of real images by two standard deviations."""
    if column.name not in row.scores:
        return ""
    gap = row.scores[column.name] - real.scores[column.name]
    spread = math.hypot(row.deviations[column.name], real.deviations[column.name])
    worse = gap if column.better == "lower" else -gap
    return MARKS["worse" if worse > 2 * spread else "better" if worse < -2 * spread else "same"]


def as_markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist-mini")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("-n", type=int, default=2000, help="test images to damage")
    parser.add_argument("--write", type=Path, help="file with the markers")
    options = parser.parse_args()

    registry = load_registry()
    data = load_data(registry, RunConfig(data=options.data, data_root=options.data_root))
    evaluator = Evaluator.choose(registry, data, EvaluationProtocol(), Lines())
    places = choice(len(data.test.images), options.n, 0)
    images = torch.from_numpy(data.test.images)[places]
    labels = torch.from_numpy(data.test.labels)[places]
    train = torch.from_numpy(data.train.images)[choice(len(data.train.images), options.n, 1)]

    values, verdicts = [], []
    for name, (samples, own) in faults(images, labels, places, train).items():
        evaluator.reporter.start(name)
        row = evaluator.evaluate_images(name, samples, places=own)
        if not values:
            real = row
            columns = [c for c in score_columns(registry) if half_width_of(real, c.name)]
            titles = (c.title.replace("-\n", "").replace("\n", " ") for c in columns)
            heading = ["", "images", *titles, "near train (pixels)"]
        found, about = row.memorisation, [name, f"{len(samples):,}"]
        cells = [str(score_cell(row, c)) for c in columns]
        values.append([*about, *cells, estimate(found.pixels, 2 * found.pixels_deviation)])
        seen = MARKS["worse" if found.flagged else "same"]
        verdicts.append([*about, *(verdict(row, real, c) for c in columns), seen])
    versions = evaluator.card(0).versions
    caption = (
        f"{options.data}, features {evaluator.extractor.identity}, reference "
        f"{evaluator.reference.name} ({evaluator.reference.count:,} images), torch "
        f"{versions['torch']}, torch-fidelity {versions['torch-fidelity']}. ± is two standard "
        "deviations."
    )
    legend = (
        f"*{MARKS['worse']}*: worse than real images by more than two standard deviations of the "
        f"difference; *{MARKS['same']}*: no difference; *{MARKS['better']}*: better than real."
    )
    tables = [as_markdown([heading, *rows]) for rows in (values, verdicts)]
    text = "\n\n".join([caption, tables[0], legend, tables[1]])
    print(text)
    if options.write:
        content = options.write.read_text(encoding="utf-8")
        before, after = content.split(BEGIN)[0], content.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
