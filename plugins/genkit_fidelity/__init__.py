"""Scores, equal to those of torch-fidelity, and the features they are computed from."""

from __future__ import annotations

from genkit.hookspecs import hookimpl
from genkit.specs import Column, Config, FeaturesSpec, MetricSpec, option

RECORDS = ("torch-fidelity",)  # holds the networks


class WeightsConfig(Config):
    """Where a network's weights are."""

    weights: str | None = option(
        None,
        "file with the network's weights (--feature-weights PATH); without it the one "
        "that GENKIT_NAME_WEIGHTS names (NAME: of the features, in capitals), then torch's hub "
        "cache, then a download",
    )


class ClassifierConfig(Config):
    """Where the weights of a classifier are that was trained before."""

    weights: str | None = option(
        None,
        "features.safetensors of a comparison (--feature-weights PATH), for the same features on "
        "another machine; without it the classifier is trained here, once",
    )


@hookimpl
def register_features() -> list[FeaturesSpec]:
    return [
        FeaturesSpec(
            name="digits",
            summary="A small classifier of handwritten digits; works offline, 1 x 28 x 28 images",
            target="genkit_fidelity.features:Digits",
            quick=True,
        ),
        FeaturesSpec(
            name="stacked-digits",
            summary="The classifier of digits, for each colour of Stacked MNIST; works offline",
            target="genkit_fidelity.stacked:StackedDigits",
            quick=True,
        ),
        FeaturesSpec(
            name="classifier",
            summary="A small classifier of the data's own classes, trained once; works offline",
            target="genkit_fidelity.classifier:Classifier",
            config=ClassifierConfig,
        ),
        FeaturesSpec(
            name="inception",
            summary="The Inception network of the published FID and IS; 91 MiB of weights",
            target="genkit_fidelity.pretrained:Inception",
            config=WeightsConfig,
            records=RECORDS,
        ),
        FeaturesSpec(
            name="vgg16",
            summary="VGG-16, as in improved precision and recall; 528 MiB of weights",
            target="genkit_fidelity.pretrained:VGG16",
            config=WeightsConfig,
            records=RECORDS,
        ),
        FeaturesSpec(
            name="clip",
            summary="CLIP ViT-B/32; 338 MiB of weights",
            target="genkit_fidelity.pretrained:CLIP",
            config=WeightsConfig,
            records=RECORDS,
        ),
        FeaturesSpec(
            name="dinov2",
            summary="DINOv2 ViT-L/14; 1.1 GiB of weights, and code run from GitHub by torch.hub",
            target="genkit_fidelity.pretrained:DINOv2",
            config=WeightsConfig,
            records=RECORDS,
        ),
    ]


@hookimpl
def register_metrics() -> list[MetricSpec]:
    return [
        MetricSpec(
            name="fid",
            summary="Fréchet distance of features to those of the reference (FID)",
            target="genkit_fidelity.scores:frechet",
            columns=(
                Column(
                    name="fid_corrected",
                    title="FID\ncorrected",
                    better="lower",
                    corrected=True,
                    help="FID less the jackknife's estimate of its bias, which depends on the "
                    "model and on the number of samples: what very many samples would score. About "
                    "0 for real images.",
                ),
                Column(
                    name="fid",
                    title="FID",
                    better="lower",
                    help="Fréchet distance between the features of samples and of real images: how "
                    "far apart the two clouds are as a whole. It counts what looks wrong and what "
                    "is missing alike.",
                ),
            ),
            definition="Gaussians fitted to all features; corrected by a 20-block jackknife from 5 "
            "samples for each feature",
        ),
        MetricSpec(
            name="kid",
            summary="Kernel distance of features to those of real images (KID), unbiased",
            target="genkit_fidelity.kernel:kernel",
            columns=(
                Column(
                    name="kid",
                    title="KID\nx1000",
                    better="lower",
                    unbiased=True,
                    scale=1000,
                    decimals=1,
                    help="Kernel distance between the features of samples and of real images, free "
                    "of bias where samples are few; about 0 for real images.",
                ),
            ),
            definition="cubic kernel, all pairs of at most 10,000 samples and 10,000 real images",
        ),
        MetricSpec(
            name="manifold",
            summary="Precision, recall, density and coverage: quality and variety apart",
            target="genkit_fidelity.scores:manifold",
            columns=(
                Column(
                    name="precision",
                    title="preci-\nsion",
                    better="higher",
                    ranks=False,
                    help="Share of samples that lie among real images: do they look real?",
                ),
                Column(
                    name="recall",
                    title="re-\ncall",
                    better="higher",
                    ranks=False,
                    help="Share of real images that lie among samples: is everything shown?",
                ),
                Column(
                    name="density",
                    title="den-\nsity",
                    better="higher",
                    ranks=False,
                    help="How closely real images surround each sample; about 1 for real images.",
                ),
                Column(
                    name="coverage",
                    title="cover-\nage",
                    better="higher",
                    ranks=False,
                    help="Share of real images with a sample nearby; like recall, less fooled by "
                    "outliers.",
                ),
            ),
            definition="as many real images as samples, at most 10,000; 3 neighbours for precision "
            "and recall, 5 for density and coverage",
        ),
        MetricSpec(
            name="distinct",
            summary="Number of different images that samples are drawn from (birthday paradox)",
            target="genkit_fidelity.distinct:distinct",
            columns=(
                Column(
                    name="distinct",
                    title="dis-\ntinct",
                    better="higher",
                    ranks=False,
                    decimals=0,
                    warn_below=20_000,
                    warning="repeats itself: by how many of its samples are nearly the same, it "
                    "draws from few different images (distinct)",
                    help="How many different images the samples are drawn from, by how many pairs "
                    "of them are nearly the same; about 670k or more if there is no such pair.",
                ),
            ),
            definition="pairs of 2,000 samples nearer than half the least distance of real images",
        ),
        MetricSpec(
            name="classes",
            summary="Class coverage and confident samples, by a classifier of the data's classes",
            target="genkit_fidelity.classes:score",
            columns=(
                Column(
                    name="class_coverage",
                    title="class\ncover",
                    better="higher",
                    ranks=False,
                    help="How evenly the classes of the data are shown; 1 if as often as in the "
                    "data.",
                ),
                Column(
                    name="confident",
                    title="confi-\ndent",
                    better="higher",
                    ranks=False,
                    help="Share of samples that a classifier is sure of.",
                ),
            ),
            definition="overlap of the class histograms; confident above 0.9",
        ),
        MetricSpec(
            name="modes",
            summary="How many of 100 classes or more are there (Stacked MNIST)",
            target="genkit_fidelity.stacked:modes",
            columns=(
                Column(
                    name="modes",
                    title="modes",
                    better="higher",
                    ranks=False,
                    decimals=0,
                    help="How many of the data's classes a classifier finds among the samples. "
                    "Stacked MNIST has 1,000; to find all takes many more samples.",
                ),
                Column(
                    name="modes_kl",
                    title="modes\nKL",
                    better="lower",
                    ranks=False,
                    help="How unevenly they are shown: the divergence of their shares from equal "
                    "ones, in nats.",
                ),
            ),
            definition="classes of the highest logit; KL from equal shares",
        ),
        MetricSpec(
            name="inception-score",
            summary="Inception Score (IS): sure and varied answers; blind to collapse, never ranks",
            target="genkit_fidelity.scores:inception",
            columns=(
                Column(
                    name="is",
                    title="IS",
                    better="higher",
                    ranks=False,
                    help="Inception Score: sure and varied answers of a classifier. Blind to much; "
                    "never ranks.",
                ),
                Column(name="is_std", title="IS sd", better=None, ranks=False, shown=False),
            ),
            definition="10 parts in random order",
        ),
    ]
