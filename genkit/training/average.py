"""Averages of a model's weights over training, from which samples are drawn."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from genkit.model import GenerativeModel
from genkit.runs.tree import StateDict
from genkit.sampling.statistics import recompute_statistics

RAMP = 0.05  # early on, the average looks back over this share of the images seen (EDM)


class Average:
    """An exponential moving average of a model's weights.

    Args:
        half_life: in images.
    """

    def __init__(self, model: GenerativeModel, half_life: int) -> None:
        self.half_life = half_life
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._weights: tuple[list[Tensor], list[Tensor]]
        self._weights = (list(self._model.parameters()), list(model.parameters()))
        self._buffers: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for own, new in zip(self._model.buffers(), model.buffers(), strict=True):
            same = self._buffers.setdefault(own.dtype, ([], []))  # copied by one call
            same[0].append(own)
            same[1].append(new)
        self._statistics_due = False
        self._weight = 0.0  # of the model in the next step
        self._held: Tensor | None = None  # the same, if recorded steps read it

    @property
    def model(self) -> GenerativeModel:
        """The averaged weights, with BatchNorm statistics of their own: those of the last batch
        belong to other weights, and are exchanged when somebody looks."""
        if self._statistics_due:
            recompute_statistics(self._model)
            self._statistics_due = False
        return self._model

    def aim(self, images_seen: int, images_per_step: int) -> None:
        """Set how far the next `follow` moves (EDM, Karras et al. 2022, code: half-life in images,
        shorter at first)."""
        half_life = min(self.half_life, RAMP * images_seen)
        weight = 1 - 0.5 ** (images_per_step / half_life)
        if self._held is not None and weight != self._weight:
            self._held.fill_(weight)
        self._weight = weight
        self._statistics_due = True  # after the step that this is for, however it is done

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the model. Buffers are copied."""
        own, new = self._weights
        if self._held is None:
            torch._foreach_lerp_(own, new, self._weight)
        else:
            torch._foreach_lerp_(own, new, [self._held.to(each.dtype) for each in own])
        for buffers in self._buffers.values():
            torch._foreach_copy_(*buffers)

    def hold(self, device: torch.device) -> None:
        """Keep the weight of a step in a tensor from now on, (), which recorded steps read."""
        self._held = torch.zeros((), dtype=torch.float64, device=device)
        self._weight = 0.0

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        return [*self._weights[0], *(own for pair in self._buffers.values() for own in pair[0])]

    def load_state_dict(self, state: StateDict) -> None:
        self._model.load_state_dict(state)
        self._statistics_due = False
