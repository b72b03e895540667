"""The shape of images and facts about training images, as models and presets get them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Attributes:
    """What classes are made of, where each is a combination: of a colour, a shape and a size.

    Args:
        names: of the attributes, (K,).
        values: of each class, (classes, K), in the order of the labels.
    """

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    def having(self, name: str, value: float) -> list[int]:
        """The labels of the classes whose attribute of that name has the value."""
        place = self.names.index(name)
        return [label for label, row in enumerate(self.values) if row[place] == value]


@dataclass(frozen=True)
class ImageShape:
    """The shape of one image and facts about the training images, which do not count when shapes
    are compared.

    Args:
        classes: number of classes; 0: no labels.
        class_shares: share of each class among the training images; () if not known.
        class_names: the classes' names, in the order of the labels; () if not known.
        train_images: number of training images; 0 if not known.
        attributes: what the classes are combinations of; None if they are not.
        mean, deviation: of all values of training images, in [-1, 1]; 0 and 1 if not known.
    """

    channels: int
    height: int
    width: int
    classes: int = 0
    class_shares: tuple[float, ...] = field(default=(), compare=False, repr=False)
    class_names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    train_images: int = field(default=0, compare=False, repr=False)
    mean: float = field(default=0.0, compare=False, repr=False)
    deviation: float = field(default=1.0, compare=False, repr=False)
    attributes: Attributes | None = field(default=None, compare=False, repr=False)

    @property
    def dimensions(self) -> int:
        """Values per image: channels * height * width."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"


@dataclass(frozen=True)
class ImageFacts:
    """What presets are fitted to.

    Args:
        shape: of an image.
        count: training images.
        between: share of values, 0 to 1, that are neither nearly black nor nearly white.
    """

    shape: ImageShape
    count: int
    between: float

    @property
    def kind(self) -> Literal["black-and-white", "grey", "colour"]:
        """Digits are nearly black and white, 9% of their values lie between; of photos most do."""
        if self.shape.channels > 1:
            return "colour"
        return "grey" if self.between > 0.2 else "black-and-white"
