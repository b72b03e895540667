"""PixelRNN: exact likelihood, causality, and the places where other implementations go wrong."""

import itertools
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from genkit.errors import UsageError
from genkit.model import Batch
from genkit.sampling.completion import known_half
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN
from genkit_pixelrnn import PixelRNNConfig, register_trainers
from genkit_pixelrnn.cached import draw_images
from genkit_pixelrnn.layers import LSTM, FirstConvolution
from genkit_pixelrnn.model import PixelRNN, learning_rate_schedule
from genkit_pixelrnn.order import Order
from genkit_pixelrnn.scan import Scan

torch.set_num_threads(1)

CELLS = ("diagonal", "row")
PLAIN = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "plain_pixelrnn.py"))
both_cells = pytest.mark.parametrize("cell", CELLS)


def make(shape, cell="diagonal", seed=0, **values):
    """A small model with random weights everywhere."""
    small = {"cell": cell, "layers": 3, "width": 6, "head_width": 18}
    torch.manual_seed(seed)
    model = PixelRNN(PixelRNNConfig(**{**small, **values}), ImageShape(*shape))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.35)
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def all_images(shape):
    """Every image of black and white values, (2 ** dimensions, C, H, W)."""
    worlds = itertools.product((-1.0, 1.0), repeat=math.prod(shape))
    return torch.tensor(list(worlds)).view(-1, *shape)


def seen_by(model, shape):
    """For each value, (C, H, W), which values its logits depend on, by gradients at some images."""
    torch.manual_seed(1)
    images = (torch.rand(8, *shape).double() * 2 - 1).requires_grad_()
    logits = model.double()(images).sum((0, 2))  # (C, H, W)
    for place in itertools.product(*map(range, shape)):
        (gradient,) = torch.autograd.grad(logits[place], images, retain_graph=True)
        yield place, (gradient != 0).any(0)


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


# ---- what a value sees


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 6), (1, 6, 3)])
@pytest.mark.parametrize("values", [{}, {"layers": 1}, {"skip": False}, {"residual": False}])
def test_diagonal_sees_all_values_before_each_but_one_and_nothing_else(shape, values):
    """The paper's masks hide one: the last value of the row above, from pixels whose first 7 x 7
    convolution does not reach it. No feature of that row may see its last value, and the second
    direction is shifted down by that row."""
    _, _, width = shape
    for (colour, row, column), seen in seen_by(make(shape, **values), shape):
        expected = before(torch.ones_like(seen), colour, row, column)
        if row and column + 3 < width - 1:
            expected[-1, row - 1, -1] = False
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("colours", [1, 3])
def test_row_sees_a_triangle_that_widens_by_a_pixel_for_each_row_and_layer(colours):
    """One layer: what the first 7 x 7 convolution of a pixel sees, at the pixel, at its left, and
    at pixels of the rows above that are within one column for each row."""
    height, width, reach = 12, 25, 3
    model = make((colours, height, width), "row", layers=1)
    for (colour, row, column), seen in seen_by(model, (colours, height, width)):
        expected = torch.zeros(colours, height, width, dtype=torch.bool)
        for i in range(row + 1):
            spread = row - i
            for start in range(column - spread - 1, column + spread + 1):
                if not 0 <= start < width:
                    continue
                above = slice(max(0, i - reach), i)
                expected[:, above, max(0, start - reach) : start + reach + 1] = True
                expected[:, i, max(0, start - reach) : start] = True
                if start < column or i < row:  # the whole pixel, by the states' later colours
                    expected[: colours - 1, i, start] |= colours > 1
        expected[:, row, column] = False
        expected[:colour, row, column] = True
        assert not (seen & ~before(expected, colour, row, column)).any()
        missing = before(expected, colour, row, column) & ~seen
        assert not missing.any(), (colour, row, column)


def before(seen, colour, row, column):
    """What of a set of values comes before one of them."""
    colours, height, width = seen.shape
    order = torch.arange(seen.numel()).view(height, width, colours).permute(2, 0, 1)
    return seen & (order < order[colour, row, column])


def test_row_never_sees_the_future():
    shape = (3, 5, 6)
    for place, seen in seen_by(make(shape, "row", layers=4), shape):
        assert torch.equal(seen, before(seen, *place))
        row, column = place[1:]
        if row and column + 1 < 6:
            assert seen[:, row - 1, column + 1].all()  # upper right, which a causal pad hides
        if column:
            assert seen[:, row, column - 1].all()


@torch.no_grad()
def scanned(features, height, width, lstm=None, cell="diagonal"):
    """A layer's output in raster order, (H * W, N, h), for features likewise."""
    order = Order(cell, height, width)
    lstm = lstm or LSTM(1, 4, order)
    return lstm(features[order.pixels], order)[order.place]


def test_second_direction_is_the_mirrored_image_shifted_down_by_a_row():
    height, width = 5, 7
    torch.manual_seed(0)
    features = torch.randn(height * width, 2, 8)
    order = Order("diagonal", height, width)
    lstm = LSTM(1, 4, order)
    with torch.no_grad():
        lstm.hidden.normal_()
        lstm.weight[1] = lstm.weight[0]
        lstm.hidden[1] = lstm.hidden[0]
    both = scanned(features, height, width, lstm).unflatten(0, (height, width))
    with torch.no_grad():  # a direction whose output gate never opens
        lstm.bias[1, :4] = -1e9
    first = scanned(features, height, width, lstm).unflatten(0, (height, width))
    mirrored = features.unflatten(0, (height, width)).flip(1).flatten(0, 1)
    other = scanned(mirrored, height, width, lstm).unflatten(0, (height, width)).flip(1)
    assert torch.equal(both[0], first[0])  # zeros on top
    torch.testing.assert_close(both[1:] - first[1:], other[:-1], rtol=1e-5, atol=1e-6)


@both_cells
def test_states_seen_are_the_left_and_the_upper_or_the_three_above(cell):
    """One step of a layer without gates in the way: which pixels' input reaches which state."""
    height, width = 4, 5
    torch.manual_seed(0)
    order = Order(cell, height, width)
    lstm = LSTM(1, 4, order).double()
    if cell == "diagonal":
        with torch.no_grad():
            lstm.bias[1, :4] = -1e9  # the first direction alone
    features = torch.randn(height * width, 1, 8).double().requires_grad_()
    output = lstm(features[order.pixels], order)[order.place].sum((1, 2))
    for number in range(height * width):
        (gradient,) = torch.autograd.grad(output[number], features, retain_graph=True)
        seen = (gradient != 0).any(2).view(height, width)
        i, j = divmod(number, width)
        for row, column in itertools.product(range(height), range(width)):
            if cell == "diagonal":
                expected = row <= i and column <= j
            else:
                expected = row <= i and j - (i - row) - 1 <= column <= j + (i - row)
            assert seen[row, column] == expected


@both_cells
def test_each_gate_sees_its_own_and_earlier_colours_only(cell):
    model = make((3, 3, 3), cell, width=7)
    lstm = model.lstms[0]
    weight = lstm.scaled()[0][:, lstm.left : lstm.left + lstm.own]
    for gate in weight.chunk(4, 2):
        assert gate.shape[2] == 7
        for i, j in itertools.product(range(14), range(7)):
            allowed = i * 3 // 14 <= j * 3 // 7
            assert (gate[:, i, j] != 0).all() == allowed
    states = lstm.scaled()[0][:, lstm.left + lstm.own :]
    assert (states != 0).all()  # other pixels' states hide nothing


def test_first_convolution_has_mask_a_and_the_others_mask_b():
    first = FirstConvolution(3, 6)
    own = first.masked[:, :, -1, 3] != 0  # (features, colours)
    assert own.int().tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert (first.masked[:, :, :-1] != 0).all() and (first.masked[:, :, -1, :3] != 0).all()
    assert (first.masked[:, :, -1, 4:] == 0).all()
    model = make((3, 2, 2))
    for layer in (*model.widen, model.hidden, model.logits):
        outputs, inputs = layer.weight.shape
        seen = [
            [i * 3 // inputs <= o * 3 // outputs for i in range(inputs)] for o in range(outputs)
        ]
        assert torch.equal(layer.masked != 0, torch.tensor(seen))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (3, 6), (6, 3), (4, 4)])
def test_every_pixel_is_computed_once_and_no_hole_of_the_skewed_map(shape):
    height, width = shape
    order = Order("diagonal", height, width)
    assert sum(step.count for step in order.steps) == height * width
    assert len(order.steps) == height + width - 1
    assert sorted(order.pixels.tolist()) == list(range(height * width))
    assert torch.equal(order.pixels[order.place], torch.arange(height * width))


# ---- the recurrence


@both_cells
@pytest.mark.parametrize(
    "shape, values",
    [
        ((1, 6, 5), {}),
        ((1, 3, 7), {"levels": 16, "layers": 1}),
        ((3, 5, 4), {"levels": 5, "skip": False}),
        ((3, 1, 3), {"residual": False}),
        ((1, 4, 1), {}),
    ],
)
def test_logits_and_gradients_equal_those_of_a_plain_recurrence(cell, shape, values):
    model = make(shape, cell, **values)
    plain = PLAIN["PlainPixelRNN"](model)
    images = model.scale(model.quantise(torch.rand(3, *shape) * 2 - 1)).requires_grad_()
    weights = torch.randn(3, shape[0], model.outputs, *shape[1:])
    logits, expected = model(images), plain(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    learned = [[images], [images]]  # and states outside the image, of this and the plain network
    for layer, name in ((0, "hidden"), (-1, "cell")):
        learned[0].append(getattr(model.lstms[layer], name))
        learned[1] += [getattr(direction, name) for direction in plain.lstms[layer]]
    found = torch.autograd.grad((logits * weights).sum(), learned[0])
    slow = torch.autograd.grad((expected * weights).sum(), learned[1])
    torch.testing.assert_close(found[0], slow[0], rtol=1e-4, atol=1e-4)
    states = (torch.cat([gradient.flatten() for gradient in part[1:]]) for part in (found, slow))
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)


@both_cells
def test_hand_written_gradients_are_those_of_finite_differences(cell):
    order = Order(cell, 3, 4)
    torch.manual_seed(0)
    lstm = LSTM(1, 2, order).double()
    features = torch.randn(12, 2, lstm.left + lstm.own).double()
    arguments = [features, *lstm.scaled()]
    arguments = [torch.randn_like(a).requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(lambda *a: Scan.apply(*a, order, torch.float64), arguments)


def test_candidate_is_a_tanh_and_the_cell_an_lstm():
    """One pixel of one layer against equation 3, written out."""
    torch.manual_seed(0)
    order = Order("diagonal", 1, 1)
    lstm = LSTM(1, 3, order)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.normal_(std=2)
    features = torch.randn(1, 1, 6)
    weight, bias = lstm.weight[0], lstm.bias[0]
    seen = torch.cat([features[0, 0], lstm.hidden[0], lstm.hidden[0]])
    o, f, i, g = (seen @ weight + bias).chunk(4)
    cell = f.sigmoid() * lstm.cell[0] + i.sigmoid() * g.tanh()
    expected = o.sigmoid() * cell.tanh()
    assert g.min() < -0.5  # where a sigmoid would give something positive
    torch.testing.assert_close(lstm(features, order)[0, 0], expected, rtol=1e-5, atol=1e-6)


@both_cells
def test_states_outside_the_image_are_learned(cell):
    model = make((1, 3, 3), cell)
    (phase,) = model.phases()
    phase.loss(Batch(torch.rand(2, 1, 3, 3) * 2 - 1))[0].backward()
    for lstm in model.lstms:
        assert lstm.hidden.grad.abs().sum() > 0 and lstm.cell.grad.abs().sum() > 0


@both_cells
def test_every_parameter_is_trained(cell):
    model = make((3, 5, 5), cell, levels=4)
    (phase,) = model.phases()
    phase.loss(Batch(torch.rand(2, 3, 5, 5) * 2 - 1))[0].backward()
    held = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
    for parameter in model.parameters():
        assert id(parameter) in held
        assert parameter.grad.abs().sum() > 0


# ---- samples and completions


@both_cells
@pytest.mark.parametrize(
    "shape, values",
    [
        ((1, 7, 6), {"levels": 2}),
        ((1, 5, 8), {"levels": 16, "layers": 1}),
        ((3, 4, 3), {"levels": 2, "skip": False}),
        ((4, 2, 3), {"levels": 3}),
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


def test_entry_module_does_not_import_torch():
    code = (
        "import sys, genkit_pixelrnn as p; p.register_trainers(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
