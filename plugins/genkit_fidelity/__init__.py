"""FID and the Inception Score by torch-fidelity, and the features they are computed from."""

from __future__ import annotations

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import Column, Config, FeaturesSpec, MetricSpec


class InceptionConfig(Config):
    """Where the Inception weights are."""

    weights: str | None = Field(
        None,
        description="file with the Inception weights (--inception-weights PATH); without it "
        "GENKIT_INCEPTION_WEIGHTS, then torch's hub cache, then a download",
    )


@hookimpl
def register_features() -> list[FeaturesSpec]:
    return [
        FeaturesSpec(
            name="digits",
            summary="A small classifier of handwritten digits; works offline, 1 x 28 x 28 images",
            target="genkit_fidelity.features:Digits",
        ),
        FeaturesSpec(
            name="inception",
            summary="The Inception network of the published FID and IS; 91 MiB of weights",
            target="genkit_fidelity.features:Inception",
            config=InceptionConfig,
        ),
    ]


@hookimpl
def register_metrics() -> list[MetricSpec]:
    return [
        MetricSpec(
            name="fidelity",
            summary="Fréchet distance to the reference (FID) and Inception Score (IS)",
            target="genkit_fidelity.scores:score",
            columns=(
                Column(name="fid", title="FID", better="lower"),
                Column(name="is", title="IS", better="higher"),
                Column(name="is_std", title="IS sd", better="higher", ranks=False),
            ),
        )
    ]
