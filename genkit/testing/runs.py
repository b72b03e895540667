"""The contract of a run: it can be resumed, by the very way that `genkit resume` does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from genkit.config.resolve import Resolved
from genkit.config.run import RunConfig
from genkit.contracts.contract import Violations, difference
from genkit.data import Split, Splits
from genkit.hookspecs import hookimpl
from genkit.registry.catalogue import Registry
from genkit.registry.loader import Plugins
from genkit.registry.plugin import Plugin
from genkit.runs import checkpoint
from genkit.specs import Config, DatasetSpec
from genkit.testing.fixture import ModelFixture
from genkit.training.resume import resume
from genkit.training.train import train

__tracebackhide__ = True

IMAGES = DatasetSpec(
    name="kit-images",
    summary="The images of the test kit.",
    target=f"{__name__}:load_images",
    source="PATH",
    features="none",
)


def load_images(config: Config, source: str | None, root: Path) -> Splits:
    """The images of an .npz file, (N, C, H, W), uint8."""
    with np.load(str(source), allow_pickle=False) as content:
        return Splits(Split(content["images"]))


def runs_can_be_resumed(fixture: ModelFixture) -> Violations:
    """A run must be resumed from its directory as genkit resume does, and end with the bits of an
    uninterrupted one.
    """
    before, after = fixture.before_and_after
    with tempfile.TemporaryDirectory() as folder:
        images, whole, parted = (Path(folder, name) for name in ("images.npz", "whole", "parted"))
        np.savez(images, images=fixture.split.images)

        @hookimpl
        def on_checkpoint(run: Path, step: int) -> None:
            if run == whole and step == before:
                shutil.copytree(whole, parted)

        plugins = Plugins()
        hooks = SimpleNamespace(
            register_trainers=hookimpl(lambda: [fixture.spec]),
            register_datasets=hookimpl(lambda: [IMAGES]),
            on_checkpoint=on_checkpoint,
        )
        plugins.register(hooks, Plugin(fixture.spec.name, "the test kit", "0"))
        registry = Registry(plugins)
        options = RunConfig(
            data=f"{IMAGES.name}:{images}",
            budget=f"{before + after}steps",
            device="cpu",
            precision="fp32",
            threads=1,
            grids=0,
            watch=0,
            checkpoint_seconds=1e-9,
        )
        resolved = Resolved(options, fixture.config, {"preset": "full"})
        train(fixture.spec, resolved, registry, run_dir=whole)
        resume(parted, registry)
        if differs := difference(_state(parted), _state(whole)):
            yield f"{after} iterations later, {differs}"


def _state(run: Path) -> Mapping[str, Any]:
    """The training state that a run has saved last."""
    state: Mapping[str, Any] = checkpoint.load_state(run / "checkpoints")[0]["loop"]
    return state
