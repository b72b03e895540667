"""Data sets as uint8 arrays: walked, decoded, split, checked. Never imports torch.

This face is part of version 1 of the plugin interface. Pillow is imported only when one of the
functions that read image files is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genkit.data.datasets import ImageData, Split, Splits

if TYPE_CHECKING:
    from genkit.data.decode import BadImage, read_image
    from genkit.data.folder import read_folder
    from genkit.data.prepared import read_prepared

__all__ = ["BadImage", "ImageData", "Split", "Splits", "read_folder", "read_image", "read_prepared"]

_IMPORTED_WHEN_USED = {
    "BadImage": "decode",
    "read_image": "decode",
    "read_folder": "folder",
    "read_prepared": "prepared",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_IMPORTED_WHEN_USED[name]}"), name)
