"""Draws docs/receptive-fields.png: which pixels a pixel sees, by the gradients of its logit.

    python docs/receptive_fields.py

The pixel is in the middle of 28 x 28; it is white, and what it sees is the brighter, the larger
the gradient, on a logarithmic scale over six powers of ten. Weights are as before training, summed
over 20 random images and 5 seeds.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genkit.config.resolve import resolve
from genkit.registry.catalogue import load_registry
from genkit.runs.build import build_model
from genkit.specs import ImageShape

SIDE, ENLARGE, GAP = 28, 8, 12
SHOWN = (
    ("pixelrnn", {"cell": "row", "layers": 1}),
    ("pixelrnn", {"cell": "row", "layers": 7}),
    ("pixelrnn", {"cell": "diagonal", "layers": 1}),
    ("pixelcnn", {"levels": 2}),
)


def seen(name: str, options: dict[str, object]) -> np.ndarray:
    """Mean size of the gradients of the middle pixel's logit, (SIDE, SIDE)."""
    spec = load_registry().trainers.find(name)
    config = resolve(spec, preset="full", given=options).options
    total = torch.zeros(SIDE, SIDE)
    for seed in range(5):
        model = build_model(spec, config, ImageShape(1, SIDE, SIDE), seed)
        images = torch.randn(20, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        images = images.sign().requires_grad_()
        model(images)[:, 0, 0, SIDE // 2, SIDE // 2].sum().backward()
        total += images.grad.abs().mean((0, 1))
    return total.numpy()


def panel(size: np.ndarray) -> Image.Image:
    """Blue for what is seen, the brighter the more; black for what is not; the pixel is white."""
    shown = np.zeros((SIDE, SIDE, 3), np.uint8)
    light = np.clip(1 + np.log10(np.maximum(size / size.max(), 1e-12)) / 6, 0.15, 1)
    colour = np.array([80, 170, 255])
    shown[size > 0] = (light[size > 0, None] * colour).astype(np.uint8)
    shown[SIDE // 2, SIDE // 2] = 255
    return Image.fromarray(shown).resize((SIDE * ENLARGE,) * 2, Image.Resampling.NEAREST)


def main() -> None:
    torch.set_num_threads(1)
    step = SIDE * ENLARGE + GAP
    page = Image.new("RGB", (step * len(SHOWN) - GAP, SIDE * ENLARGE), "white")
    for number, (name, options) in enumerate(SHOWN):
        page.paste(panel(seen(name, options)), (number * step, 0))
    path = Path(__file__).with_name("receptive-fields.png")
    page.save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
