"""Sampling pixel by pixel without computing anything twice; exact up to rounding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genkit.autoregressive import Guidance, choose
from genkit_pixelcnn.layers import GatedLayer
from genkit_pixelcnn.network import Network

CHUNK_IMAGES = 64  # on a CPU more images a pass fall out of its cache


def draw_images(
    model: Network,
    uniforms: Tensor,
    trace: list[Tensor] | None = None,
    *,
    given: Tensor | None = None,
    known: Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Images whose every value is its distribution's inverse at `uniforms`, (n, C, H, W).

    Args:
        trace: receives the logits of each value that is drawn, (chunk, outputs), in their order,
            before the model's temperature divides them.
        given: (n, C, H, W), at the levels' values; taken instead of a draw where `known`, bool,
            (n, 1, H, W), says so.
        labels: int64, (n,), for a conditional model.
    """
    images = torch.empty_like(uniforms)
    copies = model.image_shape.classes if model.guided else 1  # of each image, one by class
    chunk = CHUNK_IMAGES // copies if uniforms.device.type == "cpu" else len(uniforms)
    if given is None or known is None:
        given, known = uniforms, torch.zeros_like(uniforms[:, :1], dtype=torch.bool)
    if labels is None:
        labels = torch.zeros(len(uniforms), dtype=torch.int64, device=uniforms.device)
    parts = (tensor.split(max(chunk, 1)) for tensor in (images, uniforms, given, known, labels))
    with torch.inference_mode():
        for out, draws, values, kept, own in zip(*parts, strict=True):
            guidance = None
            if model.guided:
                guidance = Guidance(own, model.log_shares, model.sampler.guidance)
                draws, values, kept = (
                    x.repeat_interleave(copies, 0) for x in (draws, values, kept)
                )
                own = torch.arange(copies, device=own.device).repeat(len(own))
            canvas = _Canvas(model, draws, values, kept, own, guidance)
            out.copy_(canvas.draw(trace)[::copies])
    return images


class _Gated:
    """Features (m, 2c) in front of a gate, halved: then a gate takes two operations.

    From halves of what `model.gate` takes, t_a * (1 + t_b) with t = tanh of them is four times
    its value tanh(a / 2) * sigmoid(b) / 2. Folding powers of two into weights rounds nothing.
    """

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole
        self.a, self.b = whole.chunk(2, dim=1)  # views, made once as making them takes time

    def gate(self, out: Tensor) -> None:
        """Write four times the gate to `out`, (m, c), leaving nothing of use in `whole`."""
        self.whole.tanh_()
        torch.addcmul(self.a, self.a, self.b, out=out)


class _Vertical:
    """What the vertical stack keeps of one layer after the first: weights and the last rows.

    A row is (W + 2 * reach, n, c), so that each tap of the convolution is one contiguous matrix.
    """

    def __init__(self, layer: GatedLayer, width: int, n: int, own: Tensor | None) -> None:
        """`own` is what the images' classes add, (n, 2c), None if there are no classes."""
        channels, self.reach = layer.residual.in_features, layer.reach
        # 1 / 2 is for `_Gated`, 1 / 4 makes up for what it returned.
        taps = layer.vertical.weight.permute(2, 3, 1, 0).contiguous()
        self.taps: Tensor = 0.125 * taps  # (2, 3, c, 2c)
        assert layer.vertical.bias is not None
        self.bias = 0.5 * layer.vertical.bias  # (2c,), or (W * n, 2c) with classes
        if own is not None:
            self.bias = (self.bias + 0.5 * own).repeat(width, 1)
        rows = self.bias.new_zeros(self.reach + 1, width + 2 * self.reach, n, channels)
        self.slots: list[Tensor] = [row[self.reach :][:width].view(-1, channels) for row in rows]
        self.windows = [
            [row[tap * self.reach :][:width].view(-1, channels) for tap in range(3)] for row in rows
        ]  # (W * n, c) each
        self.features = _Gated(self.bias.new_empty(width * n, 2 * channels))

    def slot(self, row: int) -> Tensor:
        """Where the input of a row goes, (W * n, c): over the one of `reach` + 1 rows ago."""
        return self.slots[row % len(self.slots)]

    def run(self, row: int, out: Tensor) -> None:
        """Write four times the vertical features of a row, (W * n, c), to `out`."""
        now = self.windows[row % len(self.windows)]
        features = torch.addmm(self.bias, now[0], self.taps[1, 0], out=self.features.whole)
        features.addmm_(now[1], self.taps[1, 1]).addmm_(now[2], self.taps[1, 2])
        if row >= self.reach:
            past = self.windows[(row + 1) % len(self.windows)]
            for window, tap in zip(past, self.taps[0], strict=True):
                features.addmm_(window, tap)
        self.features.gate(out)


class _Canvas:
    """n images being drawn, with all that was computed for their earlier pixels.

    When a row starts, the vertical stack runs once for that row and leaves in `links`, for each
    column and layer, what the horizontal stack's gates get from it. A pixel then adds what comes
    from its left, one product for all layers, and what comes from itself, layer by layer.
    """

    def __init__(
        self,
        model: Network,
        uniforms: Tensor,
        given: Tensor,
        known: Tensor,
        labels: Tensor,
        guidance: Guidance | None = None,
    ) -> None:
        """With guidance, the n images are copies of fewer, one after the other by class."""
        n, colours, height, width = uniforms.shape
        first, *others = model.layers
        biases = model.class_biases(labels)
        self.first_biases = [] if biases[0] is None else [0.5 * bias for bias in biases[0]]
        self.height, self.width, self.n = height, width, n
        self.temperature = model.sampler.temperature
        self.colours = colours
        self.uniforms = uniforms.permute(2, 3, 1, 0).contiguous()  # (H, W, C, n)
        self.given = given.permute(2, 0, 3, 1)  # (H, n, W, C)
        self.kept = known.permute(2, 3, 1, 0)[:, :, 0]  # (H, W, n)
        self.some, self.all = self.kept.any(2).tolist(), self.kept.all(2).tolist()
        self.guidance, self.copies = guidance, 1
        if guidance:  # it looks at known pixels, too
            self.copies = model.image_shape.classes
            self.all = [[False] * width for _ in range(height)]
        self.spacing = 2 / (model.config.levels - 1)

        # Drawn pixels below `margin` rows of padding, and the current row's right of as many
        # columns: the first layer sees `margin` of them after the shift.
        self.margin = first.reach + 1
        self.pixels = uniforms.new_zeros(n, colours, height + self.margin, width + 2 * first.reach)
        self.line = uniforms.new_zeros(n, width + self.margin, colours)
        # On images of value 0 the first layer yields all in it that depends on no pixel.
        above, left = model.stack_inputs(uniforms.new_zeros(1, height, width, colours))
        window, link = first.horizontal.weight.split([first.taps, model.config.channels], dim=1)
        self.first_constants = [
            0.5 * constant[0].unsqueeze(2)
            for constant in (
                first.convolve(above),
                F.linear(torch.cat(first.window(left), dim=3), window, first.horizontal.bias),
            )
        ]  # vertical and horizontal, (H, W, 1, 2c)
        self.first_vertical = 0.5 * first.vertical.weight[:, :colours]  # (2c, C, 4, 7)
        window = window.unflatten(1, (self.margin, -1))[..., :colours]  # (2c, 4, C)
        self.first_horizontal = 0.5 * window.flatten(1).t().contiguous()  # (4 * C, 2c)

        # 1 / 2 is for `_Gated`, 1 / 4 makes up for what it returns.
        self.vertical = [
            _Vertical(layer, width, n, own and own[0])
            for layer, own in zip(others, biases[1:], strict=True)
        ]
        self.residuals = [0.25 * _matrix(layer.residual.weight) for layer in model.layers]
        # (2c,) each, or (n, 2c) with classes
        self.link_biases = [
            0.5 * (layer.horizontal.bias if own is None else layer.horizontal.bias + own[1])
            for layer, own in zip(others, biases[1:], strict=True)
        ]
        self.link_weights = [0.125 * _matrix(link)]
        past, self.now = [], []
        for layer in others:
            left, here, link = layer.horizontal.weight.chunk(3, dim=1)
            past.append(0.5 * _matrix(left))
            self.now.append(0.5 * _matrix(here))
            self.link_weights.append(0.125 * _matrix(link))
        self.past = torch.stack(past) if others else None  # (layers - 1, c, 2c)
        self._make_buffers(model.config.channels)

        self.hidden = _matrix(model.hidden.weight), model.hidden.bias  # (c, C * c)
        self.known = [_matrix(layer.weight) for layer in model.known]  # (colour, c) each
        self.heads = [(_matrix(layer.weight), layer.bias) for layer in model.logits]

    def _make_buffers(self, channels: int) -> None:
        n, width, like = self.n, self.width, self.pixels
        self.last_vertical = like.new_empty(width * n, channels)
        self.links = like.new_empty(width, len(self.residuals), n, 2 * channels)
        self.column_links = [[_Gated(link) for link in column] for column in self.links]
        # An input of layer l lies `reach` columns further right than it belongs: what column j
        # needs from its left is then side by side for all layers, whatever their dilations.
        reaches = [layer.reach for layer in self.vertical]
        self.left = like.new_zeros(width + max(reaches, default=0), len(reaches), n, channels)
        self.features = like.new_empty(n, channels)
        self.column_inputs = [
            [*(self.left[column + reach, i] for i, reach in enumerate(reaches)), self.features]
            for column in range(width)
        ]
        self.gated = like.new_empty(n, channels)
        self.column_pixels = self.line[:, self.margin :].unbind(1)  # (n, C) each
        self.column_windows = [
            self.line[:, column : column + self.margin].flatten(1) for column in range(width)
        ]  # (n, margin * C) each

    def draw(self, trace: list[Tensor] | None) -> Tensor:
        """Draw all pixels, (n, C, H, W)."""
        inside = self.pixels[:, :, self.margin :, self.margin - 1 :][..., : self.width]
        for row in range(self.height):
            self._start_row(row)
            self.line[:, self.margin :] = self.given[row]
            hidden = [column for column, known in enumerate(self.all[row]) if not known]
            for column in range(hidden[-1] + 1 if hidden else 0):
                self._run_horizontal(column)
                if not self.all[row][column]:
                    self._draw_colours(row, column, trace)
            inside[:, :, row] = self.line[:, self.margin :].transpose(1, 2)
        return inside

    def _start_row(self, row: int) -> None:
        """Run the vertical stack and fill `links`."""
        vertical_constant, horizontal_constant = (c[row] for c in self.first_constants)
        if self.first_biases:  # (W, 1, 2c) and (n, 2c) make (W, n, 2c)
            vertical_constant = vertical_constant + self.first_biases[0]
            horizontal_constant = horizontal_constant + self.first_biases[1]
        strip = self.pixels[:, :, row : row + self.margin]
        features = F.conv2d(strip, self.first_vertical)[:, :, 0].permute(2, 0, 1)  # (W, n, 2c)
        outs = [*(layer.slot(row) for layer in self.vertical), self.last_vertical]
        _Gated((features + vertical_constant).flatten(0, 1)).gate(outs[0])
        for layer, out in zip(self.vertical, outs[1:], strict=True):
            layer.run(row, out)
        biases = [horizontal_constant, *self.link_biases]
        for i, (out, weight, bias) in enumerate(zip(outs, self.link_weights, biases, strict=True)):
            link = (out @ weight).unflatten(0, (self.width, self.n))  # (W, n, 2c)
            torch.add(link, bias, out=self.links[:, i])

    def _run_horizontal(self, column: int) -> None:
        """Leave the features of one pixel, (n, c), in `features`."""
        links, inputs, gated = self.column_links[column], self.column_inputs[column], self.gated
        if self.past is not None:
            self.links[column, 1:].baddbmm_(self.left[column], self.past)
        links[0].whole.addmm_(self.column_windows[column], self.first_horizontal)
        links[0].gate(gated)
        features = torch.mm(gated, self.residuals[0], out=inputs[0])
        for link, now, residual, out in zip(
            links[1:], self.now, self.residuals[1:], inputs[1:], strict=True
        ):
            link.whole.addmm_(features, now)
            link.gate(gated)
            features = torch.addmm(features, gated, residual, out=out)

    def _draw_colours(self, row: int, column: int, trace: list[Tensor] | None) -> None:
        """Draw one pixel's values, the later colours knowing the earlier, into `line`."""
        weight, bias = self.hidden
        hidden = torch.addmm(bias, self.features.relu_(), weight).chunk(self.colours, dim=1)
        pixel = self.column_pixels[column]  # (n, C)
        for colour, (weight, bias) in enumerate(self.heads):
            if colour:
                hidden[colour].addmm_(pixel[:, :colour], self.known[colour - 1])
            logits = torch.addmm(bias, hidden[colour].relu_(), weight)  # (n, outputs)
            if trace is not None:
                trace.append(logits)
            if self.guidance:
                logits = self.guidance.logits(logits)
            if self.temperature != 1:
                logits = logits / self.temperature
            level = choose(logits, self.uniforms[row, column, colour, :: self.copies])  # (n,)
            if self.copies > 1:
                level = level.repeat_interleave(self.copies)
            torch.mul(level, self.spacing, out=pixel[:, colour]).sub_(1)
            if self.some[row][column]:
                given = self.given[row, :, column, colour]
                torch.where(self.kept[row, column], given, pixel[:, colour], out=pixel[:, colour])
            if self.guidance:
                values = pixel[:: self.copies, colour]
                self.guidance.see(((values + 1) / self.spacing).round().long())


def _matrix(weight: Tensor) -> Tensor:
    """A weight (out, in) as the right factor of a product, (in, out)."""
    return weight.t().contiguous()
