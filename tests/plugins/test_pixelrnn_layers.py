"""PixelRNN's layers: what a value sees, and the places where other implementations go wrong."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from small_pixelrnn import both_cells, make

from genkit.model import Batch
from genkit_pixelrnn.layers import LSTM, FirstConvolution
from genkit_pixelrnn.order import Order
from genkit_pixelrnn.scan import Scan

torch.set_num_threads(1)

PLAIN = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "plain_pixelrnn.py"))


def seen_by(model, shape):
    """For each value, (C, H, W), which values its logits depend on, by gradients at some images."""
    torch.manual_seed(1)
    images = (torch.rand(8, *shape).double() * 2 - 1).requires_grad_()
    logits = model.double()(images).sum((0, 2))  # (C, H, W)
    for place in itertools.product(*map(range, shape)):
        (gradient,) = torch.autograd.grad(logits[place], images, retain_graph=True)
        yield place, (gradient != 0).any(0)


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
        ((3, 3, 4), {"positions": True}),
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
