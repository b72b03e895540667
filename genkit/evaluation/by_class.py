"""Scores class by class: how many samples a classifier takes for what was asked, and distances."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from genkit.evaluation.measure import measure
from genkit.features import ImageSet
from genkit.metrics import Reference
from genkit.registry.catalogue import Entry
from genkit.report.rows import Agreement, ClassScores
from genkit.specs import MetricSpec

FEWEST = 10  # samples of a class, and reference images of it, below which it has no distances


def label_agreement(samples: ImageSet | None, labels: Tensor | None) -> Agreement | None:
    """The share of samples that the classifier of the data's classes takes for the class they were
    drawn of; None without labels or without such a classifier.

    Args:
        labels: int64, (N,), of the samples.
    """
    if samples is None or labels is None or not samples.extractor.classes:
        return None
    if samples.logits is None or not len(labels):
        return None
    share = float((samples.logits.argmax(1) == labels).double().mean())
    return Agreement(share=share, deviation=math.sqrt(share * (1 - share) / len(labels)))


def class_scores(
    metrics: Iterable[Entry[MetricSpec]],
    samples: ImageSet,
    labels: Tensor,
    reference: Reference,
    real_labels: Tensor,
    classes: Sequence[str],
) -> tuple[ClassScores, ...]:
    """For each class its samples against the training images of that class: agreement, and every
    distance that ranks models. With few samples, only unbiased ones compare between classes of
    other sizes.

    Args:
        labels: int64, (N,), of the samples.
        real_labels: int64, (M,), of the reference's training images.
        classes: names of the classes, in the order of the labels.
    """
    distances = [
        entry
        for entry in metrics
        if any(column.ranks and column.better == "lower" for column in entry.spec.columns)
    ]
    found = []
    for label, name in enumerate(classes):
        places, real = (torch.nonzero(each == label)[:, 0] for each in (labels, real_labels))
        own = samples.take(places)
        values: dict[str, float | None] = {}
        deviations: dict[str, float | None] = {}
        if min(len(places), len(real)) >= FEWEST:
            train = reference.train.take(real)
            of_class = Reference(f"{reference.name}, class {name}", len(real), train, train)
            for entry in distances:
                estimates, _ = measure(entry, own, of_class)
                for column in entry.spec.columns:
                    if column.name in estimates and column.ranks:
                        values[column.name] = estimates[column.name].value
                        deviations[column.name] = estimates[column.name].deviation
        agreement = label_agreement(own, labels[places])
        found.append(
            ClassScores(
                name=name,
                samples=len(places),
                agreement=agreement,
                scores=values,
                deviations=deviations,
            )
        )
    return tuple(found)
