"""A metric that sees the labels of samples and the run that drew them."""

from genkit.features import ImageSet
from genkit.hookspecs import hookimpl
from genkit.specs import Column, MetricSpec


@hookimpl
def register_metrics():
    names = ("own_share", "reconstruction_distance")
    columns = tuple(Column(name=name, title=name, better="lower") for name in names)
    return [MetricSpec(name="seeing", summary="S.", target="seeing_metric:score", columns=columns)]


def score(config, samples, reference, run=None):
    found = {}
    if samples.labels is not None:
        found["own_share"] = (samples.labels == 1).float().mean()
    made = run and run.reconstruct(reference.test.images[:100])
    if made is not None:
        features = ImageSet(made, samples.extractor).features
        found["reconstruction_distance"] = (
            (features - reference.test.features[:100]).norm(dim=1).mean()
        )
    return found
