"""The recurrence of one layer over whole images, forwards and backwards.

Autograd would keep some 12 nodes per step. Here the steps are written out, and all weights'
gradients come from one product over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genkit_pixelrnn.order import Order


class Scan(torch.autograd.Function):
    """An LSTM along an `Order`, in all its directions at once.

    With o, f, i, g = sigmoid(inputs and states seen, times weight, plus bias):

        c = f * (c of the second tap) + 4 * i * (g - 1/2)
        h = o * (sigmoid(c) - 1/2)

    That is the LSTM of equation 3 of the paper, tanh candidate included, for c twice and h half
    its size: tanh(x) is 2 * sigmoid(2x) - 1, and a sigmoid is some ten times faster. `LSTM` puts
    the factors into the weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        hidden: Tensor,
        cell: Tensor,
        order: Order,
        product_type: torch.dtype,
    ) -> Tensor:
        """The sum of all directions' h, (P, N, h), the second shifted down by a row.

        Args:
            features: (P, N, F), pixels in the order's.
            weight: (D, F + taps * h, 4h).
            bias: (D, 1, 4h), or (D, N, 4h) if each image has its own.
            hidden, cell: (D, 1, 1, h), the states outside the image.
            product_type: of the factors of products; all else is of the features' type.
        """
        pixels, n, inputs = features.shape
        directions, width = order.directions, hidden.shape[-1]
        x = features.new_empty(directions, pixels, n, weight.shape[1], dtype=product_type)
        x[0, :, :, :inputs] = features
        if directions == 2:
            x[1, :, :, :inputs] = features.index_select(0, order.mirror)
        slots = (directions, order.slot_count + 1, n, width)
        states, cells = features.new_zeros(slots), features.new_zeros(slots)
        states[:, order.outside], cells[:, order.outside] = hidden, cell
        gates = features.new_empty(directions, pixels * n, 4 * width)
        squashed = features.new_empty(directions, pixels * n, width)  # sigmoid(c) - 1/2

        factor = weight.to(product_type)
        counts, rows = rows_of(order, n)
        own_bias = bias.shape[1] > 1
        bias = bias.repeat(1, max(counts), 1) if own_bias else bias
        taps_of_all = x[..., inputs:].view(directions, pixels, n, order.taps, width)
        strides = (states.stride(0), n * width, width, n * width, 1)
        flat_states, flat_cells = states.flatten(1, 2), cells.flatten(1, 2)
        parts = zip(
            order.steps,
            taps_of_all.split_with_sizes(counts, 1),
            x.flatten(1, 2).split_with_sizes(rows, 1),
            gates.split_with_sizes(rows, 1),
            *(gate.split_with_sizes(rows, 1) for gate in gates.chunk(4, 2)),
            squashed.split_with_sizes(rows, 1),
            strict=True,
        )
        for step, taps, x_t, gates_t, o, f, i, g, s in parts:
            size = (directions, step.count, n, order.taps, width)
            taps.copy_(states.as_strided(size, strides, step.taps * n * width))
            count = step.count * n
            bias_t = bias[:, :count]
            if product_type == gates.dtype:
                torch.baddbmm(bias_t, x_t, factor, out=gates_t)
            else:
                torch.add(torch.bmm(x_t, factor), bias_t, out=gates_t)
            gates_t.sigmoid_()
            c = flat_cells.narrow(1, step.slot * n, count)
            torch.mul(f, flat_cells.narrow(1, (step.taps + 1) * n, count), out=c)
            c.addcmul_(i, g - 0.5, value=4)
            torch.sigmoid(c, out=s).sub_(0.5)
            torch.mul(o, s, out=flat_states.narrow(1, step.slot * n, count))

        ctx.save_for_backward(x, factor, gates, cells, squashed)
        ctx.order, ctx.inputs, ctx.own_bias = order, inputs, own_bias
        answer = states[0].index_select(0, order.slots)
        if directions == 2:  # slot_count, the last slot, is zero: nothing is above the first row
            answer += states[1].index_select(0, order.above)
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the first five arguments."""
        x, factor, gates, cells, squashed = ctx.saved_tensors
        order, inputs = ctx.order, ctx.inputs
        directions, pixels, n, _ = x.shape
        width = squashed.shape[2]
        _, rows = rows_of(order, n)
        d_states, d_cells = torch.zeros_like(cells), torch.zeros_like(cells)
        d_states[0].index_copy_(0, order.slots, gradient)
        if directions == 2:
            d_states[1].index_copy_(0, order.above, gradient)
            d_states[1, -1] = 0  # what the first row got there was zero whatever the weights

        # First the factors that depend on no gradient, over all steps at once.
        o, f, i, g = gates.chunk(4, 2)
        d_gates = torch.addcmul(gates, gates, gates, value=-1)  # sigmoid'
        d_o, d_f, d_i, d_g = d_gates.chunk(4, 2)
        d_o *= squashed
        d_f *= cells.index_select(1, order.seen).flatten(1, 2)
        d_i *= 4 * (g - 0.5)
        d_g *= i
        d_g *= 4
        through = o * (0.25 - squashed * squashed)  # dh / dc

        # Then what each step's gradient is multiplied with, from the last step to the first.
        factor_back = factor[:, inputs:].transpose(1, 2).contiguous()
        low = (
            d_gates if factor.dtype == gates.dtype else torch.empty_like(gates, dtype=factor.dtype)
        )
        flat_states, flat_cells = d_states.flatten(1, 2), d_cells.flatten(1, 2)
        parts = zip(
            order.steps,
            d_gates.split_with_sizes(rows, 1),
            low.split_with_sizes(rows, 1),
            d_o.split_with_sizes(rows, 1),
            d_gates[..., width:].view(directions, -1, 3, width).split_with_sizes(rows, 1),
            f.split_with_sizes(rows, 1),
            through.split_with_sizes(rows, 1),
            strict=True,
        )
        for step, d_gates_t, low_t, d_o_t, d_others, f_t, through_t in reversed(list(parts)):
            count = step.count * n
            d_h = flat_states.narrow(1, step.slot * n, count)
            d_c = flat_cells.narrow(1, step.slot * n, count)
            d_c.addcmul_(d_h, through_t)
            d_o_t *= d_h
            d_others *= d_c.unsqueeze(2)
            torch.mul(d_c, f_t, out=flat_cells.narrow(1, (step.taps + 1) * n, count))
            if low is not d_gates:
                low_t.copy_(d_gates_t)
            for tap, d_tap in enumerate(torch.bmm(low_t, factor_back).chunk(order.taps, 2)):
                flat_states.narrow(1, (step.taps + tap) * n, count).add_(d_tap)

        d_weight = torch.bmm(x.flatten(1, 2).transpose(1, 2), low).to(gates.dtype)
        d_bias = (
            d_gates.view(directions, pixels, n, -1).sum(1)
            if ctx.own_bias
            else d_gates.sum(1, keepdim=True)
        )
        d_x = torch.bmm(low, factor[:, :inputs].transpose(1, 2)).view(directions, pixels, n, inputs)
        d_features = d_x[0]
        if directions == 2:
            d_features = d_features + d_x[1].index_select(0, order.mirror)
        d_hidden, d_cell = (
            d.index_select(1, order.outside).sum((1, 2), keepdim=True) for d in (d_states, d_cells)
        )
        return d_features.to(gates.dtype), d_weight, d_bias, d_hidden, d_cell, None, None


def rows_of(order: Order, n: int) -> tuple[list[int], list[int]]:
    """Pixels of each step, and rows of matrices that hold them for n images."""
    counts = [step.count for step in order.steps]
    return counts, [count * n for count in counts]
