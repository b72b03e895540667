"""The one training loop. It knows phases, not models; it writes no files and prints nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genkit.compute.device import autocast
from genkit.compute.ranks import ALONE, Ranks
from genkit.compute.seeds import derive_seed, seed_generators
from genkit.errors import PluginError, TrainingError, plugin_code
from genkit.model import Batch, GenerativeModel, Phase
from genkit.training.stream import Stream

RAMP = 0.05  # early on, the average looks back over this share of the images seen (EDM)


class Loop:
    """Training of one model on one stream, an iteration at a time.

    All random numbers of an iteration follow from (seed, step): the generators are seeded again
    at its start, so that sampling or scoring between iterations changes nothing.

    Args:
        model: on its device; its `phases()` is called here.
        stream: the training images.
        seed: the run's.
        precision: "fp32" or "bf16".
        accumulate: number of parts that each batch is split into. Gradients add up to those of
            the whole batch, except that BatchNorm sees the parts one by one.
        ema_half_life: in images; 0 keeps no average, and `average` is the model itself.
        compile: losses by torch.compile. Noise is the same as in eager mode, except for dropout.
        ranks: the processes that train together; the stream gives each its part of a batch.
    """

    def __init__(
        self,
        model: GenerativeModel,
        stream: Stream,
        *,
        seed: int,
        precision: str = "fp32",
        accumulate: int = 1,
        ema_half_life: int = 0,
        compile: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.model = model.train()
        self.stream = stream
        self.seed = seed
        self.precision = precision
        self.accumulate = accumulate
        self.ema_half_life = ema_half_life
        with plugin_code(f"{type(model).__name__}.phases()"):
            self.phases = _checked(model.phases())
        self.draws = max(phase.repeats for phase in self.phases)
        self.step = 0  # iterations done
        self.average = model
        if ema_half_life:
            self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged: tuple[list[Tensor], list[Tensor]]
        self._averaged = (list(self.average.parameters()), list(model.parameters()))
        self._copied = list(zip(self.average.buffers(), model.buffers(), strict=True))
        self._own: dict[str, list[Tensor]] = {}  # parameters that a phase updates, by its name
        self._others: dict[str, list[Tensor]] = {}  # and those that are frozen meanwhile
        self._compiled: dict[str, Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]] = {}
        self._unchecked: list[tuple[int, str, Tensor]] = []
        trainable = [p for p in model.parameters() if p.requires_grad]
        for phase in self.phases:
            groups = phase.optimizer.param_groups
            for group in groups:
                group.setdefault("initial_lr", group["lr"])  # as torch's own schedulers do
            own = self._own[phase.name] = [p for group in groups for p in group["params"]]
            known = {id(p) for p in own}
            self._others[phase.name] = [p for p in trainable if id(p) not in known]
            if compile:
                self._compiled[phase.name] = torch.compile(
                    phase.loss, options={"fallback_random": True}
                )

    @property
    def images_per_step(self) -> int:
        return self.draws * self.stream.batch_size

    @property
    def images_seen(self) -> int:
        return self.step * self.images_per_step

    def iterate(self) -> dict[str, Tensor]:
        """One iteration: every phase that is due. Returns what they log, as scalar tensors; with
        several ranks, the values to log are the sums over the ranks."""
        rank = [self.ranks.rank] if self.ranks.rank else []
        seed_generators(self.stream.device, derive_seed(self.seed, "step", self.step, *rank))
        parts = [
            _split(self.stream.batch(self.step * self.draws + draw), self.accumulate)
            for draw in range(self.draws)
        ]
        logs: dict[str, Tensor] = {}
        for phase in self.phases:
            if self.step % phase.every == 0:
                with self._only(phase):
                    for repeat in range(phase.repeats):
                        logs.update(self._update(phase, parts[repeat]))
        self.step += 1
        self.ranks.copy_buffers(self.model)
        self._follow()
        return logs

    def _update(self, phase: Phase, parts: list[Batch]) -> dict[str, Tensor]:
        """One step of a phase's optimizer on one batch, given in parts. Returns scalars."""
        logs: dict[str, Tensor] = {}
        phase.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            share = len(part.images) / self.stream.batch_size
            with plugin_code(f"the loss of phase {phase.name!r} in step {self.step + 1}"):
                logs.update(self._backward(phase, part, share, logs))
        loss = self.ranks.sum_gradients(self._own[phase.name], logs[f"{phase.name}/loss"])
        self._unchecked.append((self.step + 1, phase.name, loss))
        if loss.device.type == "cpu":  # on a GPU, reading a value would wait for the device
            self.check_finite()
        if phase.clip is not None:
            norm = nn.utils.clip_grad_norm_(self._own[phase.name], phase.clip)
            logs[f"{phase.name}/gradient_norm"] = norm / self.ranks.count
        with plugin_code(f"the optimizer of phase {phase.name!r} in step {self.step + 1}"):
            if phase.schedule is not None:
                factor = phase.schedule(self.step)
                for group in phase.optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
            phase.optimizer.step()
        return logs

    def _backward(
        self, phase: Phase, part: Batch, share: float, before: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add the gradient of a part, `share` of the batch; returns scalars to log, added to those
        of the parts `before`."""
        logs: dict[str, Tensor] = {}
        with autocast(part.images.device, self.precision):
            loss, extras = self._compiled.get(phase.name, phase.loss)(part)
        if loss.ndim:
            raise ValueError(f"it is not a scalar: {tuple(loss.shape)}")
        for name, value in {"loss": loss, **extras}.items():
            key, value = f"{phase.name}/{name}", value.detach()
            if share < 1:
                value = value.float() * share + before.get(key, 0)
            logs[key] = value
        torch.autograd.backward(loss * share if share < 1 else loss)
        return logs

    @contextmanager
    def _only(self, phase: Phase) -> Iterator[None]:
        """Freeze all parameters that are not the phase's own."""
        frozen = self._others[phase.name]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the model (EDM, Karras et al. 2022, code: half-life in images,
        shorter at first). Buffers such as BatchNorm's are copied."""
        if not self.ema_half_life:
            return
        half_life = min(self.ema_half_life, RAMP * self.images_seen)
        weight = 1 - 0.5 ** (self.images_per_step / half_life)
        torch._foreach_lerp_(*self._averaged, weight)
        for own, new in self._copied:
            own.copy_(new)

    def check_finite(self) -> None:
        """Raise TrainingError, naming phase and step, if a loss since the last check was not
        finite."""
        for step, phase, loss in self._unchecked:
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss of phase {phase!r} became {loss.item()} in step {step}; try a "
                    "smaller learning rate, a smaller clip or --precision fp32"
                )
        self._unchecked.clear()

    def check_weights(self) -> None:
        """`check_finite`, and the same for the weights, which finite losses do not prove finite."""
        self.check_finite()
        tensors = [
            t for t in self.model.state_dict().values() if t.is_floating_point() and t.numel()
        ]
        if torch.stack(torch._foreach_norm(tensors)).isfinite().all():
            return  # the device was waited for once
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise TrainingError(
                    f"{name!r} is no longer finite after step {self.step}; try a smaller learning "
                    "rate or --precision fp32"
                )

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs; data order and noise follow from the step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.ema_half_life else {},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema_half_life:
            self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Each optimizer once, in the order of the phases."""
        return list({id(phase.optimizer): phase.optimizer for phase in self.phases}.values())


def _checked(phases: list[Phase]) -> list[Phase]:
    """The phases, or PluginError for a list that the loop cannot follow."""
    if not isinstance(phases, list) or not all(isinstance(phase, Phase) for phase in phases):
        raise PluginError(f"phases() must return a list of Phase, got {phases!r:.80}")
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) != len(names):
        raise PluginError(f"phases() must return phases with names of their own, got {names}")
    for phase in phases:
        if phase.repeats < 1 or phase.every < 1:
            raise PluginError(f"phase {phase.name!r}: repeats and every start at 1")
    return phases


def _split(batch: Batch, count: int) -> list[Batch]:
    """A batch in at most `count` parts of nearly equal size."""
    if count == 1:
        return [batch]
    images = batch.images.tensor_split(min(count, len(batch.images)))
    if batch.labels is None:
        return [Batch(part) for part in images]
    labels = batch.labels.tensor_split(len(images))
    return [Batch(*pair) for pair in zip(images, labels, strict=True)]
