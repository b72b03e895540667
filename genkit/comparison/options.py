"""The options of a comparison: what all its models are trained on and scored by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genkit.errors import UsageError
from genkit.registry.catalogue import Registry


@dataclass(frozen=True)
class CompareOptions:
    """The options of `genkit compare`, the same for all its models except `set`."""

    data: str | None = None
    data_root: Path | None = None
    data_option: tuple[str, ...] = ()
    budget: str | None = None
    preset: str | None = None
    set: tuple[str, ...] = ()
    conditional: bool = False
    seed: int = 0
    seeds: int = 1
    samples: int = 2000
    features: str | None = None
    feature_weights: Path | None = None
    rank_by: str | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    grids: int | None = None
    watch: int | None = None

    def with_data(self, recorded: Mapping[str, Any] | None, registry: Registry) -> CompareOptions:
        """The same options with the data named: as given, else as a run recorded it, else the
        default data set."""
        if self.data is not None:
            return self
        if recorded is None:
            return replace(self, data=registry.data_name(None))
        root = recorded.get("data_root")
        return replace(
            self,
            data=registry.data_name(recorded.get("data")),
            data_root=self.data_root or (Path(root) if root else None),
            data_option=self.data_option or tuple(recorded.get("data_option", ())),
        )

    def given(self, model: str) -> dict[str, str]:
        """The options that `set` gives to a model: MODEL.OPTION=VALUE, by name."""
        found = {"conditional": "true"} if self.conditional else {}
        for text in self.set:
            name, _, pair = text.partition(".")
            option, equals, value = pair.partition("=")
            if not (name and option and equals):
                raise UsageError(
                    f"--set {text!r} cannot be read; write MODEL.OPTION=VALUE, such as "
                    "my-model.batch_size=16"
                )
            if name == model:
                found[option.replace("-", "_")] = value
        return found

    def data_arguments(self) -> list[str]:
        """The data options as arguments of a command."""
        arguments = ["--data", str(self.data)]
        if self.data_root:
            arguments += ["--data-root", str(self.data_root)]
        for pair in self.data_option:
            arguments += ["--data-option", pair]
        return arguments

    def watching_arguments(self) -> list[str]:
        """What is looked at while models train, as arguments of `genkit train`."""
        given = (("--grids", self.grids), ("--watch", self.watch))
        return [word for name, value in given if value is not None for word in (name, str(value))]

    def feature_arguments(self) -> list[str]:
        """The options of data, features and device as arguments of a command."""
        arguments = [*self.data_arguments(), "--device", self.device]
        if self.features:
            arguments += ["--features", self.features]
        if self.feature_weights:
            arguments += ["--feature-weights", str(self.feature_weights)]
        return arguments
