"""Runs loaded for use: a model and its averaged weights, out of a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from genkit.compute.device import choose_device, place
from genkit.config.validation import quoted, validate
from genkit.errors import PluginError, UsageError, printable
from genkit.io.files import read_json
from genkit.io.run_directory import RunDir
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry
from genkit.runs import checkpoint
from genkit.runs.build import build_model
from genkit.sampling import draw as sampling
from genkit.sampling.completion import complete
from genkit.sampling.grids import make_grid
from genkit.sampling.latents import interpolate
from genkit.specs import Config, ImageShape

if TYPE_CHECKING:
    from PIL import Image

C = TypeVar("C", bound=Config)
MOST_PIXELS = 8192  # a side, of the images a run's config.json may ask for
MOST_CLASSES = 1_000_000


@dataclass
class Run:
    """A run loaded for use: its directory, its config and its model with averaged weights."""

    directory: RunDir
    config: dict[str, Any]
    model: GenerativeModel
    registry: Registry
    best: bool = False  # rather than the last weights

    @property
    def path(self) -> Path:
        return self.directory.path

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n samples as uint8, (n, C, H, W). Image i of a seed is the same whatever n is."""
        return sampling.draw(self.model, n, seed)

    def grid(self, n: int = 64, seed: int = 0) -> Image.Image:
        """n samples side by side."""
        return make_grid(self.sample(n, seed))

    def interpolate(self, rows: int = 8, steps: int = 9, seed: int = 0) -> Tensor:
        """Ways from sample 2j of a seed to 2j + 1, a row each: uint8, (rows, steps, C, H, W);
        UsageError for models without latents."""
        images = interpolate(self.model, rows, steps, seed)
        if images is None:
            raise UsageError(
                f"{self.config['model']} has no latents to interpolate between; models that make "
                "an image of noise in one go have them, such as GANs, VAEs and flows"
            )
        return images

    def complete(self, images: Tensor, known: Tensor, n: int = 6, seed: int = 0) -> Tensor:
        """n completions of each image: uint8, (N, n, C, H, W); UsageError for models that cannot.

        Completion k depends on the run, the seed, the image, what of it is known and k alone.

        Args:
            images: uint8, (N, C, H, W).
            known: bool, (1, H, W); pixels that are not known are drawn given those that are.
        """
        rows = []
        for image in images:
            row = complete(self.model, image.expand(n, *image.shape), known, seed)
            if row is None:
                raise UsageError(
                    f"{self.config['model']} cannot complete images; models that draw pixel by "
                    "pixel can, such as PixelCNN"
                )
            rows.append(row)
        return torch.stack(rows)

    @property
    def summary(self) -> dict[str, Any]:
        """Steps, images and seconds of training so far."""
        path = self.path / "summary.json"
        return dict(read_json(path)) if path.exists() else {}


def load_run(
    path: Path | str, registry: Registry, device: str = "auto", *, best: bool = False
) -> Run:
    """Load a run for sampling. Needs its plugin, but neither its data set nor its checkpoints.

    `best` takes the weights whose samples scored best while it trained, not the last ones.

    Raises UsageError for a path that is no run or whose plugin is missing, CheckpointError for
    weights that are missing, damaged or of another model.
    """
    directory = RunDir.open(Path(path))
    config = directory.config()
    spec = registry.trainer_of(config)
    with registry.as_made(config):
        options = read_values(spec.config, config["options"], directory)
        shape = read_shape(config, directory)
        weights = checkpoint.best_weights(directory.checkpoints) if best else directory.weights_path
        try:  # config.json may ask for a model that fills any memory: first of all a plan of it
            with torch.device("meta"):
                plan = build_model(spec, options, shape, seed=0)
        except PluginError:  # not every model can be built without memory
            plan = build_model(spec, options, shape, seed=0)
        tensors = checkpoint.read_weights(weights, plan)
        model = build_model(spec, options, shape, seed=0)
        place(model, choose_device(device))
        checkpoint.copy_weights(tensors, model)
    return Run(directory, config, model.eval(), registry, best)


def read_values(kind: type[C], values: Mapping[str, Any], directory: RunDir) -> C:
    """A config out of a run's config.json; UsageError names file and field."""
    return validate(kind, values, f"{directory.config_path}: ", strict=True)


def read_shape(config: Mapping[str, Any], directory: RunDir) -> ImageShape:
    """The image shape out of a run's config.json."""
    values = config["image_shape"]
    most = {"channels": 4, "height": MOST_PIXELS, "width": MOST_PIXELS, "classes": MOST_CLASSES}
    for key in most | values:
        value, least, where = values.get(key, 0), int(key != "classes"), directory.config_path
        if key not in most:
            raise UsageError(f"{where}: image_shape has no {printable(key)!r:.80}")
        if type(value) is not int or not least <= value <= most[key]:
            raise UsageError(
                f"{where}: image_shape.{key} must be a whole number from {least} to "
                f"{most[key]:,}, not {quoted(value)}"
            )
    return ImageShape(**values)
