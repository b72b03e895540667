"""Data sets as uint8 arrays: walked, decoded, split, checked. Never imports torch.

This face is part of version 1 of the plugin interface. Pillow is imported only when one of the
functions that read image files is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genkit.data.datasets import ImageData
from genkit.data.splits import Split, Splits, combine, hold_out_in_place

if TYPE_CHECKING:
    from genkit.data.alpha import premultiply
    from genkit.data.decode import read_image
    from genkit.data.folder import read_encoded, read_folder
    from genkit.data.image_file import BadImage
    from genkit.data.prepared import read_prepared
    from genkit.data.zipped import read_zip
    from genkit.io.downloads import downloading

__all__ = [
    "BadImage",
    "ImageData",
    "Split",
    "Splits",
    "combine",
    "downloading",
    "hold_out_in_place",
    "premultiply",
    "read_encoded",
    "read_folder",
    "read_image",
    "read_prepared",
    "read_zip",
]

_IMPORTED_WHEN_USED = {
    "BadImage": "genkit.data.image_file",
    "premultiply": "genkit.data.alpha",
    "downloading": "genkit.io.downloads",
    "read_image": "genkit.data.decode",
    "read_encoded": "genkit.data.folder",
    "read_folder": "genkit.data.folder",
    "read_prepared": "genkit.data.prepared",
    "read_zip": "genkit.data.zipped",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_IMPORTED_WHEN_USED[name]), name)
