"""How many times faster cached PixelCNN sampling is than one forward pass per value."""

import math
import statistics
import time

import torch

from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN

ROUNDS = 7


def main() -> None:
    torch.set_num_threads(1)
    config = PixelCNNConfig(levels=2, channels=32, layers=7, dilation_cycle=1)
    print("2 levels, 32 channels, 7 layers, fp32, 1 thread; medians of CPU time, interleaved")
    for shape in ((1, 28, 28), (3, 32, 32)):
        model, passes = PixelCNN(config, ImageShape(*shape)), math.prod(shape)
        for batch in (16, 64):
            images = torch.randn(batch, *shape).sign()
            generator = torch.Generator().manual_seed(0)
            cached, naive = [], []
            for _ in range(ROUNDS + 1):
                cached.append(seconds(lambda: model.sample(batch, generator=generator)))  # noqa: B023
                # The naive loop is `passes` such passes; three tell its time well enough.
                three = seconds(lambda: [model(images) for _ in range(3)])  # noqa: B023
                naive.append(passes / 3 * three)
            ratios = [n / c for n, c in zip(naive[1:], cached[1:], strict=True)]
            cached, naive = (statistics.median(x[1:]) for x in (cached, naive))
            print(
                f"{ImageShape(*shape)}, batch {batch}: naive {naive:.1f} s ({passes} x forward), "
                f"cached {cached:.3f} s, {batch / cached:.0f} images/s, "
                f"x{statistics.median(ratios):.0f} (x{min(ratios):.0f} to x{max(ratios):.0f})"
            )


@torch.no_grad()
def seconds(function) -> float:
    """CPU time of this process, which other processes on the machine disturb least."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
