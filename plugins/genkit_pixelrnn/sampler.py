"""Sampling pixel by pixel without computing anything twice; exact up to rounding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genkit.autoregressive import Guidance, choose
from genkit_pixelrnn.network import Network

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
    tensors = (images, uniforms, given, known, labels)
    parts = (torch.split(tensor, max(chunk, 1)) for tensor in tensors)
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


def step_cell(gates: Tensor, cell: Tensor, new_cell: Tensor, new_hidden: Tensor) -> None:
    """One step of an LSTM, at the sizes of `Scan`: gates (..., 4h) before their sigmoid, which are
    overwritten, and cell states (..., h)."""
    o, f, i, g = gates.sigmoid_().chunk(4, -1)
    torch.mul(f, cell, out=new_cell)
    new_cell.addcmul_(i, g.sub_(0.5), value=4)
    torch.sigmoid(new_cell, out=new_hidden)
    new_hidden.sub_(0.5).mul_(o)


class _Stack:
    """The LSTMs of all layers while images are drawn, a row at a time.

    Tensors have the layers first: what is known of all layers when a row or a pixel begins is one
    batched product. h has half its size and c twice, as in `Scan`.
    """

    def __init__(self, model: Network, labels: Tensor) -> None:
        lstms, n = [lstm for lstm, _ in model.layers], len(labels)
        first, biases = lstms[0], model.class_biases(labels)
        self.diagonal = model.order.directions == 2
        self.layers, self.columns, self.n = len(lstms), model.image_shape.width, n
        self.width = first.hidden.shape[1]
        scaled = (lstm.scaled(own) for lstm, own in zip(lstms, biases, strict=True))
        parts = zip(*scaled, strict=True)
        weight, bias, hidden, cell = (torch.stack(part, 1) for part in parts)  # (D, L, ...)
        bias = bias.expand(-1, -1, n, -1).repeat(1, 1, self.columns, 1)  # of a row of pixels
        sizes = [first.left, first.own, *[self.width] * model.order.taps]
        left, self.own, *taps = weight[0].split_with_sizes(sizes, 1)
        # Products of a pixel with its left: the state there, or in a Row LSTM the input there.
        self.above, self.left = (taps[:1], taps[1]) if self.diagonal else (taps, left)
        self.bias = bias[0]
        self.start = hidden[0, :, 0].expand(-1, n, -1), cell[0, :, 0].expand(-1, n, -1)
        rows = (self.layers, self.columns, n, self.width)
        self.hidden, self.cell = (s.unsqueeze(1).expand(rows).clone() for s in self.start)
        self.inputs = bias.new_zeros(self.layers, self.columns, n, first.own)
        self.nothing = bias.new_zeros(self.layers, n, first.left)
        self.gates = bias.new_empty(n, 4 * self.width)
        if self.diagonal:
            self.mirrored = weight[1].split_with_sizes(sizes[1:], 1)
            self.mirrored_bias = bias[1]
            self.mirrored_start = hidden[1, :, 0].expand(-1, n, -1), cell[1, :, 0]
            # The second direction's states in the last row, which the next row sees.
            self.last = self.mirrored_start[0].unsqueeze(1).expand(rows).clone()
            self.shifted = torch.zeros_like(self.last)

    def start_row(self) -> None:
        """Compute what the gates of a whole row get from the states of the row above."""
        padding = 0 if self.diagonal else 1
        above = F.pad(self.hidden, (0, 0, 0, 0, padding, padding))
        total = self.bias
        for tap, weight in enumerate(self.above):
            total = torch.baddbmm(total, above[:, tap : tap + self.columns].flatten(1, 2), weight)
        self.from_above = total.view(self.layers, self.columns, self.n, 4 * self.width)

    def start_pixel(self, column: int) -> None:
        """Add what the gates of a pixel get from its left."""
        if self.diagonal:
            hidden, cell = self.hidden, self.cell
            before = [s[:, column - 1] for s in (hidden, cell)] if column else self.start
            left, self.cell_before = before
        else:
            left = self.inputs[:, column - 1] if column else self.nothing
            # It is overwritten in place, while other colours of the pixel may want it again.
            self.cell_before = self.cell[:, column].clone()
        self.known = torch.baddbmm(self.from_above[:, column], left, self.left)  # (L, n, 4h)

    def run(self, layer: int, column: int, features: Tensor, out: Tensor) -> None:
        """Write half of a layer's output for a pixel, (n, h), to `out`; `features` are (n, 2h)."""
        self.inputs[layer, column] = features
        torch.addmm(self.known[layer], features, self.own[layer], out=self.gates)
        hidden, cell = self.hidden[layer, column], self.cell[layer, column]
        step_cell(self.gates, self.cell_before[layer], cell, hidden)
        if self.diagonal:
            torch.add(hidden, self.shifted[layer, column], out=out)
        else:
            out.copy_(hidden)

    def end_row(self) -> None:
        """Run the second direction over the row, from right to left, in all layers at once."""
        if not self.diagonal:
            return
        own, above, right = self.mirrored
        gates = torch.baddbmm(self.mirrored_bias, self.inputs.flatten(1, 2), own)
        gates = gates.baddbmm_(self.last.flatten(1, 2), above)
        gates = gates.view(self.layers, self.columns, self.n, 4 * self.width)
        hidden, cell = self.mirrored_start
        new_cell = torch.empty_like(self.last[:, 0])
        for column in reversed(range(self.columns)):
            now, out = gates[:, column], self.shifted[:, column]
            step_cell(torch.baddbmm(now, hidden, right), cell, new_cell, out)
            hidden, cell = out, new_cell
        self.last = self.shifted


class _Canvas:
    """n images being drawn, with the states of their earlier pixels."""

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
        n, self.colours, self.height, self.width = uniforms.shape
        self.uniforms = uniforms.permute(2, 3, 1, 0).contiguous()  # (H, W, C, n)
        self.given = given.permute(2, 0, 3, 1)  # (H, n, W, C)
        self.kept = known.permute(2, 3, 1, 0)[:, :, 0]  # (H, W, n)
        self.some, self.all = self.kept.any(2).tolist(), self.kept.all(2).tolist()
        self.guidance, self.copies = guidance, 1
        if guidance:  # it looks at known pixels, too
            self.copies = model.image_shape.classes
            self.all = [[False] * self.width for _ in range(self.height)]
        self.temperature = model.sampler.temperature
        self.spacing = 2 / (model.config.levels - 1)
        self.outputs = model.outputs
        self.residual = model.config.residual
        self.stack = _Stack(model, labels)

        # The rows above in a margin of padding, and the current row.
        self.margin = margin = model.first.mask.shape[2] - 1
        self.pixels = uniforms.new_zeros(
            n, self.colours, self.height + margin, self.width + 2 * margin
        )
        self.line = uniforms.new_zeros(n, self.width + margin, self.colours)
        weight = model.first.masked  # (2h, C, 4, 7)
        self.first_above, self.first_bias = weight[:, :, :margin], model.first.bias
        self.positions = model.position_features()
        self.first_line = weight[:, :, margin, : margin + 1].permute(2, 1, 0).flatten(0, 1)

        stream, state = weight.shape[0], self.stack.width
        self.widen = [2 * layer.factors[0] for _, layer in model.layers]
        self.gather, self.gather_bias = model.gather.factors
        self.gather[stream:] *= 2
        self.head = [layer.factors for layer in (model.hidden, model.logits)]
        # What the head sees: the features behind all layers, then each layer's output.
        layers = len(self.widen)
        self.seen = uniforms.new_empty(n, stream + layers * state)
        self.features = self.seen[:, :stream]
        self.states = self.seen[:, stream:].chunk(layers, 1)

    def draw(self, trace: list[Tensor] | None) -> Tensor:
        """Draw all pixels, (n, C, H, W)."""
        margin = self.margin
        inside = self.pixels[:, :, margin:, margin : margin + self.width]
        inside.copy_(self.given.permute(1, 3, 0, 2))
        hidden = [row for row, known in enumerate(self.all) if not all(known)]
        for row in range(hidden[-1] + 1 if hidden else 0):
            strip = self.pixels[:, :, row : row + margin]
            above = F.conv2d(strip, self.first_above, self.first_bias)[:, :, 0]
            self.from_above = above.permute(2, 0, 1).contiguous()  # (W, n, 2h)
            if self.positions is not None:
                self.from_above += self.positions[row, :, None]
            self.stack.start_row()
            self.line[:, margin:] = self.given[row]
            for column in range(self.width):
                self._visit(row, column, trace)
            self.stack.end_row()
            inside[:, :, row] = self.line[:, margin:].transpose(1, 2)
        return inside

    def _visit(self, row: int, column: int, trace: list[Tensor] | None) -> None:
        """Draw one pixel's values, unless all are known, and leave its states in the stack."""
        self.stack.start_pixel(column)
        window = self.line[:, column : column + self.margin + 1].flatten(1)
        pixel = self.line[:, self.margin + column]  # (n, C)
        if self.all[row][column]:
            self._run_layers(column, window)
            return
        for colour in range(self.colours):
            # Features of a colour see the colours before it, so the layers run for each colour;
            # after the last one they are what all later pixels see.
            if colour:
                window = self.line[:, column : column + self.margin + 1].flatten(1)
            self._run_layers(column, window)
            seen = self.seen[:, : len(self.gather)]  # without skip connections, not the states
            hidden = torch.addmm(self.gather_bias, seen, self.gather)
            for weight, bias in self.head:
                hidden = torch.addmm(bias, hidden.relu_(), weight)
            logits = hidden[:, colour * self.outputs :][:, : self.outputs]
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

    def _run_layers(self, column: int, window: Tensor) -> None:
        """Leave in `seen` what the head sees of a pixel; `window` is its line, (n, 4 * C)."""
        features = torch.addmm(self.from_above[column], window, self.first_line)
        for layer, (state, widen) in enumerate(zip(self.states, self.widen, strict=True)):
            self.stack.run(layer, column, features, state)
            if self.residual:
                features.addmm_(state, widen)
            else:
                features = state @ widen
        self.features.copy_(features)
