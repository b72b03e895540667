"""EDM (Karras et al. 2022, arXiv 2206.00364) with classifier-free guidance and a rate on a cosine.

genkit train guided-diffusion --plugin examples/guided_diffusion.py --conditional
genkit compare RUN@guidance=0 RUN@guidance=2 --plugin examples/guided_diffusion.py
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from genkit.errors import UsageError
from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import SamplerConfig, TrainerConfig, TrainerSpec, option


class DiffusionConfig(TrainerConfig):
    width: int = option(32, "channels at full resolution", ge=8, multiple_of=8)
    rate: float = option(2e-3, "Adam's learning rate at its highest", gt=0)
    conditional: bool = option(False, "learn the images of each class")
    drop: float = option(0.15, "share of labels left out, so that guidance is possible", ge=0, le=1)


class DiffusionSampler(SamplerConfig):
    guidance: float = option(0.0, "how far beyond the class, away from all classes", ge=0)
    steps: int = option(32, "from noise to image", ge=2, le=1000)


class Block(nn.Module):
    """A residual block whose features are scaled and shifted by an embedding, (N, E)."""

    def __init__(self, inputs, outputs, embedding):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip, self.norm = nn.Conv2d(inputs, outputs, 1), nn.GroupNorm(8, outputs)
        self.affine = nn.Linear(embedding, 2 * outputs)

    def forward(self, x, embedding):
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, 1)
        hidden = F.silu(self.norm(self.first(x)) * (1 + scale) + shift)
        return F.silu(self.skip(x) + self.second(hidden))


class UNet(nn.Module):
    """Two halvings and back, for images of any size."""

    def __init__(self, channels, width, classes):
        super().__init__()
        w, e = width, 4 * width
        self.embed = nn.Sequential(nn.Linear(2 * w, e), nn.SiLU(), nn.Linear(e, e))
        self.label = nn.Embedding(classes + 1, e)  # the last one is any class
        sizes = [(channels, w), (w, 2 * w), (2 * w, 2 * w), (4 * w, 2 * w), (3 * w, w)]
        self.blocks = nn.ModuleList(Block(*pair, e) for pair in sizes)
        self.out = nn.Conv2d(w, channels, 3, padding=1)

    def forward(self, x, noise, labels):
        """Of images, (N, C, H, W), and their noise and labels, (N,)."""
        rates = torch.exp(torch.linspace(0, 5, self.out.in_channels, device=x.device))
        angles = noise[:, None] * rates
        e = F.silu(self.embed(torch.cat([angles.cos(), angles.sin()], 1)) + self.label(labels))
        a = self.blocks[0](x, e)
        b = self.blocks[1](F.avg_pool2d(a, 2, ceil_mode=True), e)
        c = self.blocks[2](F.avg_pool2d(b, 2, ceil_mode=True), e)
        b = self.blocks[3](torch.cat([b, F.interpolate(c, size=b.shape[2:])], 1), e)
        return self.out(self.blocks[4](torch.cat([a, F.interpolate(b, size=a.shape[2:])], 1), e))


class GuidedDiffusion(GenerativeModel):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out")
        self.conditional = config.conditional
        self.classes = image_shape.classes if config.conditional else 0
        self.network = UNet(image_shape.channels, config.width, self.classes)

    def phases(self):
        adam = torch.optim.Adam(self.parameters(), self.config.rate)
        return [
            Phase(name="denoise", loss=self.loss, optimizer=adam, schedule=self.cosine, clip=1.0)
        ]

    def cosine(self, step, progress):
        return min(1, (step + 1) / 100) * (1 + math.cos(math.pi * progress)) / 2

    def loss(self, batch):
        x, labels = batch.images, self.any_class(len(batch.images))
        if self.conditional:
            dropped = torch.rand(len(x), device=x.device) < self.config.drop
            labels = torch.where(dropped, labels, batch.labels)
        sigma = torch.exp(1.2 * torch.randn(len(x), device=x.device) - 1.2)
        s, d = sigma.view(-1, 1, 1, 1), self.image_shape.deviation or 1.0
        error = self.denoise(self.network, x + s * torch.randn_like(x), sigma, labels) - x
        return ((s**2 + d**2) / (s * d) ** 2 * error.square()).mean(), {}

    def denoise(self, network, x, sigma, labels, lowest=0.0):
        """The images in x, (N, C, H, W), whose noise has deviations sigma, (N,): section 5."""
        s, d = sigma.view(-1, 1, 1, 1), self.image_shape.deviation or 1.0
        root = (s**2 + d**2).sqrt()
        answer = network(x / root, sigma.log() / 4, labels).float()
        return d**2 / ((s - lowest) ** 2 + d**2) * x + (s - lowest) * d / root * answer

    def any_class(self, n):
        return torch.full((n,), self.classes, device=self.device)

    def step(self, x, now, then, labels, guidance):
        """From noise of deviations `now` to `then`, (N,), by Euler, with classifier-free guidance
        (Ho and Salimans 2022, arXiv 2207.12598, equation 6)."""
        image = self.denoise(self.network, x, now, labels)
        if self.conditional and guidance:
            other = self.denoise(self.network, x, now, self.any_class(len(x)))
            image = image + guidance * (image - other)
        return image + (then / now).view(-1, 1, 1, 1) * (x - image)

    def draw_latents(self, n, *, generator):
        shape = self.image_shape
        sides = (n, shape.channels, shape.height, shape.width)
        return torch.randn(sides, generator=generator, device=self.device)

    def decode_latents(self, latents, labels=None):
        n, levels = len(latents), noise_levels(self.sampler.steps).to(self.device)
        labels = self.choose_labels(labels, n) if self.conditional else self.any_class(n)
        x = levels[0] * latents
        for now, then in itertools.pairwise(levels):
            x = self.step(x, now.expand(n), then.expand(n), labels, self.sampler.guidance)
        return x.clamp(-1, 1)


def noise_levels(count):
    """From 80 to 0.002, (count,): equation 5."""
    return torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), count) ** 7


@hookimpl
def register_trainers():
    return [
        TrainerSpec(
            name="guided-diffusion",
            summary="EDM with classifier-free guidance and a small U-Net.",
            target="guided_diffusion:GuidedDiffusion",
            config=DiffusionConfig,
            sampler=DiffusionSampler,
        )
    ]
