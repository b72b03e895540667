"""Runs loaded for use: a model and its averaged weights, out of a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from genkit.compute.device import choose_device, place
from genkit.config.run import RunConfig, quoted, validate
from genkit.data import ImageData
from genkit.data.datasets import data_root, open_data, parse_data_name
from genkit.errors import PluginError, UsageError, plugin_code, printable
from genkit.io.run_directory import RunDir, read_json
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry
from genkit.runs import checkpoint
from genkit.sampling import completion as exhibits
from genkit.sampling import draw as sampling
from genkit.specs import Config, ImageShape, TrainerConfig, TrainerSpec
from genkit.training.stream import derive_seed

if TYPE_CHECKING:
    from PIL import Image

C = TypeVar("C", bound=Config)
MOST_PIXELS = 8192  # a side, of the images a run's config.json may ask for
MOST_CLASSES = 1_000_000


def load_data(registry: Registry, config: RunConfig) -> ImageData:
    """The data set that a run's config names."""
    name, source = parse_data_name(config.data)
    spec = registry.datasets.find(name)
    return open_data(spec, config.data, source, config.data_options, data_root(config.data_root))


def with_absolute_paths(config: RunConfig, registry: Registry) -> RunConfig:
    """The same options, naming data so that they can be used from any folder."""
    changes: dict[str, Any] = {}
    name, source = parse_data_name(config.data)
    if source and registry.datasets.find(name).source == "PATH":
        changes["data"] = f"{name}:{Path(source).expanduser().absolute()}"
    if config.data_root:
        changes["data_root"] = config.data_root.expanduser().absolute()
    return config.model_copy(update=changes)


def build_model(
    spec: TrainerSpec, config: TrainerConfig, shape: ImageShape, seed: int
) -> GenerativeModel:
    """A new model, on the CPU; its weights follow from the seed. torch's random numbers are left
    as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        with plugin_code(f"{spec.name}: building the model for images of {shape}"):
            model = spec.load()(config, shape)
    if not isinstance(model, GenerativeModel):
        raise PluginError(f"{spec.target} made a {type(model).__name__}, not a GenerativeModel")
    with plugin_code(f"{type(model).__name__}.state_dict()"):
        for name, value in model.state_dict().items():
            if not isinstance(value, Tensor):
                raise PluginError(
                    f"{name!r} in the state_dict of {spec.target} is a {type(value).__name__}, no "
                    "tensor; make it a buffer"
                )
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


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
        return sampling.make_grid(self.sample(n, seed))

    def interpolate(self, rows: int = 8, steps: int = 9, seed: int = 0) -> Tensor:
        """Ways from sample 2j of a seed to 2j + 1, a row each: uint8, (rows, steps, C, H, W);
        UsageError for models without latents."""
        images = exhibits.interpolate(self.model, rows, steps, seed)
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
            row = exhibits.complete(self.model, image.expand(n, *image.shape), known, seed)
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
    most = {"channels": 3, "height": MOST_PIXELS, "width": MOST_PIXELS, "classes": MOST_CLASSES}
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
