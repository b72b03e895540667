"""PixelCNN: exact likelihood, causality, and the cached sampler against a slow loop."""

import itertools
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import UsageError
from genkit.model import Batch
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig, register_trainers
from genkit_pixelcnn.model import PixelCNN, learning_rate_schedule
from genkit_pixelcnn.sampler import draw_images

torch.set_num_threads(1)

BENCH = Path(__file__).parents[1] / "bench"


def make(shape, seed=0, **values):
    """A small model with random weights everywhere."""
    config = PixelCNNConfig(**{"levels": 2, "channels": 6, "layers": 4, **values})
    torch.manual_seed(seed)
    model = PixelCNN(config, ImageShape(*shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def all_images(shape):
    """Every image of black and white values, (2 ** dimensions, C, H, W)."""
    worlds = itertools.product((-1.0, 1.0), repeat=math.prod(shape))
    return torch.tensor(list(worlds)).view(-1, *shape)


@torch.no_grad()
def draw_slowly(model, uniforms):
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
            probabilities = np.exp(logits.double().log_softmax(-1).numpy())
            level = [
                np.searchsorted(np.cumsum(p), x) for p, x in zip(probabilities, u, strict=True)
            ]
        value = torch.tensor(np.array(level, dtype=np.float32)) / steps * 2 - 1
        images[:, colour, row, column] = value
    return images, torch.stack(kept)


@pytest.mark.parametrize("shape, levels", [((1, 4, 5), 2), ((1, 4, 5), 16), ((3, 4, 5), 256)])
def test_model_with_zero_output_weights_is_uniform(shape, levels):
    model = make(shape, levels=levels)
    for parameter in model.logits.parameters():
        torch.nn.init.zeros_(parameter)
    likelihood = model.log_likelihood(torch.rand(3, *shape) * 2 - 1)
    expected = torch.full((3,), -math.prod(shape) * math.log(levels))
    torch.testing.assert_close(likelihood.nats, expected)
    assert likelihood.kind == "exact" and str(levels) in likelihood.of


@pytest.mark.parametrize(
    "shape", [(1, 2, 2), (1, 3, 3), (3, 2, 1), (3, 1, 2), (2, 2, 2), (4, 1, 2)]
)
def test_probabilities_of_all_images_sum_to_one(shape):
    nats = make(shape).log_likelihood(all_images(shape)).nats.double()
    assert nats.std() > 0.1
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("colours, cycle", [(1, 1), (1, 3), (3, 1), (3, 2), (4, 2)])
def test_each_value_sees_all_values_before_it_and_nothing_else(colours, cycle):
    height, width = 5, 7
    model = make((colours, height, width), channels=24, layers=6, dilation_cycle=cycle).double()
    images = (torch.rand(1, colours, height, width).double() * 2 - 1).requires_grad_()
    order = torch.arange(images.numel()).view(height, width, colours).permute(2, 0, 1)
    logits = model(images)  # (1, C, 1, H, W)
    for colour, row, column in itertools.product(*map(range, (colours, height, width))):
        seen = torch.autograd.grad(logits[0, colour, 0, row, column], images, retain_graph=True)[0]
        assert torch.equal(seen[0] != 0, order < order[colour, row, column])


@pytest.mark.parametrize(
    "shape, values",
    [
        ((1, 9, 8), {"levels": 2, "dilation_cycle": 1}),
        ((1, 8, 11), {"levels": 2, "dilation_cycle": 3, "layers": 5}),
        ((1, 6, 7), {"levels": 16, "dilation_cycle": 2}),
        ((3, 5, 4), {"levels": 2}),
        ((3, 4, 5), {"levels": 7, "dilation_cycle": 1}),
        ((4, 3, 4), {"levels": 5}),
        ((1, 1, 1), {"levels": 3}),
        ((1, 4, 4), {"levels": 2, "layers": 1}),
    ],
)
def test_cached_sampling_equals_one_forward_pass_per_value(shape, values):
    model = make(shape, **values)
    images = model.sample(3, generator=torch.Generator().manual_seed(5))
    uniforms = torch.rand((3, *shape), generator=torch.Generator().manual_seed(5))
    slow, slow_logits = draw_slowly(model, uniforms)
    torch.testing.assert_close(images, slow, rtol=0, atol=1e-6)
    assert len(images.unique()) > 1
    trace = []
    draw_images(model, uniforms, trace)
    assert (torch.stack(trace) - slow_logits).abs().max() < 1e-5


def test_samples_have_the_frequencies_of_their_likelihood():
    model = make((1, 2, 2))
    samples = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    worlds = all_images((1, 2, 2))
    counted = (samples[:, None] == worlds).flatten(2).all(2).double().mean(0)  # (16,)
    expected = model.log_likelihood(worlds).nats.double().exp()
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((counted - expected).abs() < 4.5 * error + 1e-9).all()


def test_samples_lie_on_the_levels_and_come_from_the_generator_alone():
    model = make((1, 6, 6), levels=5)
    with torch.autocast("cpu", torch.bfloat16):
        images = model.sample(70, generator=torch.Generator().manual_seed(1))
    assert images.shape == (70, 1, 6, 6) and images.dtype == torch.float32
    assert images.unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    torch.manual_seed(99)
    again = model.sample(70, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images, again)
    assert not torch.equal(again, model.sample(70, generator=torch.Generator().manual_seed(2)))
    assert model.sample(0, generator=torch.Generator()).shape == (0, 1, 6, 6)


def test_likelihood_is_the_sum_of_log_softmax_and_knows_no_batch():
    model = make((3, 4, 4), levels=6)
    images = torch.rand(5, 3, 4, 4) * 2 - 1
    nats = model.log_likelihood(images).nats
    levels = model.quantise(images)
    with torch.no_grad():
        chosen = model(model.scale(levels)).log_softmax(2).gather(2, levels.unsqueeze(2))
    torch.testing.assert_close(nats, chosen.sum((1, 2, 3, 4)), rtol=1e-5, atol=1e-4)
    alone = torch.cat([model.log_likelihood(image[None]).nats for image in images.flip(0)])
    torch.testing.assert_close(nats, alone.flip(0), rtol=1e-5, atol=1e-4)


def test_256_levels_are_the_bytes_and_2_levels_split_between_127_and_128():
    values = torch.arange(256).view(1, 1, 16, 16)
    images = values / 127.5 - 1
    model = make((1, 16, 16), levels=256)
    assert torch.equal(model.quantise(images), values)
    torch.testing.assert_close(model.scale(values), images)
    assert torch.equal(make((1, 16, 16)).quantise(images), (values > 127).long())


def test_loss_agrees_with_likelihood_and_survives_bfloat16():
    model = make((1, 8, 8), levels=16)
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    loss, extras = model.loss(Batch(images))
    nats = -model.log_likelihood(images).nats.mean()
    torch.testing.assert_close(extras["nats"], nats)
    torch.testing.assert_close(loss.detach() * 64, nats)
    torch.testing.assert_close(extras["bits_per_dim"], nats / 64 / math.log(2))
    with torch.autocast("cpu", torch.bfloat16):
        coarse, _ = model.loss(Batch(images))
        likelihood = model.log_likelihood(images)
    coarse.backward()
    assert coarse.dtype == torch.float32
    assert coarse.item() == pytest.approx(loss.item(), rel=0.03)
    assert torch.equal(-likelihood.nats.mean(), nats)


def test_training_learns_one_image_by_heart():
    torch.manual_seed(0)
    model = PixelCNN(
        PixelCNNConfig(levels=2, channels=16, layers=3, learning_rate=0.01, warmup_steps=0),
        ImageShape(1, 8, 8),
    )
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


@pytest.mark.parametrize(
    "shape, values",
    [
        ((1, 9, 8), {"levels": 2, "dilation_cycle": 3}),
        ((3, 7, 10), {"levels": 5, "dilation_cycle": 1}),
        ((1, 3, 3), {"levels": 16, "layers": 5}),
    ],
)
def test_logits_and_gradients_equal_those_of_plain_masked_convolutions(shape, values):
    model = make(shape, **values)
    plain = runpy.run_path(str(BENCH / "pixelcnn_training.py"))["PlainPixelCNN"](model)
    images = model.scale(model.quantise(torch.rand(3, *shape) * 2 - 1)).requires_grad_()
    weights = torch.randn(3, shape[0], model.outputs, *shape[1:])
    logits, expected = model(images), plain(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    gradient, slow = (
        torch.autograd.grad((x * weights).sum(), images)[0] for x in (logits, expected)
    )
    assert slow.abs().max() > 0.01
    torch.testing.assert_close(gradient, slow, rtol=1e-4, atol=1e-4)


def test_every_parameter_is_trained_and_stored_contiguously():
    model = make((3, 5, 5), levels=4)
    (phase,) = model.phases()
    phase.loss(Batch(torch.rand(2, 3, 5, 5) * 2 - 1))[0].backward()
    held = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
    for parameter in model.parameters():
        assert id(parameter) in held
        assert parameter.grad.abs().sum() > 0
        assert parameter.is_contiguous()


def test_learning_rate_rises_holds_and_falls_as_inverse_square_root():
    factor = learning_rate_schedule(warmup=10, decay=100)
    assert [factor(0), factor(4), factor(9), factor(100)] == [0.1, 0.5, 1.0, 1.0]
    assert factor(400) == pytest.approx(0.5)
    assert learning_rate_schedule(warmup=0, decay=0)(10**9) == 1.0


def test_images_of_more_than_four_channels_are_refused():
    with pytest.raises(UsageError, match="5 x 28 x 28"):
        PixelCNN(PixelCNNConfig(), ImageShape(5, 28, 28))


def test_every_preset_and_field_is_valid_and_described():
    (spec,) = register_trainers()
    assert spec.load() is PixelCNN
    assert set(spec.presets) == {"quick", "full"}
    for values in spec.presets.values():
        spec.config(**values)
    assert all(field.description for field in spec.config.model_fields.values())


def test_entry_module_does_not_import_torch():
    code = (
        "import sys, genkit_pixelcnn as p; p.register_trainers(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
