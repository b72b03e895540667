"""A model's network as ONNX: exported, stripped of this machine's paths, compared with PyTorch.

The packages of the extra "onnx" are imported only when they are needed.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkit.errors import GenkitError, UsageError, one_line
from genkit.io.files import JsonObject
from genkit.model import GenerativeModel
from genkit.sampling.draw import evaluating

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra
TRACED = 2  # images a batch while the network is traced; the exported one takes any number
BATCHES = (1, 5)  # sizes at which ONNX and PyTorch are compared
TOLERANCE = 1e-4  # largest absolute difference between the two
Inputs = dict[str, Tensor]  # by name, each (N, ...)


@dataclass(frozen=True)
class Network:
    """An exported network and how it was checked.

    Args:
        content: the ONNX file.
        kind: "decoder", from latents to images, or "network", what the model offers.
        inputs, outputs: shapes by name; the batch dimension is "batch".
        difference: largest absolute one between onnxruntime and PyTorch over all outputs.
        opset: version of ONNX's operators.
    """

    content: bytes
    kind: str
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    difference: float
    opset: int

    def facts(self) -> JsonObject:
        """All fields but `content`, as JSON types."""
        return {name: value for name, value in asdict(self).items() if name != "content"}


class _Decoder(nn.Module):
    """`GenerativeModel.decode_latents` as a module of its own."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents, (N, ...), and labels, int64 (N,), of a conditional model to images in [-1, 1],
        (N, C, H, W)."""
        return self.model.decode_latents(latents, labels)


def check_packages() -> None:
    """Raise UsageError, with what to install, unless all packages are there."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"--onnx needs the package {package}; install it: pip install 'torch-genkit[onnx]'"
            )


def export_network(model: GenerativeModel) -> Network:
    """The network that a model offers, else the decoder of a model with a latent, as ONNX.

    Raises:
        UsageError: a package is missing, the model offers no network, or ONNX cannot express it.
        GenkitError: onnxruntime and PyTorch differ by more than `TOLERANCE`.
    """
    check_packages()
    name = type(model).__name__
    try:
        with evaluating(model), torch.no_grad(), _quiet():
            module, examples, kind = _choose(model)
            content, opset = _export(module, _take(examples, TRACED), kind)
            return _compare(name, content, opset, module, examples, kind)
    except GenkitError:
        raise
    except Exception as error:  # of the exporter's many kinds, about a model's code
        reason = one_line(error.__cause__ or error)[:300]  # the cause is about the model
        raise UsageError(
            f"the network of {name} cannot be exported to ONNX: {reason}; export it without --onnx"
        ) from error


def _choose(model: GenerativeModel) -> tuple[nn.Module, Inputs, str]:
    """The module to export, examples of its inputs, (6, ...) each, and its kind."""
    offered = model.network_to_export()
    if offered is not None:
        return offered[0], dict(offered[1]), "network"
    generator = torch.Generator(model.device).manual_seed(0)
    latents = model.draw_latents(sum(BATCHES), generator=generator)
    if latents is None:
        raise UsageError(
            f"{type(model).__name__} offers no network for ONNX: it has neither latents nor "
            "network_to_export(); export it without --onnx"
        )
    inputs = {"latents": latents}
    if model.conditional:
        inputs["labels"] = torch.arange(sum(BATCHES), device=model.device)
        inputs["labels"] %= model.image_shape.classes
    return _Decoder(model), inputs, "decoder"


def _take(examples: Mapping[str, Tensor], n: int) -> Inputs:
    """n examples of each input, (n, ...); they repeat if there are fewer."""
    return {name: x[torch.arange(n, device=x.device) % x.shape[0]] for name, x in examples.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and log, which are about its internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export(module: nn.Module, inputs: Inputs, kind: str) -> tuple[bytes, int]:
    import onnx

    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        dynamo=True,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        input_names=list(inputs),
        output_names=["images" if kind == "decoder" else "output"],
        verbose=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        program.save(path, external_data=False)  # type: ignore[union-attr]
        network = onnx.load(path)
    _strip(network)
    onnx.checker.check_model(network)
    opset = next(each.version for each in network.opset_import if not each.domain)
    return network.SerializeToString(), opset


def _strip(message: Any) -> None:
    """Remove the stack traces that the exporter stores; they hold paths of this machine."""
    for field, value in list(message.ListFields()):
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None and field.name != "raw_data":
            for inner in value if isinstance(value, list) or hasattr(value, "append") else [value]:
                _strip(inner)


def _compare(
    name: str,
    content: bytes,
    opset: int,
    module: nn.Module,
    examples: Inputs,
    kind: str,
) -> Network:
    """The network, after a comparison with PyTorch at two batch sizes."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    ends = session.get_inputs(), session.get_outputs()
    shapes = [{each.name: list(each.shape) for each in end} for end in ends]
    for shape in shapes[0].values():
        if isinstance(shape[0], int):
            raise UsageError(
                f"the network of {name} takes batches of {shape[0]} only once it is exported: its "
                "code uses len(x) where x.shape[0] is needed"
            )
    difference = 0.0
    for size in BATCHES:
        inputs = _take(examples, size)
        expected = module(*inputs.values()).float().cpu()
        arrays = {key: value.cpu().numpy() for key, value in inputs.items()}
        found = torch.from_numpy(session.run(None, arrays)[0])
        if found.shape != expected.shape:
            raise GenkitError(
                f"the ONNX network of {name} gives {tuple(found.shape)}, PyTorch "
                f"{tuple(expected.shape)}; nothing was exported"
            )
        difference = max(difference, float((found - expected).abs().max()))
    if not difference <= TOLERANCE:  # NaN, too
        raise GenkitError(
            f"the ONNX network of {name} differs from PyTorch by {difference:.2g}, more than "
            f"{TOLERANCE:g}; nothing was exported"
        )
    return Network(content, kind, shapes[0], shapes[1], difference, opset)
