"""Data sets as uint8 arrays: walked, decoded, split, checked. Never imports torch."""

from genkit.data.datasets import ImageData, Split, Splits

__all__ = ["ImageData", "Split", "Splits"]
