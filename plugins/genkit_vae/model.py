"""The variational autoencoder: convolutional encoder and decoder, Gaussian latent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, LogLikelihood, Phase, diverged, is_black_and_white
from genkit.specs import ImageShape
from genkit_vae import VAEConfig

SMALLEST, LARGEST = 8, 128


class Encoder(nn.Module):
    """Images, (N, C, H, W), and, with classes, labels, (N,), to mean and log-variance of q(z|x),
    each (N, latent). Classes add a bias each to the hidden layer, as a one-hot input does."""

    def __init__(
        self, shape: ImageShape, width: int, halvings: int, hidden: int, latent: int, classes: int
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels, height, columns = shape.channels, shape.height, shape.width
        for stage in range(halvings):
            layers += [nn.Conv2d(channels, width * 2**stage, 4, 2, 1), nn.ReLU()]
            channels = width * 2**stage
            height, columns = height // 2, columns // 2
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * height * columns, hidden)
        self.moments = nn.Linear(hidden, 2 * latent)
        self.classes = nn.Embedding(classes, hidden) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.hidden(self.layers(images).flatten(1))  # (N, hidden)
        if self.classes is not None:
            x = x + self.classes(labels)
        mean, log_variance = self.moments(F.relu(x)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 20)  # exp() stays finite in fp32


class Decoder(nn.Module):
    """Latents, (N, latent), and, with classes, labels, (N,), to the parameter of each pixel's
    likelihood, (N, C, H, W). Classes add a bias each to the first layer, as a one-hot input does.
    """

    def __init__(
        self, shape: ImageShape, width: int, halvings: int, hidden: int, latent: int, classes: int
    ):
        super().__init__()
        self.shape = shape
        self.top = width * 2 ** (halvings - 1)
        self.height = math.ceil(shape.height / 2**halvings)
        self.width = math.ceil(shape.width / 2**halvings)
        self.project = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.top * self.height * self.width),
            nn.ReLU(),
        )
        layers: list[nn.Module] = []
        channels = self.top
        for _ in range(halvings - 1):
            layers += [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1), nn.ReLU()]
            channels //= 2
        layers.append(nn.ConvTranspose2d(channels, shape.channels, 4, 2, 1))
        self.layers = nn.Sequential(*layers)
        # Labels that weigh nothing at first would leave it to the latent to say the class.
        self.classes = nn.Embedding(classes, hidden) if classes else None

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        first, *rest = self.project
        x: Tensor = first(z)
        if self.classes is not None:
            x = x + self.classes(labels)
        for layer in rest:
            x = layer(x)
        x = x.view(-1, self.top, self.height, self.width)
        x = self.layers(x.contiguous(memory_format=torch.channels_last))  # (N, C, >= H, >= W)
        return x[:, :, : self.shape.height, : self.shape.width].float()


class VAE(GenerativeModel):
    """Variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114), trained on the ELBO,
    equation 10 with one sample of z per image; `beta` weighs its KL term (Higgins et al. 2017).

    A grey pixel is Bernoulli: its brightness is the probability of white, and the likelihood is
    that of the image binarised at random. An RGB value follows the logistic distribution
    discretised to 256 levels (Salimans et al. 2017, arXiv 1701.05517, equation 2, one component)
    around the decoder's output, with one learned scale per channel.

    `conditional` gives labels y to both networks: q(z|x,y) and p(x|z,y) (Kingma et al. 2014, arXiv
    1406.5298, section 2.2, M2 with all labels known). The likelihood of an image stays that of the
    image alone, p(x) = sum over y of p(y) p(x|y) with p(y) the classes' shares of the training
    images, so that it compares with that of models without labels.

    Departures: convolutions instead of fully connected layers; samples and reconstructions are
    the decoder's mean, not draws from the pixels' likelihood, which would add grain.
    """

    def __init__(self, config: VAEConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        self.config: VAEConfig
        sides = (image_shape.height, image_shape.width)
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise UsageError(
                f"vae takes images of {SMALLEST} to {LARGEST} pixels a side, not {image_shape}"
            )
        halvings = max(2, math.ceil(math.log2(max(sides) / 10)))
        halvings = min(halvings, int(math.log2(min(sides))))  # at least one pixel is left
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out, or choose others")
        self.conditional = config.conditional
        classes = image_shape.classes if config.conditional else 0
        sizes = (config.width, halvings, config.hidden, config.latent, classes)
        self.encoder = Encoder(image_shape, *sizes)
        self.decoder = Decoder(image_shape, *sizes)
        likelihood = config.likelihood
        if likelihood == "auto":
            likelihood = "bernoulli" if image_shape.channels == 1 else "logistic"
        self.bernoulli = likelihood == "bernoulli"
        if not self.bernoulli:
            self.log_scale = nn.Parameter(torch.full((image_shape.channels, 1, 1), -2.0))

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.Adam(self.parameters(), self.config.learning_rate, fused=True)
        return [Phase(name="elbo", loss=self.loss, optimizer=optimizer, schedule=self.schedule)]

    def schedule(self, step: int) -> float:
        """Constant, then 1/sqrt(step): needs no end, which a budget in seconds does not know."""
        return 1 / math.sqrt(max(step / self.config.decay_after, 1))

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The negative ELBO per dimension, so that one learning rate fits all image sizes."""
        reconstruction, divergence = self.elbo_terms(batch.images, batch.labels)
        loss = (self.config.beta * divergence - reconstruction).mean()
        extras = {
            "reconstruction_nats": -reconstruction.detach().mean(),
            "kl_nats": divergence.detach().mean(),
        }
        return loss / self.image_shape.dimensions, extras

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A loss that rises again, or a latent that the encoder does not use."""
        if diverged(history.get("elbo/loss", ())):
            return (
                "the loss rises again: training diverges; try a smaller --learning-rate than "
                f"{self.config.learning_rate:g}"
            )
        divergences = history.get("elbo/kl_nats", ())
        if len(divergences) >= 50 and max(divergences[-10:]) < 0.1:
            return (
                f"the KL term is {divergences[-1]:.2g} nats, so the latent says nothing of the "
                f"image (posterior collapse); try a smaller --beta than {self.config.beta:g}"
            )
        return None

    def elbo_terms(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E_q log p(x|z), by one sample of z, and KL(q(z|x) || p(z)) (Kingma and Welling 2013,
        equation 10 and appendix B), of images, (N, C, H, W) in [-1, 1]: each (N,), in nats.
        Labels, (N,), are for a conditional model."""
        mean, log_variance = self.encoder(images, labels)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return self.pixel_log_likelihood(self.decoder(z, labels), images), divergence

    def encode_each(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x,y) for each class y: (classes, N, latent) each."""
        count = len(images)
        labels = torch.arange(self.image_shape.classes, device=images.device)
        answers = [self.encoder(images, label.expand(count)) for label in labels]
        means, log_variances = zip(*answers, strict=True)
        return torch.stack(means), torch.stack(log_variances)

    def class_posterior(self, images: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
        """An estimate of ln p(y|x), (N, classes), of images, (N, C, H, W) in [-1, 1], and what
        `encode_each` made of them: from the ELBO of each class at the mean of q(z|x,y)."""
        divergences = 0.5 * (means**2 + log_variances.exp() - 1 - log_variances).sum(2)
        labels = torch.arange(len(means), device=images.device)
        outputs = (self.decoder(z, y.expand(len(z))) for z, y in zip(means, labels, strict=True))
        pixels = torch.stack([self.pixel_log_likelihood(output, images) for output in outputs])
        return (pixels - divergences).t().add(self.log_shares).log_softmax(1)

    @property
    def log_shares(self) -> Tensor:
        """ln p(y), (classes,): of the classes' shares of the training images, else uniform."""
        classes = self.image_shape.classes
        shares = self.image_shape.class_shares or [1 / classes] * classes
        return torch.tensor(shares, device=self.device).log()

    def pixel_log_likelihood(self, output: Tensor, images: Tensor) -> Tensor:
        """log p(x|z) given the decoder's output, (..., C, H, W), and images in [-1, 1] of the same
        shape: float32, (...), in nats, summed over the pixels."""
        if self.bernoulli:
            white = (images + 1) / 2
            pixels = -F.binary_cross_entropy_with_logits(output, white, reduction="none")
        else:
            pixels = discretised_logistic(images, output, self.log_scale)
        return pixels.flatten(-3).sum(-1)

    def likelihood_levels(self) -> Sequence[int]:
        """A Bernoulli pixel is black or white: such images it can judge as they are, and grey ones
        binarised at random."""
        return (2, 256) if self.bernoulli else (256,)

    @torch.no_grad()
    def log_weights(self, images: Tensor, draws: int) -> LogLikelihood:
        """ln p(x|z) + ln p(z) - ln q(z|x), (draws, N), always in float32.

        Under the Bernoulli likelihood x is the image binarised once, at random, for all draws:
        q may look at the grey image, since any q bounds ln p(x) of the x at hand. The mean over
        binarisations is what training maximises, and images that are black and white already
        stay as they are.

        A conditional model draws each time a label y as well, from q(y|x) = `class_posterior`, and
        adds ln p(y) - ln q(y|x), which bounds ln p(x) all the same.
        """
        with torch.autocast(images.device.type, enabled=False):
            labels: Tensor | None = None
            correction: Tensor | float = 0.0
            if self.conditional:
                means, log_variances = self.encode_each(images)
                posterior = self.class_posterior(images, means, log_variances)  # (N, classes)
                labels = posterior.exp().multinomial(draws, replacement=True)  # (N, draws)
                correction = (self.log_shares[labels] - posterior.gather(1, labels)).t()
                labels, each = labels.t(), torch.arange(len(images), device=images.device)
                mean, log_variance = means[labels, each], log_variances[labels, each]
                labels = labels.flatten()
            else:
                mean, log_variance = self.encoder(images)
            noise = torch.randn(draws, *mean.shape[-2:], device=mean.device)
            z = mean + (0.5 * log_variance).exp() * noise  # (draws, N, latent)
            if self.bernoulli:
                white = torch.rand_like(images) < (images + 1) / 2
                target, of = white.to(images.dtype) * 2 - 1, "images binarised at random"
            else:
                target, of = images, "images at 256 levels"
            output = self.decoder(z.flatten(0, 1), labels)
            output = output.unflatten(0, z.shape[:2])  # (draws, N, C, H, W)
            pixels = self.pixel_log_likelihood(output, target.expand_as(output))
            weights = pixels + 0.5 * (noise**2 + log_variance - z**2).sum(-1) + correction
        if is_black_and_white(images):
            of = "black-and-white images"
        return LogLikelihood(weights, "bound", of)

    def mean_image(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean of the pixels given z, (N, latent), and, if the model is conditional, labels, (N,):
        float32, (N, C, H, W), in [-1, 1]."""
        output: Tensor = self.decoder(z, labels)
        return output.sigmoid() * 2 - 1 if self.bernoulli else output.clamp(-1, 1)

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """n draws of z from the prior, standard normal: float32, (n, latent)."""
        return torch.randn(n, self.config.latent, generator=generator, device=self.device)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean images of latents, (n, latent): (n, C, H, W) in [-1, 1]; of the classes `labels`,
        (n,), or of all in turn, if the model is conditional."""
        return self.mean_image(latents, self.choose_labels(labels, latents.shape[0]))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images, (N, C, H, W) in [-1, 1], as decoded from the mean of q(z|x): the same shape. A
        conditional model takes the most probable class."""
        if self.conditional:
            means, log_variances = self.encode_each(images)
            labels = self.class_posterior(images, means, log_variances).argmax(1)
            each = torch.arange(len(images), device=images.device)
            return self.mean_image(means[labels, each], labels)
        return self.mean_image(self.encoder(images)[0])


def discretised_logistic(images: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit values under a logistic distribution, cut into 256 bins.

    Args:
        images: in [-1, 1], at the 256 levels, (N, C, H, W); the bins are 2/255 wide, and those
            at both ends reach to infinity, so that the 256 probabilities sum to 1.
        mean, log_scale: of the distribution; broadcast to the images.

    Returns: (N, C, H, W), in nats.
    """
    inverse = torch.exp(-log_scale.clamp(-7, 30))  # beyond, fp32 knows no such probabilities
    centred = images - mean
    upper, lower = inverse * (centred + 1 / 255), inverse * (centred - 1 / 255)
    # log(sigmoid(upper) - sigmoid(lower)), in a form that does not cancel in the tails
    width = torch.log(-torch.expm1(inverse * (-2 / 255)))
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + width
    inside = torch.where(images < -0.999, F.logsigmoid(upper), inside)
    return torch.where(images > 0.999, F.logsigmoid(-lower), inside)
