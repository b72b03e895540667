"""Whether samples are of use: the accuracy of a classifier that learns from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from genkit.io.records import Record

Accuracy = Annotated[float, Field(ge=0, le=1)]

# Headings of the accuracies, by what a classifier was trained on.
USES = {
    "synthetic": "trained on\nsamples",
    "real": "trained on\nreal",
    "both": "trained\non both",
}


class Utility(Record):
    """Accuracy on real test images of one classifier, trained for as long on three sets: the
    classification accuracy score of Ravuri and Vinyals (2019, arXiv 1905.10887) beside what real
    images give."""

    synthetic: Accuracy = Field(description="trained on samples alone")
    real: Accuracy = Field(description="trained on as many real training images")
    both: Accuracy = Field(description="trained on both together")
    deviations: dict[str, float] = Field(
        description="standard deviations of the three over test images, by the same names"
    )
    images: int = Field(description="samples, and real training images")
    test_images: int = Field(description="test images that were classified")
