"""The built-in models by class: samples follow labels, likelihoods are those of the image alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import SHAPE, TINY, bright_squares, registry, same_bits, train_tiny, write_npz

from genkit.errors import UsageError
from genkit.evaluation.likelihood import measure_likelihood
from genkit.model import GenerativeModel
from genkit.runs.build import build_model
from genkit.runs.onnx import export_network
from genkit.sampling.draw import draw
from genkit.sampling.latents import interpolate
from genkit.specs import ImageShape
from genkit.training.resume import resume
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN
from genkit_pixelcnn.sampler import draw_images

FAMILIES = ("dcgan", "gan", "vae", "pixelcnn", "pixelrnn", "flow", "diffusion", "meanflow")
PATHS = ("flow", "diffusion")
STEPS = {
    "dcgan": 800,
    "gan": 400,
    "vae": 800,
    "pixelcnn": 300,
    "pixelrnn": 300,
    "flow": 300,
    "diffusion": 600,
    "meanflow": 600,
}


def build(
    family: str, shape: ImageShape, conditional: bool = True, seed: int = 0
) -> GenerativeModel:
    """A tiny new model. With labels, what they add is drawn at random, since it starts at 0."""
    spec = registry().trainers.find(family)
    values = {**TINY[family], "conditional": conditional}
    model = build_model(spec, spec.config(**values), shape, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        zero = isinstance(module, torch.nn.Conv2d) and not module.weight.any()
        if isinstance(module, torch.nn.Embedding) or zero:
            torch.nn.init.normal_(module.weight, generator=generator)
    return model


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Squares in the corners of images, labelled by the row and the column of the corner."""
    images = bright_squares(120)
    corner = 2 * (images[:, 0, 7, :].max(1) > 0) + (images[:, 0, :, 7].max(1) > 0)
    return write_npz(tmp_path / "data.npz", images, labels=corner.astype(np.int64))


@pytest.mark.parametrize("family", FAMILIES)
def test_data_without_labels_is_refused(family: str) -> None:
    with pytest.raises(UsageError, match="--conditional needs data with labels"):
        build(family, ImageShape(*SHAPE))


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_change_samples_and_calls_without_labels_still_work(family: str) -> None:
    model = build(family, ImageShape(*SHAPE, 3))
    one, other = (draw(model, 8, 0, labels=label) for label in (0, 1))
    assert not torch.equal(one, other)
    with torch.no_grad():
        plain = model.sample(6, generator=torch.Generator().manual_seed(0))
        turns = torch.arange(6) % 3
        assert torch.equal(
            plain, model.sample(6, turns, generator=torch.Generator().manual_seed(0))
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_sample_i_is_the_same_at_any_n_and_whatever_the_other_labels(family: str) -> None:
    model = build(family, ImageShape(*SHAPE, 3, (0.5, 0.3, 0.2)))
    many = draw(model, 70, 2)
    assert torch.equal(draw(model, 5, 2), many[:5])
    assert torch.equal(draw(model, 3, 2, labels=[1, 0, 2])[0], draw(model, 3, 2, labels=1)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_without_labels_are_those_of_data_without_labels(family: str) -> None:
    plain = build(family, ImageShape(*SHAPE), conditional=False).state_dict()
    labelled = build(family, ImageShape(*SHAPE, 3), conditional=False).state_dict()
    conditional = build(family, ImageShape(*SHAPE, 3)).state_dict()
    assert same_bits(plain, labelled)
    assert plain.keys() < conditional.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conditional_run_resumes_to_the_last_bit(family: str, data: str, tmp_path: Path) -> None:
    whole = train_tiny(family, data, tmp_path / "whole", budget="8steps", conditional=True)
    train_tiny(family, data, tmp_path / "part", budget="3steps", conditional=True)
    again = resume(tmp_path / "part", registry(), budget="8steps")
    assert same_bits(whole.model.state_dict(), again.model.state_dict())
    assert torch.equal(whole.sample(5), again.sample(5))
    assert torch.equal(
        whole.sample(4, labels=["0", "1", "2", "3"]), again.sample(4, labels=[0, 1, 2, 3])
    )
    with pytest.raises(UsageError, match="no class 'cat'"):
        whole.sample(4, labels="cat")


@pytest.mark.parametrize("colours, levels", [(1, 2), (3, 5)])
def test_pixelcnns_sampler_with_a_cache_gives_the_networks_logits(
    colours: int, levels: int
) -> None:
    shape = ImageShape(colours, 5, 6, 3)
    config = PixelCNNConfig(levels=levels, channels=6, layers=4, conditional=True)
    torch.manual_seed(0)
    model = PixelCNN(config, shape).eval()
    torch.nn.init.normal_(model.classes.weight)
    labels, trace = torch.tensor([2, 0, 1, 2]), []
    images = draw_images(model, torch.rand(4, colours, 5, 6), trace, labels=labels)
    with torch.no_grad():
        expected = model(images, labels)  # (n, C, outputs, H, W)
    found = torch.stack(trace).view(5, 6, colours, 4, -1).permute(3, 2, 4, 0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_pixelcnns_likelihood_is_a_distribution_over_all_images() -> None:
    config = PixelCNNConfig(levels=2, channels=4, layers=2, conditional=True)
    torch.manual_seed(0)
    model = PixelCNN(config, ImageShape(1, 2, 3, 3, (0.7, 0.2, 0.1))).eval()
    torch.nn.init.normal_(model.classes.weight, std=3)
    every = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6))).view(-1, 1, 2, 3)
    total = model.log_likelihood(every).nats.double().exp().sum().item()
    assert total == pytest.approx(1, abs=1e-5)
    with torch.no_grad():  # and the mixture of what the classes give
        given = [(-model.nats(every, torch.full((64,), y))).exp() for y in range(3)]
    mixture = 0.7 * given[0] + 0.2 * given[1] + 0.1 * given[2]
    torch.testing.assert_close(model.log_likelihood(every).nats.exp(), mixture)


def test_vaes_bound_approaches_the_mixture_over_classes() -> None:
    """Against the mixture of the bounds that each class alone gives, of many draws."""
    shares = (0.7, 0.2, 0.1)
    model = build("vae", ImageShape(*SHAPE, 3, shares))
    images = torch.where(torch.rand(2, *SHAPE) < 0.5, -1.0, 1.0)
    draws = 4000
    torch.manual_seed(0)
    found = model.log_weights(images, draws).nats.logsumexp(0) - math.log(draws)
    parts = []
    for label, share in enumerate(shares):
        one_hot = tuple(float(i == label) for i in range(3))
        model.image_shape = ImageShape(*SHAPE, 3, one_hot)
        weights = model.log_weights(images, draws).nats
        parts.append(weights.logsumexp(0) - math.log(draws) + math.log(share))
    torch.testing.assert_close(found, torch.stack(parts).logsumexp(0), rtol=0, atol=0.1)


def test_interpolations_keep_to_the_class_of_their_row() -> None:
    model = build("vae", ImageShape(*SHAPE, 3))
    rows = interpolate(model, 2, 3, seed=1, labels=[2, 0])
    assert rows is not None
    ends = rows[:, [0, 2]].flatten(0, 1).int()
    expected = draw(model, 4, 1, labels=[2, 2, 0, 0]).int()
    assert (ends - expected).abs().max() <= 1


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "pixelrnn"])
def test_the_exported_network_takes_labels(family: str) -> None:
    pytest.importorskip("onnxruntime")
    network = export_network(build(family, ImageShape(*SHAPE, 3)))
    networks = {name: ["images", "times", "labels"] for name in PATHS}
    networks["pixelcnn"] = ["images", "labels"]
    assert list(network.inputs) == networks.get(family, ["latents", "labels"])


def test_likelihood_of_a_conditional_run_compares_with_that_of_others() -> None:
    for family in ("vae", "pixelcnn", "pixelrnn"):
        found = measure_likelihood(
            build(family, ImageShape(*SHAPE, 3)), torch.zeros(4, *SHAPE).byte()
        )
        assert found is not None and found.nats < 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_short_training_teaches_the_classes(family: str, data: str, tmp_path: Path) -> None:
    """A square in the corner that was asked for is brighter than the other corners."""
    steps = STEPS[family]
    more = {"channels": 8} if family == "pixelcnn" else {}
    more |= {"width": 16, "learning_rate": 3e-3} if family in ("diffusion", "meanflow") else {}
    more |= {"learning_rate": 0.01} if family == "pixelrnn" else {}
    more |= {"generator_rate": 2e-3, "discriminator_rate": 2e-3} if family == "gan" else {}
    budget = f"{steps}steps"
    run = train_tiny(family, data, tmp_path / "run", budget=budget, conditional=True, **more)
    labels = torch.arange(80) % 4
    images = run.sample(80, labels=labels.tolist()).float()
    corners = images.view(80, 2, 4, 2, 4).mean((2, 4)).flatten(1)  # (80, 4), by row and column
    slow = family in ("diffusion", "meanflow")  # to learn; chance is 0.25
    enough = 0.6 if slow else 0.8
    assert (corners.argmax(1) == labels).float().mean() > enough
