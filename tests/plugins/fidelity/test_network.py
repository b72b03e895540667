"""The classifier's network: ready to classify it computes what it did in training, in less time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genkit.specs import ImageShape
from genkit_fidelity.network import ClassifierNetwork, load_network

torch.set_num_threads(1)


@pytest.mark.parametrize(
    "shape", [ImageShape(1, 28, 28, classes=10), ImageShape(3, 40, 33, classes=4)]
)
def test_a_loaded_network_computes_what_the_trained_one_does_up_to_rounding(shape) -> None:
    generator = torch.Generator().manual_seed(0)
    trained = ClassifierNetwork(shape)
    for layer in trained.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics and weights as of a training
            for values, low in (
                (layer.running_mean, -1.0),
                (layer.running_var, 0.5),
                (layer.weight.data, 0.5),
                (layer.bias.data, -1.0),
            ):
                values.uniform_(low, low + 2, generator=generator)
    images = torch.randint(
        0, 256, (7, shape.channels, shape.height, shape.width), generator=generator
    ).to(torch.uint8)
    loaded = load_network(shape, trained.state_dict())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in loaded.modules())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        for found, expected in zip(loaded(images), trained.eval()(images), strict=True):
            assert expected.std() > 0.01
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
