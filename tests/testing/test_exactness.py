"""A likelihood that is one, and models whose likelihood is none, each for a reason of its own.

The broken models repeat what public implementations of PixelRNN and PixelCNN get wrong.
"""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import TINY

from genkit.model import GenerativeModel, LogLikelihood, Phase
from genkit.specs import TrainerSpec
from genkit.testing import PromiseBroken, check_likelihood, check_trainer, exactness
from genkit.testing.contract import statement
from genkit.testing.exactness import chi_square

torch.set_num_threads(1)
WIDTH = 5


class Honest(GenerativeModel):
    """A small PixelRNN, written plainly: a 5 x 5 convolution with mask A, a recurrence over
    diagonals, a map from right to left that is shifted down, colours in their order."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        colours = image_shape.channels
        self.first = nn.Conv2d(colours, WIDTH, 5, padding=2)
        self.state = nn.Conv1d(WIDTH, WIDTH, 2)
        self.other = nn.Conv1d(WIDTH, WIDTH, 1)
        self.logits = nn.Conv2d(WIDTH, colours, 1)
        self.colours = nn.Parameter(0.3 * torch.randn(colours, colours))
        self.register_buffer("seen", self.mask())

    def mask(self):
        seen = torch.ones(5, 5)
        seen[2, 2:] = 0
        seen[3:] = 0
        return seen

    def earlier(self):
        """Which colours, by column, the logits of each colour see."""
        return self.colours.tril(-1)

    def pad(self, column):
        return F.pad(column, (1, 0))

    def shift(self, other):
        return F.pad(other, (0, 0, 1, 0))[:, :, :-1]

    def diagonals(self, features):
        """h(i, j) = tanh(features + taps on h(i, j-1) and h(i-1, j)), column by column of the
        skewed map."""
        height, width = features.shape[2:]
        rows = [F.pad(row, (i, height - 1 - i)) for i, row in enumerate(features.unbind(2))]
        inside = [F.pad(torch.ones(width), (i, height - 1 - i)) for i in range(height)]
        skewed, inside = torch.stack(rows, 2), torch.stack(inside)
        hidden, columns = torch.zeros_like(skewed[..., 0]), []
        for column, here in zip(skewed.unbind(3), inside.unbind(1), strict=True):
            hidden = torch.tanh(column + self.state(self.pad(hidden))) * here
            columns.append(hidden)
        skewed = torch.stack(columns, 3)
        return torch.stack([skewed[:, :, i, i : i + width] for i in range(height)], 2)

    def from_the_right(self, features):
        """r(i, j) = tanh(features + tap on r(i, j+1))."""
        hidden, columns = torch.zeros_like(features[..., 0]), []
        for column in reversed(features.unbind(3)):
            hidden = torch.tanh(column + self.other(hidden))
            columns.append(hidden)
        return torch.stack(columns[::-1], 3)

    def forward(self, images):
        """(N, C, H, W) to logits of white, the same shape."""
        weight = self.first.weight * self.seen
        features = F.conv2d(images, weight, self.first.bias, padding=2)
        both = self.diagonals(features) + self.shift(self.from_the_right(features))
        return self.logits(both) + torch.einsum("ab,nbhw->nahw", self.earlier(), images)

    def nats(self, images):
        white = (images > 0).float()
        logits = self(white * 2 - 1)
        return -F.binary_cross_entropy_with_logits(logits, white, reduction="none").sum((1, 2, 3))

    @torch.no_grad()
    def log_likelihood(self, images):
        return LogLikelihood(self.nats(images), "exact", "images rounded to 2 levels")

    def phases(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        return [Phase(name="nll", loss=self.loss, optimizer=optimizer)]

    def loss(self, batch):
        return -self.nats(batch.images).mean(), {}

    def sample(self, n, labels=None, *, generator):
        shape = self.image_shape
        images = torch.zeros(n, shape.channels, shape.height, shape.width)
        return self.complete(images, torch.zeros_like(images[:, :1]) > 0, generator=generator)

    def complete(self, images, known, *, generator):
        images = torch.where(known, images, 0.0)
        sides = (self.image_shape.height, self.image_shape.width, self.image_shape.channels)
        for i, j, c in itertools.product(*map(range, sides)):
            uniform = torch.rand(len(images), generator=generator)
            drawn = (self(images)[:, c, i, j].sigmoid() > uniform).float() * 2 - 1
            images[:, c, i, j] = torch.where(known[:, 0, i, j], images[:, c, i, j], drawn)
        return images


class NotShifted(Honest):
    """The map from right to left is added where it is."""

    def shift(self, other):
        return other


class MaskBForA(Honest):
    """The first convolution sees the pixel itself."""

    def mask(self):
        seen = super().mask()
        seen[2, 2] = 1
        return seen


class PaddedBelow(Honest):
    """The two taps are padded at the bottom: a pixel sees a state of the row below."""

    def pad(self, column):
        return F.pad(column, (0, 1))


class ColoursSeeEachOther(Honest):
    """Each colour sees the two others."""

    def earlier(self):
        return self.colours * (1 - torch.eye(len(self.colours)))


class InBits(Honest):
    """The likelihood is in bits."""

    @torch.no_grad()
    def log_likelihood(self, images):
        return LogLikelihood(self.nats(images) / math.log(2), "exact", "images at 2 levels")


class PerDimension(Honest):
    @torch.no_grad()
    def log_likelihood(self, images):
        nats = self.nats(images) / images[0].numel()
        return LogLikelihood(nats, "exact", "images at 2 levels")


class WrongSign(Honest):
    @torch.no_grad()
    def log_likelihood(self, images):
        return LogLikelihood(-self.nats(images), "exact", "images at 2 levels")


class SamplesOtherwise(Honest):
    """Samples are drawn at a lower temperature than the likelihood is of."""

    def sample(self, n, labels=None, *, generator):
        self.logits.weight.data *= 2
        try:
            return super().sample(n, generator=generator)
        finally:
            self.logits.weight.data /= 2


class SamplesBetweenLevels(Honest):
    def sample(self, n, labels=None, *, generator):
        return 0.9 * super().sample(n, generator=generator)


class CompletesBlindly(Honest):
    """Hidden pixels are those of a sample, whatever is known."""

    def complete(self, images, known, *, generator):
        if not known.any():
            return super().complete(images, known, generator=generator)
        return torch.where(known, images, self.sample(len(images), generator=generator))


class Latent(Honest):
    """A latent of two Bernoullis' logits: p(x | z) has independent pixels."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.decoder = nn.Linear(2, image_shape.dimensions)
        self.encoder = nn.Linear(image_shape.dimensions, 2)

    def weights(self, x, z, mean):
        logits = self.decoder(z)  # (draws, N, D)
        like = -F.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(2)
        prior, posterior = (-0.5 * (z - m).square().sum(2) for m in (0, mean))
        return like, prior, posterior

    @torch.no_grad()
    def log_weights(self, images, draws):
        x = (images.flatten(1) > 0).float()
        mean = self.encoder(x)
        z = mean + torch.randn(draws, *mean.shape)
        like, prior, posterior = self.weights(x, z, mean)
        return LogLikelihood(like + prior - posterior, "bound", "black-and-white images")


class ForgetsTheEncoder(Latent):
    """The density of the latent under the encoder is left out."""

    @torch.no_grad()
    def log_weights(self, images, draws):
        x = (images.flatten(1) > 0).float()
        like = self.weights(x, torch.zeros(draws, len(x), 2), self.encoder(x))[0]
        return LogLikelihood(like + 0.5, "bound", "black-and-white images")


def spec_of(toy):
    return TrainerSpec(name="toy", summary="A toy.", target=f"{toy.__module__}:{toy.__name__}")


@pytest.mark.parametrize("toy", [Honest, Latent])
def test_an_honest_model_passes_and_it_is_said_what_was_found(toy):
    found = check_likelihood(spec_of(toy))
    assert len(found) >= 8 and not any("left out" in line for line in found)
    wanted = "4,096 images sum to 1.000000" if toy is Honest else "bounds of 4,096 images sum to"
    assert sum(wanted in line for line in found) == 1
    if toy is Honest:
        assert sum("completions: chi-square" in line for line in found) == 6


@pytest.mark.parametrize(
    "toy, contract, place, seen",
    [
        (MaskBForA, "probabilities_sum_to_one", "1 x 1 x 1", "needs mask A"),
        (ColoursSeeEachOther, "probabilities_sum_to_one", "3 x 1 x 1", "a later colour of it"),
        (NotShifted, "probabilities_sum_to_one", "1 x 1 x 2", "needs a shift by a row"),
        (PaddedBelow, "probabilities_sum_to_one", "1 x 2 x 3", "need their padding at the top"),
        (InBits, "probabilities_sum_to_one", "1 x 1 x 1", "the unit must be nats per image"),
        (PerDimension, "probabilities_sum_to_one", "3 x 1 x 1", "in nats per dimension they do"),
        (WrongSign, "probabilities_sum_to_one", "1 x 1 x 1", "it is ln p, not -ln p"),
        (SamplesOtherwise, "samples_follow_the_probabilities", "1 x 1 x 1", "chi-square test"),
        (SamplesBetweenLevels, "samples_follow_the_probabilities", "1 x 1 x 1", "between the 2"),
        (CompletesBlindly, "completions_follow_the_conditional", "1 x ", "completions a chi-sq"),
        (ForgetsTheEncoder, "bounds_are_bounds", "1 x ", "sum to"),
    ],
)
def test_a_broken_model_is_caught_by_what_is_wrong_with_it(toy, contract, place, seen):
    with pytest.raises(PromiseBroken) as caught:
        check_likelihood(spec_of(toy))
    said = str(caught.value)
    assert said.startswith(f"toy ({place}")
    assert statement(getattr(exactness, contract)) in said and seen in said


def test_the_whole_check_of_a_trainer_ends_with_this_one():
    spec = spec_of(PaddedBelow)
    with pytest.raises(PromiseBroken, match="those of 64 images sum to"):
        check_trainer(spec, options={"batch_size": 16}, shapes=[(1, 4, 4)])


@pytest.mark.parametrize(
    "name, options",
    [
        ("pixelcnn", {}),
        ("pixelcnn", {"levels": 256}),
        ("pixelrnn", {}),
        ("pixelrnn", {"cell": "row"}),
        ("pixelrnn", {"levels": 4}),
        ("pixelrnn", {"cell": "row", "levels": 256}),
    ],
)
def test_built_in_likelihoods_are_exact(name, options):
    found = check_likelihood(name, options={**TINY[name], **options})
    assert sum("images sum to" in line for line in found) >= 3


@pytest.mark.parametrize("name", ["vae", "dcgan"])
def test_shapes_that_a_model_refuses_are_left_out_and_said(name):
    found = check_likelihood(name, options=TINY[name])
    assert len(found) == len(exactness.WORLDS)
    assert all(line.startswith("left out: ") and "8 to 128 pixels" in line for line in found)


def test_a_model_without_a_likelihood_has_nothing_to_prove():
    class Silent(Honest):
        def log_likelihood(self, images):
            return None

    globals()["Silent"] = Silent
    Silent.__qualname__ = "Silent"
    assert check_likelihood(spec_of(Silent)) == ["left out: there is no likelihood"]


def test_p_values_of_true_probabilities_are_uniform_and_of_others_small():
    torch.manual_seed(0)
    chances = torch.rand(300, dtype=torch.float64) ** 4
    chances /= chances.sum()
    found = []
    for _ in range(200):
        drawn = torch.multinomial(chances, 4000, replacement=True)
        counts = torch.bincount(drawn, minlength=300).double()
        found.append(chi_square(counts, chances))
    values = torch.tensor([p for p, _ in found])
    assert abs(values.mean() - 0.5) < 0.08 and (values < 0.05).float().mean() < 0.12
    assert {cells for _, cells in found} == {found[0][1]} and 50 < found[0][1] < 300
    other = chances.roll(1)
    assert chi_square(torch.bincount(drawn, minlength=300).double(), other)[0] < 1e-10
