"""PixelRNN: exact likelihood, cached samples against a slow loop, training, the plugin."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_pixelrnn import all_images, both_cells, generator, make
from torch import nn

from genkit.errors import UsageError
from genkit.model import Batch
from genkit.runs.onnx import export_network
from genkit.sampling.completion import known_half
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN
from genkit_pixelrnn import PixelRNNConfig, register_trainers
from genkit_pixelrnn.model import PixelRNN, learning_rate_schedule
from genkit_pixelrnn.sampler import draw_images

torch.set_num_threads(1)


@torch.no_grad()
def draw_slowly(model, uniforms, given=None, known=None):
    """One forward pass per value; returns images and logits (H * W * C, n, outputs)."""
    images, kept, steps = torch.zeros_like(uniforms), [], model.config.levels - 1
    _, colours, height, width = uniforms.shape
    for row, column, colour in itertools.product(range(height), range(width), range(colours)):
        logits = model(images)[:, colour, :, row, column]  # (n, outputs)
        kept.append(logits)
        u = uniforms[:, colour, row, column].numpy()
        if steps == 1:
            level = 1 / (1 + np.exp(-logits[:, 0].numpy())) > u
        else:
            chances = np.exp(logits.double().log_softmax(-1).numpy())
            level = [np.searchsorted(np.cumsum(p), x) for p, x in zip(chances, u, strict=True)]
        value = torch.tensor(np.array(level, dtype=np.float32)) / steps * 2 - 1
        if known is not None:
            where = known[:, 0, row, column]
            value = torch.where(where, given[:, colour, row, column], value)
        images[:, colour, row, column] = value
    return images, torch.stack(kept)


# ---- an exact likelihood


@both_cells
@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 3, 4), (1, 4, 3), (1, 1, 5), (1, 5, 1)])
def test_probabilities_of_all_grey_images_sum_to_one(cell, shape):
    nats = make(shape, cell).log_likelihood(all_images(shape)).nats.double()
    assert nats.std() > 0.1
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5)


@both_cells
@pytest.mark.parametrize("shape", [(3, 1, 2), (3, 2, 1), (3, 2, 2), (4, 1, 2)])
def test_probabilities_of_all_colour_images_sum_to_one(cell, shape):
    nats = make(shape, cell).log_likelihood(all_images(shape)).nats.double()
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5)


@both_cells
def test_probabilities_of_all_pairs_of_256_levels_sum_to_one(cell):
    model = make((1, 1, 2), cell, levels=256)
    levels = torch.cartesian_prod(torch.arange(256), torch.arange(256)).view(-1, 1, 1, 2)
    nats = model.log_likelihood(model.scale(levels)).nats.double()
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5)


@both_cells
@pytest.mark.parametrize("shape, levels", [((1, 4, 5), 2), ((1, 4, 5), 16), ((3, 4, 5), 256)])
def test_model_with_zero_output_weights_is_uniform(cell, shape, levels):
    model = make(shape, cell, levels=levels)
    for parameter in model.logits.parameters():
        nn.init.zeros_(parameter)
    likelihood = model.log_likelihood(torch.rand(3, *shape) * 2 - 1)
    expected = torch.full((3,), -math.prod(shape) * math.log(levels))
    torch.testing.assert_close(likelihood.nats, expected)
    assert likelihood.kind == "exact"


@both_cells
def test_likelihood_is_the_sum_of_log_softmax_and_knows_no_batch(cell):
    model = make((3, 4, 4), cell, levels=6)
    images = torch.rand(5, 3, 4, 4) * 2 - 1
    nats = model.log_likelihood(images).nats
    levels = model.quantise(images)
    with torch.no_grad():
        chosen = model(model.scale(levels)).log_softmax(2).gather(2, levels.unsqueeze(2))
    torch.testing.assert_close(nats, chosen.sum((1, 2, 3, 4)), rtol=1e-5, atol=1e-4)
    alone = torch.cat([model.log_likelihood(image[None]).nats for image in images.flip(0)])
    torch.testing.assert_close(nats, alone.flip(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("kind", ["grey", "black and white", "colour"])
def test_its_likelihood_is_of_the_same_thing_as_that_of_pixelcnn(levels, kind):
    """Thresholded, random and grey digits are three things; so are their likelihoods."""
    images = torch.rand(2, 3 if kind == "colour" else 1, 4, 4) * 2 - 1
    images = images.sign() if kind == "black and white" else images
    shape = ImageShape(*images.shape[1:])
    other = PixelCNN(PixelCNNConfig(levels=levels, channels=4, layers=2), shape)
    of = make(images.shape[1:], levels=levels).log_likelihood(images).of
    assert of == other.log_likelihood(images).of


# ---- samples and completions


@both_cells
@pytest.mark.parametrize(
    "shape, values",
    [
        ((1, 7, 6), {"levels": 2}),
        ((1, 5, 8), {"levels": 16, "layers": 1}),
        ((3, 4, 3), {"levels": 2, "skip": False}),
        ((4, 2, 3), {"levels": 3}),
        ((1, 4, 5), {"positions": True}),
        ((3, 3, 4), {"levels": 7, "residual": False}),
        ((1, 1, 3), {"levels": 3}),
    ],
)
def test_cached_sampling_equals_one_forward_pass_per_value(cell, shape, values):
    model = make(shape, cell, **values)
    images = model.sample(3, generator=generator(5))
    uniforms = torch.rand((3, *shape), generator=generator(5))
    slow, slow_logits = draw_slowly(model, uniforms)
    torch.testing.assert_close(images, slow, rtol=0, atol=1e-6)
    assert len(images.unique()) > 1
    trace = []
    draw_images(model, uniforms, trace)
    assert (torch.stack(trace) - slow_logits).abs().max() < 1e-5


@both_cells
def test_samples_have_the_frequencies_of_their_likelihood(cell):
    model = make((1, 2, 2), cell)
    samples = model.sample(20_000, generator=generator())
    worlds = all_images((1, 2, 2))
    counted = (samples[:, None] == worlds).flatten(2).all(2).double().mean(0)  # (16,)
    expected = model.log_likelihood(worlds).nats.double().exp()
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((counted - expected).abs() < 4.5 * error + 1e-9).all()


@both_cells
@pytest.mark.parametrize("mask", ["bottom", "right", "top", "random", "nothing", "everything"])
def test_cached_completion_equals_one_forward_pass_per_value(cell, mask):
    shape = (3, 5, 4)
    model = make(shape, cell, levels=7)
    uniforms = torch.rand(3, *shape, generator=generator(1))
    levels = torch.randint(model.config.levels, (3, *shape), generator=generator(2))
    given, known = model.scale(levels), torch.zeros(3, 1, *shape[1:], dtype=torch.bool)
    if mask in ("bottom", "right", "top"):
        known = known_half(ImageShape(*shape), mask).expand(3, -1, -1, -1)
    elif mask == "random":  # other pixels of each image
        known = torch.rand(known.shape, generator=generator(3)) < 0.5
    elif mask == "everything":
        known = ~known
    fast = draw_images(model, uniforms, given=given, known=known)
    slow, _ = draw_slowly(model, uniforms, given, known)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)
    assert torch.equal(fast[known.expand_as(fast)], given[known.expand_as(fast)])


def test_hidden_values_of_images_to_complete_do_not_matter():
    model = make((1, 4, 4))
    known = known_half(ImageShape(1, 4, 4))[None].view(1, 1, 4, 4)
    images = torch.ones(1, 1, 4, 4)
    answers = [
        model.complete(torch.where(known, images, filling), known, generator=generator())
        for filling in (-1.0, 1.0)
    ]
    assert torch.equal(*answers)


def test_samples_lie_on_the_levels_and_come_from_the_generator_alone():
    model = make((1, 6, 6), levels=5)
    with torch.autocast("cpu", torch.bfloat16):
        images = model.sample(70, generator=generator(1))
    assert images.shape == (70, 1, 6, 6) and images.dtype == torch.float32
    assert images.unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    torch.manual_seed(99)
    again = model.sample(70, generator=generator(1))
    assert torch.equal(images, again)
    assert not torch.equal(again, model.sample(70, generator=generator(2)))
    assert model.sample(0, generator=generator()).shape == (0, 1, 6, 6)


# ---- training


@both_cells
def test_loss_agrees_with_likelihood_and_survives_bfloat16(cell):
    torch.manual_seed(0)
    model = PixelRNN(PixelRNNConfig(cell=cell, layers=3, levels=16), ImageShape(1, 8, 8))
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    loss, extras = model.loss(Batch(images))
    nats = -model.log_likelihood(images).nats.mean()
    torch.testing.assert_close(extras["nats"], nats)
    torch.testing.assert_close(loss.detach() * 64, nats)
    torch.testing.assert_close(extras["bits_per_dim"], nats / 64 / math.log(2))
    with torch.autocast("cpu", torch.bfloat16):
        coarse, _ = model.loss(Batch(images))
        likelihood = model.log_likelihood(images)
    loss.backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    coarse.backward()
    assert coarse.dtype == torch.float32
    assert coarse.item() == pytest.approx(loss.item(), rel=0.03)
    assert torch.equal(-likelihood.nats.mean(), nats)
    whole = torch.cat([g.flatten() for g in exact.values()])
    error = torch.cat([(p.grad - exact[n]).flatten() for n, p in model.named_parameters()])
    assert 0 < error.norm() / whole.norm() < 0.1  # PixelCNN's is as large


@both_cells
def test_training_learns_one_image_by_heart(cell):
    torch.manual_seed(0)
    config = PixelRNNConfig(cell=cell, layers=2, width=8, learning_rate=0.01, warmup_steps=0)
    model = PixelRNN(config, ImageShape(1, 8, 8))
    (phase,) = model.phases()
    batch = Batch((torch.eye(8) * 2 - 1).expand(4, 1, 8, 8))
    losses = []
    for _ in range(100):
        loss, _ = phase.loss(batch)
        phase.optimizer.zero_grad()
        loss.backward()
        phase.optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(2), rel=0.5)
    assert losses[-1] < 0.05 * losses[0]


def test_learning_rate_rises_holds_and_falls_as_inverse_square_root():
    factor = learning_rate_schedule(warmup=10, decay=100)
    assert [factor(0), factor(4), factor(9), factor(100)] == [0.1, 0.5, 1.0, 1.0]
    assert factor(400) == pytest.approx(0.5)
    assert learning_rate_schedule(warmup=0, decay=0)(10**9) == 1.0


def test_trouble_names_the_option_to_try():
    history = {"nll/loss": [0.3] * 10 + [0.9] * 10}
    assert "--learning-rate" in make((1, 2, 2)).trouble(history)
    assert make((1, 2, 2)).trouble({"nll/loss": [0.3] * 20}) is None


# ---- the plugin


@pytest.mark.parametrize("channels", [2, 5])
def test_images_neither_grey_nor_rgb_nor_rgba_are_refused(channels):
    with pytest.raises(UsageError, match=f"{channels} x 28 x 28"):
        PixelRNN(PixelRNNConfig(), ImageShape(channels, 28, 28))


def test_presets_are_the_papers_networks_and_every_field_is_described():
    (spec,) = register_trainers()
    assert spec.load() is PixelRNN
    assert set(spec.presets) == {"quick", "full", "colour"}
    digits, colour = (spec.config(**spec.presets[name]) for name in ("full", "colour"))
    assert (digits.layers, digits.width, digits.head_width, digits.levels) == (7, 16, 32, 2)
    assert (colour.layers, colour.width, colour.head_width, colour.levels) == (12, 128, 1024, 256)
    assert all(field.description for field in spec.config.model_fields.values())


def test_onnx_is_refused_in_a_sentence():
    """The recurrence would be unrolled, step by step, into thousands of operations."""
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match=r"PixelRNN offers no network for ONNX.*without --onnx"):
        export_network(make((1, 4, 4)))


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_models_of_different_levels_are_asked_about_their_own(levels):
    """Else a model of two levels would be compared with others on images it cannot draw."""
    assert make((1, 2, 2), levels=levels).likelihood_levels() == (levels,)


def test_entry_module_does_not_import_torch():
    code = (
        "import sys, genkit_pixelrnn as p; p.register_trainers(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
