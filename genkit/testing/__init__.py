"""The test kit for plugin authors: a function for each kind of plugin."""

from genkit.contracts.contract import PromiseBroken
from genkit.testing.checks import (
    check_dataset,
    check_features,
    check_likelihood,
    check_metric,
    check_plugin,
    check_trainer,
)

__all__ = [
    "PromiseBroken",
    "check_dataset",
    "check_features",
    "check_likelihood",
    "check_metric",
    "check_plugin",
    "check_trainer",
]
