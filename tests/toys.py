"""Models, data and runs small enough for tests that look at every number."""

import copy
import functools
import os

import numpy as np
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from genkit.data import Split
from genkit.model import GenerativeModel, LogLikelihood, Phase
from genkit.registry.catalogue import load_registry
from genkit.specs import ImageShape, TrainerConfig
from genkit.training.loop import Loop
from genkit.training.stream import Stream
from genkit.training.train import train_by_name

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")
torch.set_num_threads(1)

UNET = {
    "width": 8,
    "blocks": 1,
    "patch": 2,
    "batch_size": 8,
    "ema_half_life": 100,
    "warmup_steps": 4,
    "learning_rate": 1e-3,
}
# Options that make each built-in model tiny.
TINY = {
    "dcgan": {
        "latent": 4,
        "generator_width": 4,
        "discriminator_width": 4,
        "batch_size": 8,
        "ema_half_life": 100,
    },
    "gan": {
        "latent": 4,
        "generator_width": 4,
        "discriminator_width": 4,
        "batch_size": 8,
        "ema_half_life": 100,
    },
    "vae": {"latent": 4, "width": 4, "hidden": 8, "batch_size": 8, "ema_half_life": 100},
    "pixelcnn": {
        "levels": 2,
        "channels": 4,
        "layers": 2,
        "batch_size": 8,
        "ema_half_life": 100,
        "warmup_steps": 4,
    },
    "pixelrnn": {
        "layers": 2,
        "width": 4,
        "head_width": 8,
        "batch_size": 8,
        "ema_half_life": 100,
        "warmup_steps": 4,
    },
    "flow": UNET,
    "diffusion": UNET,
    "meanflow": UNET,
}
# A run that writes little and computes the same bits on every machine of its kind.
QUIET = {"device": "cpu", "precision": "fp32", "log_every": 2, "grids": 0}

registry = functools.cache(load_registry)


def random_images(count, shape=SHAPE, seed=0):
    """Noise as uint8, (count, C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def bright_squares(count, shape=SHAPE, seed=0):
    """A white square in one of the four corners of a black image: easily learned."""
    channels, height, width = shape
    images = np.zeros((count, channels, height, width), np.uint8)
    corners = np.random.default_rng(seed).integers(0, 2, (count, 2))
    for image, (row, column) in zip(images, corners, strict=True):
        top, left = row * (height // 2), column * (width // 2)
        image[:, top : top + height // 2, left : left + width // 2] = 255
    return images


def write_npz(path, images=None, **more):
    """A data set for `--data npz:PATH`; returns what to give as `data`."""
    np.savez(path, images=bright_squares(120) if images is None else images, **more)
    return f"npz:{path}"


def make_stream(images=None, batch_size=8, seed=0, labels=None, intensities=None):
    images = random_images(40) if images is None else images
    split = Split(images, labels, intensities)
    return Stream(split, batch_size=batch_size, seed=seed, device=CPU)


def make_loop(model, images=None, batch_size=8, seed=0, **options):
    return Loop(model, make_stream(images, batch_size, seed), seed=seed, **options)


def train_tiny(model, data, run_dir, reporter=None, **options):
    """A run of a tiny built-in model."""
    given = {**TINY[model], **QUIET, "data": data, **options}
    return train_by_name(registry(), model, run_dir=run_dir, reporter=reporter, given=given)


def snapshot(module):
    """A copy of everything in a module or optimizer that training can change."""
    return copy.deepcopy(module.state_dict())


def same_bits(a, b):
    """Whether two nests of dicts, lists, tensors and values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return bool(a == b)


def child_environment():
    """The environment of a child process that computes on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class Denoiser(GenerativeModel):
    """One phase: two layers that take noise off images. `make_optimizer` takes parameters."""

    def __init__(self, make_optimizer=None, **phase):
        super().__init__(TrainerConfig(), ImageShape(*SHAPE))
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 64))
        self.make_optimizer = make_optimizer or (lambda p: torch.optim.Adam(p, 1e-2))
        self.phase = phase
        self.noise = 1.0

    def phases(self):
        optimizer = self.make_optimizer(self.parameters())
        return [
            Phase(**{"name": "denoise", "loss": self.loss, **self.phase, "optimizer": optimizer})
        ]

    def loss(self, batch):
        x = batch.images.flatten(1)  # (N, 64)
        noisy = x + self.noise * torch.randn_like(x) if self.noise else x
        loss = ((self.layers(noisy) - x) ** 2).mean()
        return loss, {"double": 2 * loss}

    def sample(self, n, labels=None, *, generator):
        noise = torch.randn(n, 64, generator=generator)
        return self.layers(noise).tanh().view(n, *SHAPE)


class TinyGAN(GenerativeModel):
    """A generator and a discriminator of one layer each; `plan` makes its list of phases."""

    def __init__(self, plan):
        super().__init__(TrainerConfig(), ImageShape(*SHAPE))
        self.generator = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(64, 8), nn.Softplus(), nn.Linear(8, 1))
        self.plan = plan
        self.seen = []  # (name of the loss, images) of each call

    def phases(self):
        adam = torch.optim.Adam
        return self.plan(self, adam(self.generator.parameters()), adam(self.judges()))

    def judges(self):
        return self.discriminator.parameters()

    def generator_loss(self, batch):
        self.seen.append(("g", batch.images))
        fake = self.generator(torch.randn(len(batch.images), 4))
        return nn.functional.softplus(-self.discriminator(fake)).mean(), {}

    def discriminator_loss(self, batch):
        self.seen.append(("d", batch.images))
        fake = self.generator(torch.randn(len(batch.images), 4)).detach()
        real, fake = self.discriminator(batch.images.flatten(1)), self.discriminator(fake)
        softplus = nn.functional.softplus
        return softplus(-real).mean() + softplus(fake).mean(), {}

    def r1_loss(self, batch):
        """R1 (Mescheder et al. 2018): the squared gradient of the logit at real images."""
        self.seen.append(("r1", batch.images))
        with torch.autocast("cpu", enabled=False):
            images = batch.images.flatten(1).requires_grad_()
            logits = self.discriminator(images)
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            return gradient.square().sum(1).mean(), {}

    def wgan_loss(self, batch):
        """WGAN-GP (Gulrajani et al. 2017): critic and penalty on the gradient's norm."""
        self.seen.append(("wgan", batch.images))
        real = batch.images.flatten(1)
        fake = self.generator(torch.randn(len(real), 4)).detach().float()
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * fake).requires_grad_()
        logits = self.discriminator(between)
        (gradient,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
        penalty = (gradient.float().norm(dim=1) - 1).square().mean()
        critic = self.discriminator(fake).mean() - self.discriminator(real).mean()
        return critic + 10 * penalty, {"penalty": penalty}

    def sample(self, n, labels=None, *, generator):
        return self.generator(torch.randn(n, 4, generator=generator)).view(n, *SHAPE)


class Constant(GenerativeModel):
    """A model of known answers: samples of one brightness, a known likelihood of each image."""

    def __init__(self, value=0.5, nats=None, shape=SHAPE):
        super().__init__(TrainerConfig(), ImageShape(*shape))
        self.level = nn.Parameter(torch.tensor(value))
        self.nats = nats

    def sample(self, n, labels=None, *, generator):
        shape = self.image_shape
        return self.level.expand(n, shape.channels, shape.height, shape.width)

    def log_likelihood(self, images):
        return None if self.nats is None else LogLikelihood(self.nats(images), "exact", "toys")


class LinearVAE(GenerativeModel):
    """p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I) and its exact posterior, whose mean is moved by
    `shift` and whose standard deviation is multiplied by `spread`. All in closed form."""

    def __init__(self, shape=(1, 2, 3), latent=2, shift=0.0, spread=1.0, seed=0):
        super().__init__(TrainerConfig(), ImageShape(*shape))
        size, self.latent = self.image_shape.dimensions, latent
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.5 * torch.randn(size, latent, generator=generator))
        self.bias = nn.Parameter(0.3 * torch.randn(size, generator=generator))
        self.scale, self.shift, self.spread = 0.4, shift, spread
        self.asked = []  # (draws, N) of each call

    def prior(self):
        return MultivariateNormal(torch.zeros(self.latent), torch.eye(self.latent))

    def marginal(self):
        """p(x)."""
        noise = self.scale**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, self.weight @ self.weight.T + noise)

    def posterior(self, x):
        """p(z|x) of (N, size)."""
        precision = torch.eye(self.latent) + self.weight.T @ self.weight / self.scale**2
        covariance = precision.inverse()
        mean = (x - self.bias) @ self.weight @ covariance / self.scale**2
        return MultivariateNormal(mean, covariance)

    def encoded(self, x):
        """q(z|x)."""
        exact = self.posterior(x)
        return MultivariateNormal(exact.mean + self.shift, self.spread**2 * exact.covariance_matrix)

    def log_weights(self, images, draws):
        self.asked.append((draws, len(images)))
        x = images.flatten(1)
        encoded = self.encoded(x)
        z = encoded.sample((draws,))  # (draws, N, latent)
        decoded = Normal(z @ self.weight.T + self.bias, self.scale).log_prob(x).sum(-1)
        nats = decoded + self.prior().log_prob(z) - encoded.log_prob(z)
        return LogLikelihood(nats, "bound", "toys")
