"""How many times faster cached PixelCNN sampling is than one forward pass per pixel."""

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
    model = PixelCNN(config, ImageShape(1, 28, 28))
    print("28 x 28, 2 levels, 32 channels, 7 layers, fp32, 1 thread; medians, interleaved")
    for batch in (16, 64):
        images = torch.randn(batch, 1, 28, 28).sign()
        generator = torch.Generator().manual_seed(0)
        cached, naive, ratios = [], [], []
        for _ in range(ROUNDS + 1):
            cached.append(seconds(lambda: model.sample(batch, generator=generator)))  # noqa: B023
            # The naive loop is 784 such passes; three tell its time well enough.
            naive.append(784 / 3 * sum(seconds(lambda: model(images)) for _ in range(3)))  # noqa: B023
            ratios.append(naive[-1] / cached[-1])
        cached, naive, ratios = (statistics.median(x[1:]) for x in (cached, naive, ratios))
        print(
            f"batch {batch}: naive {naive:.1f} s (784 x forward), cached {cached:.3f} s, "
            f"{batch / cached:.0f} images/s, ratio {ratios:.0f}"
        )


@torch.no_grad()
def seconds(function) -> float:
    """CPU time of this process, which other processes on the machine disturb least."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
