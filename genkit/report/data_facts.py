"""What is known of the data before any work: what `genkit inspect` says to a comparison."""

from __future__ import annotations

from pydantic import Field

from genkit.io.records import Record
from genkit.report.protocol_card import Count
from genkit.specs import ImageFacts, ImageShape


class ImageFactsRecord(Record):
    """What presets are fitted to."""

    channels: int = Field(description="1 for grey, 3 for colour")
    height: int = Field(description="pixels")
    width: int = Field(description="pixels")
    count: Count = Field(description="training images")
    between: float = Field(description="share of values between nearly black and nearly white")

    @classmethod
    def of(cls, facts: ImageFacts) -> ImageFactsRecord:
        shape = facts.shape
        return cls(
            channels=shape.channels,
            height=shape.height,
            width=shape.width,
            count=facts.count,
            between=facts.between,
        )

    def facts(self) -> ImageFacts:
        """The same as specs take it."""
        return ImageFacts(
            ImageShape(self.channels, self.height, self.width), self.count, self.between
        )


class DataFacts(Record):
    """What a comparison knows of data, features and device before it starts (genkit inspect)."""

    device: str = Field(description='"cpu", "cuda" or "mps"')
    devices: tuple[str, ...] = Field(
        description="values of CUDA_VISIBLE_DEVICES, one for each GPU that trainings may use"
    )
    shape: str = Field(description="shape of an image: channels x height x width")
    train_images: Count = Field(description="images in the training split")
    image_facts: ImageFactsRecord | None = Field(None, description="what presets are fitted to")
    features: str = Field(description='feature extractor that scores the samples, or "none"')
    notes: tuple[str, ...] = Field(description="what the data set says to its user")
