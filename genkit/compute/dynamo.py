"""Leaves `torch._dynamo` out of a process until something is compiled.

The optimizers of torch import it when they are made, and at each step, only to say that a compiler
must not look into them. It brings sympy and FSDP: more than a second and some 100 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


def defer_dynamo() -> None:
    """From now on, and for this whole process, import `torch._dynamo` when it is first used.

    Of an import that nothing uses only two names are there: those that eager optimizers ask for,
    which do nothing until there is a compiler. Any other name, and any module below, imports it
    as ever. Without effect if it is imported already.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `torch._dynamo` where it is, and loads it later."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == NAME else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


class _Later(Loader):
    """Makes a module that its own loader fills at the first use."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Deferred
        vars(module).update(
            _lock=RLock(), _loads=False, _disabled=[], _loader=self.loader, graph_break=_do_nothing
        )
        vars(module).pop("__path__")  # asked for by imports of modules below


class _Deferred(ModuleType):
    """`torch._dynamo` before its first use: the same object is filled then."""

    _lock: Any
    _loads: bool
    _loader: Loader
    _disabled: list[Callable[..., Any]]

    def disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """The function itself: there is no compiler that could look into it."""
        self._disabled.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        """A name that is not there yet: import the real module, unless Python only looks round."""
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        with self._lock:  # other threads wait
            if isinstance(self, _Deferred):
                self._load(name)
        return getattr(self, name)

    def _load(self, name: str) -> None:
        if self._loads:
            raise AttributeError(name)
        self._loads = True
        spec = self.__spec__
        assert spec is not None and spec.submodule_search_locations is not None
        spec.loader = self.__loader__ = self._loader
        self.__path__ = spec.submodule_search_locations
        loader, disabled = self._loader, self._disabled
        try:
            loader.exec_module(self)
        except BaseException:
            sys.modules.pop(NAME, None)
            raise
        for function in disabled:  # torch kept our answer, and now asks again
            vars(function).pop("__dynamo_disable", None)
        for own in ("_lock", "_loads", "_disabled", "_loader"):
            vars(self).pop(own)
        self.__class__ = ModuleType  # type: ignore[assignment]


def _do_nothing(message: str = "") -> None:
    """Stands for `graph_break`."""
