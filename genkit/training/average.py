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

    @property
    def model(self) -> GenerativeModel:
        """The averaged weights, with BatchNorm statistics of their own: those of the last batch
        belong to other weights, and are exchanged when somebody looks."""
        if self._statistics_due:
            recompute_statistics(self._model)
            self._statistics_due = False
        return self._model

    @torch.no_grad()
    def follow(self, images_seen: int, images_per_step: int) -> None:
        """Move towards the model (EDM, Karras et al. 2022, code: half-life in images, shorter at
        first). Buffers are copied."""
        half_life = min(self.half_life, RAMP * images_seen)
        weight = 1 - 0.5 ** (images_per_step / half_life)
        torch._foreach_lerp_(*self._weights, weight)
        for buffers in self._buffers.values():
            torch._foreach_copy_(*buffers)
        self._statistics_due = True

    def load_state_dict(self, state: StateDict) -> None:
        self._model.load_state_dict(state)
        self._statistics_due = False
