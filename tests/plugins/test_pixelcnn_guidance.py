"""Guidance of PixelCNN's samples: against its definition, computed value by value."""

from __future__ import annotations

import pytest
import torch
from guided import SHARES, slowly_drawn

from genkit.errors import UsageError
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig, PixelCNNSampler
from genkit_pixelcnn.model import PixelCNN

torch.set_num_threads(1)


def build(colours: int, levels: int, strength: float) -> PixelCNN:
    config = PixelCNNConfig(levels=levels, channels=6, layers=3, conditional=True)
    torch.manual_seed(0)
    model = PixelCNN(config, ImageShape(colours, 4, 5, 3, SHARES)).eval()
    torch.nn.init.normal_(model.classes.weight, std=2)
    for head in model.logits:
        torch.nn.init.normal_(head.weight)
    model.sampler = PixelCNNSampler(guidance=strength)
    return model


@pytest.mark.parametrize(("colours", "levels"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("strength", [0.0, 2.5])
def test_guided_samples_follow_their_definition(colours: int, levels: int, strength: float) -> None:
    model = build(colours, levels, strength)
    labels = torch.tensor([2, 0, 1])
    found = model.sample(3, labels, generator=torch.Generator().manual_seed(1))
    uniforms = torch.rand(3, colours, 4, 5, generator=torch.Generator().manual_seed(1))
    none = torch.zeros(1, 4, 5, dtype=torch.bool)
    expected = [
        slowly_drawn(model, u, int(y), strength, none, u)
        for u, y in zip(uniforms, labels, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_guided_completions_learn_the_class_from_known_pixels() -> None:
    model, label = build(1, 2, 3.0), torch.tensor([1])
    images = torch.where(torch.rand(1, 1, 4, 5) < 0.5, -1.0, 1.0)
    known = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    known[..., :2, :] = True
    found = model.complete(images, known, label, generator=torch.Generator().manual_seed(1))
    uniforms = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = slowly_drawn(model, uniforms[0], 1, 3.0, known[0], images[0])
    torch.testing.assert_close(found[0], expected)


def test_guidance_makes_samples_more_probable_given_their_label() -> None:
    labels = torch.arange(60) % 3
    shares = []
    for strength in (0.0, 1.0, 3.0):
        model = build(1, 2, strength)
        images = model.sample(60, labels, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            nats = torch.stack([model.nats(images, torch.full((60,), k)) for k in range(3)], 1)
        shares.append((-nats).softmax(1).gather(1, labels[:, None]).mean().item())
    assert shares[0] < shares[1] - 0.05 and shares[1] < shares[2] - 0.05


def test_guidance_of_a_model_without_labels_is_refused() -> None:
    model = PixelCNN(PixelCNNConfig(levels=2, channels=4, layers=2), ImageShape(1, 4, 5))
    model.sampler = PixelCNNSampler(guidance=2)
    with pytest.raises(UsageError, match="guidance 2 needs a model trained with --conditional"):
        model.sample(2, generator=torch.Generator().manual_seed(0))
