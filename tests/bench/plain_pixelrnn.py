"""PixelRNN as the paper describes it, left to autograd: what `pixelrnn` is measured against.

Masked convolutions in NCHW, the map skewed by padding each row, a column of it per step with a
two-tap convolution over rows, the other direction on the flipped image. From a model's weights it
computes the same logits and gradients (a test).
"""

import torch
import torch.nn.functional as F
from torch import nn


def skew(features):
    """(N, F, H, W) to (N, F, H, W + H - 1): row i is moved i places to the right."""
    height = features.shape[2]
    rows = [F.pad(row, (i, height - 1 - i)) for i, row in enumerate(features.unbind(2))]
    return torch.stack(rows, 2)


def unskew(features, width):
    """The inverse of `skew`."""
    rows = [row[..., i : i + width] for i, row in enumerate(features.unbind(2))]
    return torch.stack(rows, 2)


def cell_step(gates, cell):
    """Equation 3: the new hidden and cell state."""
    o, f, i, g = gates.chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


class PlainLSTM(nn.Module):
    """One direction of a layer, with the weights of an `LSTM`."""

    def __init__(self, lstm, direction):
        super().__init__()
        width = lstm.hidden.shape[1]
        row = lstm.left > 0
        inputs = lstm.left + lstm.own
        masked = lstm.weight[direction, :inputs] * (lstm.scale[:inputs] > 0)
        states = lstm.weight[direction, inputs:].unflatten(0, (-1, width))  # (taps, h, 4h)
        self.input = nn.Conv2d(lstm.own, 4 * width, (1, 2 if row else 1))
        self.state = nn.Conv1d(width, 4 * width, len(states), bias=False)
        with torch.no_grad():
            taps = masked.unflatten(0, (-1, lstm.own))
            self.input.weight.copy_(taps.permute(2, 1, 0)[:, :, None])
            self.input.bias.copy_(lstm.bias[direction])
            self.state.weight.copy_(states.permute(2, 1, 0))
        self.hidden = nn.Parameter(lstm.hidden[direction].detach().clone()[None, :, None])
        self.cell = nn.Parameter(lstm.cell[direction].detach().clone()[None, :, None])
        self.forward = self.by_rows if row else self.by_diagonals

    def by_rows(self, features):
        """Row LSTM, (N, 2h, H, W) to (N, h, H, W)."""
        gates = self.input(F.pad(features, (1, 0)))
        n, _, _, width = gates.shape
        hidden, cell = self.hidden.expand(n, -1, width), self.cell.expand(n, -1, width)
        rows = []
        for row in gates.unbind(2):
            hidden, cell = cell_step(row + self.state(F.pad(hidden, (1, 1))), cell)
            rows.append(hidden)
        return torch.stack(rows, 2)

    def by_diagonals(self, features):
        """Diagonal LSTM from the upper left, (N, 2h, H, W) to (N, h, H, W)."""
        n, _, height, width = features.shape
        gates = skew(self.input(features))
        inside = skew(torch.ones_like(features[:1, :1])) > 0  # (1, 1, H, W + H - 1)
        above = self.hidden.expand(n, -1, 1)
        start = self.hidden.expand(n, -1, height), self.cell.expand(n, -1, height)
        hidden, cell = start
        columns = []
        for column, here in zip(gates.unbind(3), inside.unbind(3), strict=True):
            new = cell_step(column + self.state(torch.cat([above, hidden], 2)), cell)
            hidden, cell = (torch.where(here, a, b) for a, b in zip(new, start, strict=True))
            columns.append(hidden)
        return unskew(torch.stack(columns, 3), width)


class PlainPixelRNN(nn.Module):
    """The plain network with the weights of `model`."""

    def __init__(self, model):
        super().__init__()
        self.residual, self.skip, self.outputs = (
            model.config.residual,
            model.config.skip,
            model.outputs,
        )
        kernel = torch.zeros(*model.first.weight.shape[:2], 7, 7)
        kernel[:, :, :4] = model.first.masked.detach()
        self.first = nn.Parameter(kernel)
        self.first_bias = nn.Parameter(model.first.bias.detach().clone())
        self.positions = None
        if model.config.positions:
            positions = model.position_features().detach().permute(2, 0, 1)
            self.positions = nn.Parameter(positions.clone())
        directions = range(model.order.directions)
        self.lstms = nn.ModuleList(
            nn.ModuleList(PlainLSTM(lstm, d) for d in directions) for lstm in model.lstms
        )
        self.widen = nn.ModuleList(map(one_by_one, model.widen))
        self.head = nn.ModuleList(map(one_by_one, [model.gather, model.hidden, model.logits]))

    def forward(self, images):
        """(N, C, H, W) to (N, C, outputs, H, W)."""
        features = F.conv2d(images, self.first, self.first_bias, padding=3)
        if self.positions is not None:
            features = features + self.positions
        seen = []
        for directions, widen in zip(self.lstms, self.widen, strict=True):
            output = directions[0](features)
            if len(directions) == 2:
                other = directions[1](features.flip(3)).flip(3)
                output = output + F.pad(other, (0, 0, 1, 0))[:, :, :-1]  # a row further down
            seen.append(output)
            features = features + widen(output) if self.residual else widen(output)
        gather, *layers = self.head
        hidden = gather(torch.cat([features, *(seen if self.skip else [])], 1))
        for layer in layers:
            hidden = layer(F.relu(hidden))
        return hidden.unflatten(1, (-1, self.outputs))


def one_by_one(layer):
    """A `MaskedLinear` as a convolution."""
    outputs, inputs = layer.weight.shape
    convolution = nn.Conv2d(inputs, outputs, 1, bias=layer.bias is not None)
    with torch.no_grad():
        convolution.weight.copy_(layer.masked[..., None, None])
        if layer.bias is not None:
            convolution.bias.copy_(layer.bias)
    return convolution
