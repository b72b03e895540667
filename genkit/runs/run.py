"""Runs loaded for use: a model and its averaged weights, out of a run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkit.compute.device import choose_device
from genkit.config.sampler import sampler_of
from genkit.errors import UsageError, plugin_code
from genkit.io.run_directory import RunDir
from genkit.io.run_records import RunRecord, Summary
from genkit.model import GenerativeModel, to_bytes, to_unit_range
from genkit.registry.catalogue import Registry
from genkit.runs.build import load_model
from genkit.sampling.completion import complete
from genkit.sampling.draw import CHUNK, draw
from genkit.sampling.grids import make_grid
from genkit.sampling.latents import interpolate
from genkit.specs import SamplerConfig

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Run:
    """A run loaded for use: its directory, its config.json and its model with averaged weights."""

    directory: RunDir
    record: RunRecord
    model: GenerativeModel
    registry: Registry
    best: bool = False  # rather than the last weights
    sampling: SamplerConfig = field(default_factory=SamplerConfig)

    @property
    def path(self) -> Path:
        return self.directory.path

    def sample(
        self, n: int, seed: int = 0, *, labels: str | int | Sequence[str | int] | None = None
    ) -> Tensor:
        """n samples as uint8, (n, C, H, W). Image i of a seed is the same whatever n is.

        Args:
            labels: of models that follow them: a class for all, by name or number, or one for each;
                "balanced" for all classes in turn. By default they are drawn from the classes'
                shares of the training images.
        """
        return draw(self.model, n, seed, labels=self.numbers_of(labels))

    def numbers_of(
        self, labels: str | int | Sequence[str | int] | None
    ) -> str | int | list[int] | None:
        """Labels with numbers of classes in place of names; UsageError for an unknown name."""
        names = self.record.data.classes

        def number(label: str | int) -> int:
            if not isinstance(label, str):
                return label
            if label not in names:
                raise UsageError(
                    f"there is no class {label!r}; classes are {', '.join(names) or 'not named'}"
                )
            return names.index(label)

        if labels is None or labels == "balanced":
            return labels
        return number(labels) if isinstance(labels, (str, int)) else [number(x) for x in labels]

    def grid(self, n: int = 64, seed: int = 0) -> Image.Image:
        """n samples side by side."""
        return make_grid(self.sample(n, seed))

    def interpolate(
        self, rows: int = 8, steps: int = 9, seed: int = 0, *, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Ways from sample 2j of a seed to 2j + 1, a row each: uint8, (rows, steps, C, H, W);
        UsageError for models without latents."""
        images = interpolate(self.model, rows, steps, seed, labels)
        if images is None:
            raise UsageError(
                f"{self.record.model} has no latents to interpolate between; models that make "
                "an image of noise in one go have them, such as GANs, VAEs and flows"
            )
        return images

    def complete(
        self,
        images: Tensor,
        known: Tensor,
        n: int = 6,
        seed: int = 0,
        *,
        labels: Sequence[int] | None = None,
    ) -> Tensor:
        """n completions of each image: uint8, (N, n, C, H, W); UsageError for models that cannot.

        Completion k depends on the run, the seed, the image, what of it is known and k alone.

        Args:
            images: uint8, (N, C, H, W).
            known: bool, (1, H, W); pixels that are not known are drawn given those that are.
            labels: a class for each image, for models that follow labels.
        """
        rows = []
        for i, image in enumerate(images):
            label = None if labels is None else labels[i]
            row = complete(self.model, image.expand(n, *image.shape), known, seed, label)
            if row is None:
                raise UsageError(
                    f"{self.record.model} cannot complete images; models that draw pixel by "
                    "pixel can"
                )
            rows.append(row)
        return torch.stack(rows)

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Images, uint8, (N, C, H, W), as the model sees them, the same; None for models that
        encode nothing."""
        with torch.no_grad(), plugin_code(f"{type(self.model).__name__}.reconstruct()"):
            parts = [
                self.model.reconstruct(to_unit_range(part.to(self.model.device)))
                for part in torch.split(images, CHUNK)
            ]
        found = [to_bytes(part).cpu() for part in parts if part is not None]
        return torch.cat(found) if found else None

    @property
    def sampler(self) -> dict[str, Any]:
        """The options of the sampler that are not at their defaults, by name."""
        return self.sampling.model_dump(mode="json", exclude_defaults=True)

    @property
    def name(self) -> str:
        """The model's name, with the options of the sampler that are not at their defaults."""
        options = ",".join(f"{key}={value}" for key, value in self.sampler.items())
        return f"{self.record.model}@{options}" if options else self.record.model

    @property
    def summary(self) -> Summary | None:
        """Steps, images and seconds of training so far; None for an exported run."""
        return self.directory.summary()


def load_run(
    path: Path | str,
    registry: Registry,
    device: str = "auto",
    *,
    best: bool = False,
    sampler: Mapping[str, Any] | None = None,
) -> Run:
    """Load a run for sampling. Needs its plugin, but neither its data set nor its checkpoints.

    Args:
        best: take the weights whose samples scored best in training, not the last ones.
        sampler: options of the model's sampler that are not to be at their defaults, by name.

    Raises:
        UsageError: the path is not a run, or its plugin is missing.
        CheckpointError: the weights are missing, damaged or of another model.
    """
    directory = RunDir.open(Path(path))
    record = directory.record()
    spec = registry.trainer_of(record)
    sampling = sampler_of(spec, sampler or {})
    model = load_model(directory, record, registry, best=best, device=choose_device(device))
    if spec.sampler.model_fields:
        model.sampler = sampling
    return Run(directory, record, model.eval(), registry, best, sampling)
