"""The one training loop. It knows phases, not models; it writes no files and prints nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genkit.compute.device import read_scalars
from genkit.compute.ranks import ALONE, Ranks
from genkit.compute.seeds import derive_seed, seed_generators
from genkit.errors import plugin_code
from genkit.model import Batch, GenerativeModel, Loss, Phase
from genkit.phases.contract import check_phases, is_active, parameters_of
from genkit.phases.finite import bad_loss, bad_weights
from genkit.phases.gradients import add_gradient, frozen
from genkit.phases.rates import Rates
from genkit.phases.replay import Logs, NotRecordable, Replays
from genkit.runs.tree import StateDict
from genkit.training.average import Average
from genkit.training.stream import Stream, split

MOST_UNCHECKED = 1000  # losses that are kept on a device until they are read


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
        averages: half-lives of further averages.
        compile: losses by torch.compile. Noise is the same as in eager mode, except for dropout.
        cooldown: share of the budget at its end in which learning rates fall to zero.
        ranks: the processes that train together; the stream gives each its part of a batch.
        replays: records iterations and replays them; None for running each.
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
        averages: Sequence[int] = (),
        compile: bool = False,
        cooldown: float = 0.0,
        ranks: Ranks = ALONE,
        replays: Replays | None = None,
    ) -> None:
        self.ranks = ranks
        self.replays = replays
        self.model = model.train()
        self.stream = stream
        self.seed = seed
        self.precision = precision
        self.accumulate = accumulate
        self.ema_half_life = ema_half_life
        with plugin_code(f"{type(model).__name__}.phases()"):
            self.phases = check_phases(model, model.phases())
            self._rates = Rates(self.phases, cooldown)
        self.draws = max(phase.repeats for phase in self.phases)
        self.step = 0  # iterations done
        self._averages = [Average(model, each) for each in (ema_half_life, *averages) if each]
        self._own: dict[str, list[Tensor]] = {}  # parameters that a phase updates, by its name
        self._others: dict[str, list[Tensor]] = {}  # and those that are frozen meanwhile
        self._compiled: dict[str, Loss] = {}
        # Elsewhere, reading a value waits for the device; and no recorded iteration can do it.
        self.waits = stream.device.type == "cpu" and replays is None
        self.unchecked: list[tuple[int, str, Tensor]] = []
        self._skipped = {p.name: 0 for p in self.phases if p.skip_above is not None}
        self._logs: Logs = {}
        self._progress = 0.0  # before this iteration
        if replays:
            self._rates.hold(stream.device)
            for average in self._averages:
                average.hold(stream.device)
        trainable = [p for p in model.parameters() if p.requires_grad]
        for phase in self.phases:
            own = self._own[phase.name] = parameters_of(phase)
            known = {id(p) for p in own}
            self._others[phase.name] = [p for p in trainable if id(p) not in known]
            if compile and phase.compile:
                self._compiled[phase.name] = torch.compile(
                    phase.loss, options={"fallback_random": True}
                )

    @property
    def images_per_step(self) -> int:
        return self.draws * self.stream.batch_size

    @property
    def images_seen(self) -> int:
        return self.step * self.images_per_step

    @property
    def average(self) -> GenerativeModel:
        """The averaged weights; without an average, the model itself."""
        return self._averages[0].model if self.ema_half_life else self.model

    @property
    def other_averages(self) -> dict[int, GenerativeModel]:
        """The further averages, by their half-lives in images."""
        return {each.half_life: each.model for each in self._averages[bool(self.ema_half_life) :]}

    def iterate(self, progress: float = 0.0) -> Logs:
        """One iteration: every phase that is due. Returns what they log, as scalars; with several
        ranks, the values to log are the sums over the ranks.

        Args:
            progress: share of the budget used before it, 0 to 1.
        """
        self._progress = progress
        self.reseed()
        batches = [self._batch(draw) for draw in range(self.draws)]
        due = [p for p in self.phases if self.step % p.every == 0 and is_active(p, progress)]
        if self.replays is None:
            logs = self.run(due, batches)
        else:
            logs = self.replays.iterate(self, due, batches)
        self.step += 1
        self._logs.update(logs)
        if len(self.unchecked) >= MOST_UNCHECKED:
            self.check_finite()
        return logs

    def reseed(self) -> None:
        """Seed the generators for this iteration."""
        rank = [self.ranks.rank] if self.ranks.rank else []
        seed_generators(self.stream.device, derive_seed(self.seed, "step", self.step, *rank))

    def run(self, due: Sequence[Phase], batches: Sequence[Batch]) -> Logs:
        """All of an iteration but its seed and its batches: phases and averages."""
        parts = [split(batch, self.accumulate) for batch in batches]
        logs: Logs = {}
        for phase in due:
            with frozen(self._others[phase.name]):
                for repeat in range(phase.repeats):
                    found = self._update(phase, parts[repeat], batches[repeat])
            if phase.every > 1 and self.ranks.count > 1:  # all ranks must know what is kept
                sums = self.ranks.sum({name: float(value) for name, value in found.items()})
                found = {name: value / self.ranks.count for name, value in sums.items()}
            logs.update(found)
        self.ranks.copy_buffers(self.model)
        self._aim()
        for average in self._averages:
            average.follow()
        return logs

    def prepare(self, due: Sequence[Phase]) -> dict[str, float]:
        """For `genkit.phases.replay.Iterations`."""
        self._aim()
        rates: dict[str, float] = {}
        of_optimizers: dict[int, list[float]] = {}
        for phase in due:
            if type(phase.optimizer).state_dict is not torch.optim.Optimizer.state_dict:
                raise NotRecordable(f"the optimizer of phase {phase.name!r} has its own state_dict")
            found = self._set_rates(phase)
            own = list(found.values())
            if of_optimizers.setdefault(id(phase.optimizer), own) != own and own:
                raise NotRecordable("phases that share an optimizer set different learning rates")
            rates |= found
        return rates

    def options(self, due: Sequence[Phase]) -> str:
        """For `genkit.phases.replay.Iterations`."""
        return self._rates.options(due)

    def tensors(self) -> list[list[Tensor]]:
        """For `genkit.phases.replay.Iterations`."""
        states = [state for each in self.optimizers for state in each.state.values()]
        counted = [value for s in states for value in s.values() if isinstance(value, Tensor)]
        averaged = [tensor for average in self._averages for tensor in average.tensors()]
        return [list(self.model.parameters()), list(self.model.buffers()), counted, averaged]

    def _aim(self) -> None:
        for average in self._averages:
            average.aim(self.images_seen + self.images_per_step, self.images_per_step)

    def _set_rates(self, phase: Phase) -> dict[str, float]:
        what = f"the optimizer of phase {phase.name!r} in step {self.step + 1}"
        with plugin_code(what, phase.schedule):
            return self._rates.set(phase, self.step, self._progress)

    def _batch(self, draw: int) -> Batch:
        """One of this iteration's batches, counted from 0."""
        batch = self.stream.batch(self.step * self.draws + draw)
        batch.step, batch.images_seen, batch.progress = self.step, self.images_seen, self._progress
        return batch

    def take_logs(self) -> dict[str, float]:
        """The last value of all that was logged since this was last called, as `iterate` returns
        them; waits for the device, once. So phases that do not always run are logged, too."""
        tensors = {name: v for name, v in self._logs.items() if isinstance(v, Tensor)}
        read = dict(zip(tensors, read_scalars(list(tensors.values())), strict=True))
        values = {name: read.get(name, value) for name, value in self._logs.items()}
        self._logs.clear()
        return {name: float(value) for name, value in values.items()}

    def _update(self, phase: Phase, parts: list[Batch], batch: Batch) -> Logs:
        """One step of a phase's optimizer on one batch, given in parts and as a whole. Returns
        scalars."""
        name, parameters = phase.name, self._own[phase.name]
        losses: dict[str, Tensor] = {}
        phase.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            share = len(part.images) / self.stream.batch_size
            with plugin_code(f"the loss of phase {name!r} in step {self.step + 1}", phase.loss):
                loss_of = self._compiled.get(name, phase.loss)
                precision = phase.precision or self.precision
                losses.update(add_gradient(name, loss_of, part, share, losses, precision))
        loss = self.ranks.sum_gradients(parameters, losses[f"{name}/loss"])
        self.unchecked.append((self.step + 1, name, loss))
        if self.waits:
            self.check_finite()
        logs: Logs = {**losses}
        if phase.clip is not None or phase.skip_above is not None:
            clip = math.inf if phase.clip is None else phase.clip
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            logs[f"{name}/gradient_norm"] = norm / self.ranks.count
            if phase.skip_above is not None:
                skip = not norm <= phase.skip_above  # a norm that is not a number, too
                self._skipped[name] += skip
                logs[f"{name}/skipped"] = self._skipped[name] / self.ranks.count
                if skip:
                    return logs
        rates = self._set_rates(phase)
        with plugin_code(f"the optimizer of phase {name!r} in step {self.step + 1}"):
            phase.optimizer.step()
        logs.update({name: rate / self.ranks.count for name, rate in rates.items()})
        if phase.after is not None:
            what = f"what comes after phase {name!r} in step {self.step + 1}"
            with torch.no_grad(), plugin_code(what, phase.after):
                phase.after(batch)
        return logs

    def check_finite(self) -> None:
        """Raise TrainingError, naming phase and step, if a loss since the last check was not
        finite; waits for the device, once."""
        unchecked, self.unchecked = self.unchecked, []
        values = read_scalars([loss for _, _, loss in unchecked])
        for (step, phase, loss), value in zip(unchecked, values, strict=True):
            if not math.isfinite(value):
                raise bad_loss(self.model, self._own, phase, loss, step)

    def check_weights(self) -> None:
        """`check_finite`, and the same for the weights, which finite losses do not prove finite."""
        self.check_finite()
        tensors = [
            t for t in self.model.state_dict().values() if t.is_floating_point() and t.numel()
        ]
        if not torch.stack(torch._foreach_norm(tensors)).isfinite().all():  # one wait for a GPU
            raise bad_weights(self.model, self._own, self.step)

    def state_dict(self) -> StateDict:
        """All that resuming needs; data order and noise follow from the step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.ema_half_life else {},
            "averages": {str(k): v.state_dict() for k, v in self.other_averages.items()},
            "optimizers": [self._rates.state_of(optimizer) for optimizer in self.optimizers],
            "skipped": dict(self._skipped),
            "logs": dict(self._logs),
        }

    def load_state_dict(self, state: StateDict) -> None:
        self.model.load_state_dict(state["model"])
        others = list(state.get("averages", {}).values())
        saved = [state["average"], *others] if self.ema_half_life else others
        for average, content in zip(self._averages, saved, strict=True):
            average.load_state_dict(content)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            with plugin_code(f"{type(optimizer).__name__}.load_state_dict()"):
                optimizer.load_state_dict(saved)
        self._rates.note_initial()
        if self.replays:
            self._rates.hold(self.stream.device)
            self.replays.forget()
        self._skipped |= state.get("skipped", {})
        self._logs = dict(state.get("logs", {}))
        self.step = state["step"]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Each optimizer once, in the order of the phases."""
        return list({id(phase.optimizer): phase.optimizer for phase in self.phases}.values())
