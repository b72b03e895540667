"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) in two runs: codes, then a prior over codes.

genkit train vq-vae --plugin examples/vqvae.py --run-dir runs/codes
genkit train code-prior --first runs/codes --plugin examples/vqvae.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from genkit.errors import UsageError
from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import RunPath, SamplerConfig, TrainerConfig, TrainerSpec, option


class CodesConfig(TrainerConfig):
    width: int = option(32, "channels", ge=4)
    codes: int = option(64, "vectors in the codebook", ge=2)
    size: int = option(16, "values of a vector", ge=1)
    rate: float = option(2e-3, "Adam's learning rate", gt=0)


class VQVAE(GenerativeModel):
    """The first stage: a grid of codes, a quarter of the image's sides, that says what is in it."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        if image_shape.height % 4 or image_shape.width % 4:
            raise UsageError(f"vq-vae needs sides that 4 divides, not {image_shape}")
        channels, w, size = image_shape.channels, config.width, config.size
        self.grid = (image_shape.height // 4, image_shape.width // 4)
        self.encoder = nn.Sequential(
            *(nn.Conv2d(channels, w, 4, 2, 1), nn.ReLU(), nn.Conv2d(w, w, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(w, w, 3, padding=1), nn.ReLU(), nn.Conv2d(w, size, 1)),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(size, w, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(w, w, 4, 2, 1)),
            *(nn.ReLU(), nn.ConvTranspose2d(w, channels, 4, 2, 1)),
        )
        self.register_buffer("codebook", torch.randn(config.codes, size))
        self.register_buffer("counts", torch.ones(config.codes))

    def phases(self):
        adam = torch.optim.Adam(self.parameters(), self.config.rate)
        return [Phase(name="codes", loss=self.loss, optimizer=adam, after=self.follow)]

    def encode(self, images):
        """Vectors, (N, D, h, w), and the nearest code of each, int64 (N, h, w)."""
        vectors = self.encoder(images).float()
        flat = vectors.movedim(1, -1).flatten(0, 2)
        return vectors, torch.cdist(flat, self.codebook).argmin(1).view(-1, *self.grid)

    def decode(self, codes):
        return self.decoder(self.codebook[codes].movedim(-1, 1)).clamp(-1, 1)

    def loss(self, batch):
        vectors, codes = self.encode(batch.images)
        chosen = self.codebook[codes].movedim(-1, 1)
        made = self.decoder(vectors + (chosen - vectors).detach())
        error, apart = (made.float() - batch.images).square(), (vectors - chosen).square()
        return error.mean() + 0.25 * apart.mean(), {"codes": (self.counts > 1).float().sum()}

    def follow(self, batch):
        """Codes follow the mean of their vectors (appendix A.1); one without vectors takes one."""
        vectors, codes = self.encode(batch.images)
        flat = vectors.movedim(1, -1).flatten(0, 2)
        member = F.one_hot(codes.flatten(), len(self.counts)).float()
        count = member.sum(0)
        self.counts.lerp_(count, 0.02 if batch.step else 1.0)
        means = (member.T @ flat) / count[:, None].clamp(min=1)
        self.codebook.lerp_(means, 0.1 * (count > 0)[:, None])
        unused = (self.counts < 0.05).nonzero()[:, 0]
        self.codebook[unused] = flat[torch.randint(len(flat), (len(unused),), device=flat.device)]
        self.counts[unused] = 1.0

    def reconstruct(self, images):
        return self.decode(self.encode(images)[1])

    def sample(self, n, labels=None, *, generator):
        """Codes as frequent as in training, each by itself: what the second stage is for."""
        counts, cells = self.counts.expand(n, -1), self.grid[0] * self.grid[1]
        chosen = torch.multinomial(counts, cells, True, generator=generator)
        return self.decode(chosen.view(n, *self.grid))


class PriorConfig(TrainerConfig):
    first: RunPath | None = option(None, "run of vq-vae whose codes are learned")
    width: int = option(128, "features of a code", ge=8, multiple_of=4)
    layers: int = option(3, "layers of the transformer", ge=1)
    rate: float = option(1e-3, "AdamW's learning rate", gt=0)


class PriorSampler(SamplerConfig):
    temperature: float = option(1.0, "below 1: likelier codes", gt=0, le=10)


class CodePrior(GenerativeModel):
    """The second stage: a transformer over codes, in rows, each given those before it."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        first = self.frozen("first")
        if not isinstance(first, VQVAE):
            raise UsageError("--first must be a run of vq-vae")
        self.cells, self.codes, w = first.grid[0] * first.grid[1], len(first.counts), config.width
        self.embed, self.place = nn.Embedding(self.codes + 1, w), nn.Embedding(self.cells, w)
        layer = nn.TransformerEncoderLayer(
            w, 4, 4 * w, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(w), False)
        self.head = nn.Linear(w, self.codes)

    def phases(self):
        adam = torch.optim.AdamW(self.parameters(), self.config.rate)
        return [Phase(name="prior", loss=self.loss, optimizer=adam, clip=1.0)]

    def logits(self, codes):
        """Of each code given those before it: int64 (N, L) to (N, L + 1, codes), L < cells."""
        inputs = F.pad(codes, (1, 0), value=self.codes)
        x = self.embed(inputs) + self.place.weight[: inputs.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1], device=x.device)
        return self.head(self.layers(x, mask, is_causal=True)).float()

    def loss(self, batch):
        with torch.no_grad():
            codes = self.frozen("first").encode(batch.images)[1].flatten(1)
        return F.cross_entropy(self.logits(codes[:, :-1]).flatten(0, 1), codes.flatten()), {}

    def sample(self, n, labels=None, *, generator):
        codes = torch.empty(n, 0, dtype=torch.int64, device=self.device)
        for _ in range(self.cells):
            chances = (self.logits(codes)[:, -1] / self.sampler.temperature).softmax(1)
            codes = torch.cat([codes, torch.multinomial(chances, 1, generator=generator)], 1)
        first = self.frozen("first")
        return first.decode(codes.view(n, *first.grid))


@hookimpl
def register_trainers():
    codes = {"name": "vq-vae", "target": "vqvae:VQVAE", "config": CodesConfig}
    prior = {"name": "code-prior", "target": "vqvae:CodePrior", "config": PriorConfig}
    return [
        TrainerSpec(**codes, summary="The first stage of a VQ-VAE: images as grids of codes."),
        TrainerSpec(**prior, summary="A transformer over codes.", sampler=PriorSampler),
    ]
