"""The proof of a likelihood: honest models pass, broken ones fail by what is wrong with them."""

import math

import leaking
import pytest
import torch
from genkit_broken_likelihoods.models import Honest, PaddedBelow
from leaking import Latent, Silent
from toys import TINY

from genkit.contracts.contract import statement
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec
from genkit.testing import PromiseBroken, check_likelihood, check_trainer, exactness
from genkit.testing.exactness import chi_square

torch.set_num_threads(1)


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
        (
            leaking.PerDimension,
            "probabilities_sum_to_one",
            "3 x 1 x 1",
            "in nats per dimension they do",
        ),
        (leaking.WrongSign, "probabilities_sum_to_one", "1 x 1 x 1", "it is ln p, not -ln p"),
        (
            leaking.SamplesOtherwise,
            "samples_follow_the_probabilities",
            "1 x 1 x 1",
            "chi-square test",
        ),
        (
            leaking.SamplesBetweenLevels,
            "samples_follow_the_probabilities",
            "1 x 1 x 1",
            "between the 2",
        ),
        (
            leaking.CompletesBlindly,
            "completions_follow_the_conditional",
            "1 x ",
            "completions a chi-sq",
        ),
        (leaking.ForgetsTheEncoder, "bounds_are_bounds", "1 x ", "sum to"),
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
    assert check_likelihood(spec_of(Silent)) == ["left out: there is no likelihood"]


def test_importance_weighted_bounds_stay_below_the_enumerated_likelihood_and_approach_it():
    """All images of six pixels; ln p(x) by a sum over a grid of the two latents."""
    torch.manual_seed(0)
    model = Latent(TrainerConfig(), ImageShape(1, 2, 3))
    model.decoder.weight.data *= 4
    images = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6).view(-1, 1, 2, 3)
    axis = torch.linspace(-6, 6, 61)
    grid = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 64, -1)  # (points, images, 2)
    with torch.no_grad():
        like, prior, _ = model.weights((images.flatten(1) > 0).float(), grid, 0)
    exact = (like + prior).double().logsumexp(0) + math.log(0.2**2 / (2 * math.pi))
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-5)
    weights = model.log_weights(images, 6400).nats.double()  # (draws, images)
    gaps = []
    for draws in (1, 8, 64):
        bounds = weights.view(-1, draws, len(images)).logsumexp(1) - math.log(draws)
        error = bounds.std(0) / math.sqrt(len(bounds))
        assert (bounds.mean(0) < exact + 4 * error).all()
        gaps.append((exact - bounds.mean(0)).mean().item())
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


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
