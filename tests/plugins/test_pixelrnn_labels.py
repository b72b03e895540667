"""PixelRNN by class: what labels change, against the network's own logits and by enumeration."""

import pytest
import torch
from guided import SHARES, slowly_drawn
from small_pixelrnn import CELLS, all_images, both_cells, generator, make
from torch import nn

from genkit.errors import UsageError
from genkit.model import Batch
from genkit.specs import ImageShape
from genkit_pixelrnn import PixelRNNConfig, PixelRNNSampler
from genkit_pixelrnn.model import PixelRNN
from genkit_pixelrnn.sampler import draw_images

torch.set_num_threads(1)


def make_by_class(shape, cell, **values):
    return make(shape, cell, conditional=True, classes=SHARES, **values)


@both_cells
@pytest.mark.parametrize("colours, levels", [(1, 2), (3, 5)])
def test_cached_sampling_gives_the_networks_logits_of_each_class(cell, colours, levels):
    model = make_by_class((colours, 5, 6), cell, levels=levels)
    labels, trace = torch.tensor([2, 0, 1, 2]), []
    images = draw_images(
        model, torch.rand(4, colours, 5, 6, generator=generator()), trace, labels=labels
    )
    with torch.no_grad():
        expected = model(images, labels)  # (n, C, outputs, H, W)
    found = torch.stack(trace).view(5, 6, colours, 4, -1).permute(3, 2, 4, 0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@both_cells
def test_a_label_is_a_bias_of_all_gates(cell):
    """A model without classes whose biases are larger by a class's gives the same."""
    model = make_by_class((3, 4, 5), cell)
    plain = make((3, 4, 5), cell)
    plain.load_state_dict(model.state_dict(), strict=False)
    images = torch.rand(2, 3, 4, 5, generator=generator()).sub(0.5).sign()
    with torch.no_grad():
        biases = model.classes.weight[1].view(len(plain.lstms), *plain.lstms[0].bias.shape)
        for lstm, own in zip(plain.lstms, biases, strict=True):
            lstm.bias += own
        torch.testing.assert_close(model(images, torch.tensor([1, 1])), plain(images))


@both_cells
def test_gradients_of_biases_by_class_are_the_sums_over_the_classs_images(cell):
    model = make_by_class((1, 4, 5), cell)
    images = torch.rand(5, 1, 4, 5, generator=generator()).sub(0.5).sign()
    labels = torch.tensor([2, 0, 2, 2, 0])
    model.nats(images, labels).sum().backward()
    together = model.classes.weight.grad.clone()
    assert together[0].abs().min() > 0 and together[2].abs().min() > 0
    assert not together[1].any()
    model.zero_grad()
    for image, label in zip(images, labels, strict=True):
        model.nats(image[None], label[None]).sum().backward()
    torch.testing.assert_close(together, model.classes.weight.grad, rtol=1e-4, atol=1e-5)


@both_cells
def test_likelihood_is_that_of_the_mixture_over_classes_and_sums_to_one(cell):
    model = make_by_class((1, 2, 3), cell)
    every = all_images((1, 2, 3))
    found = model.log_likelihood(every).nats.double().exp()
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        given = [(-model.nats(every, torch.full((64,), y))).exp() for y in range(3)]
    mixture = sum(share * part for share, part in zip(SHARES, given, strict=True))
    torch.testing.assert_close(found.float(), mixture)
    assert (given[0] - given[1]).abs().max() > 1e-3


@pytest.mark.parametrize("cell", CELLS)
def test_a_model_without_classes_has_the_weights_it_had(cell):
    config = PixelRNNConfig(cell=cell, layers=2)
    plain, labelled = (PixelRNN(config, ImageShape(1, 4, 4, n)).state_dict() for n in (0, 3))
    assert plain.keys() == labelled.keys() and not any("class" in name for name in plain)


def test_a_new_model_draws_all_classes_alike_and_a_step_tells_them_apart():
    torch.manual_seed(0)
    config = PixelRNNConfig(layers=2, conditional=True, warmup_steps=0)
    model = PixelRNN(config, ImageShape(1, 4, 4, 2))
    images, labels = torch.ones(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    images[1::2] = -1
    assert torch.equal(model.nats(images, labels), model.nats(images, 1 - labels))
    (phase,) = model.phases()
    phase.loss(Batch(images, labels))[0].backward()
    phase.optimizer.step()
    assert model.nats(images, labels).mean() < model.nats(images, 1 - labels).mean()


def test_completions_are_of_their_labels():
    model = make_by_class((1, 4, 5), "diagonal")
    nn.init.normal_(model.classes.weight, std=3)
    images, known = torch.ones(40, 1, 4, 5), torch.zeros(40, 1, 4, 5, dtype=torch.bool)
    known[:, :, :2] = True
    first, other = (
        model.complete(images, known, torch.full((40,), y), generator=generator()) for y in (0, 2)
    )
    assert not torch.equal(first, other) and (first[:, :, :2] == 1).all()


# ---- the sampler's options


@both_cells
@pytest.mark.parametrize(("colours", "levels"), [(1, 2), (3, 4)])
def test_guided_samples_and_completions_follow_their_definition(cell, colours, levels):
    model = make_by_class((colours, 3, 4), cell, levels=levels)
    model.sampler = PixelRNNSampler(guidance=2.5)
    labels = torch.tensor([2, 0])
    images = torch.rand(2, colours, 3, 4, generator=generator()) * 2 - 1
    images = model.scale(model.quantise(images))
    for known in (torch.zeros(2, 1, 3, 4) > 0, torch.rand(2, 1, 3, 4, generator=generator()) < 0.5):
        found = model.complete(images, known, labels, generator=generator(1))
        uniforms = torch.rand(2, colours, 3, 4, generator=generator(1))
        expected = [
            slowly_drawn(model, u, int(y), 2.5, k, image)
            for u, y, k, image in zip(uniforms, labels, known, images, strict=True)
        ]
        torch.testing.assert_close(found, torch.stack(expected))


def test_guidance_of_a_model_without_labels_is_refused():
    model = make((1, 2, 3))
    model.sampler = PixelRNNSampler(guidance=2)
    with pytest.raises(UsageError, match="guidance 2 needs a model trained with --conditional"):
        model.sample(1, generator=generator())


def test_temperature_divides_the_logits():
    model = make((1, 4, 5), levels=5)
    hot = make((1, 4, 5), levels=5)
    model.sampler = PixelRNNSampler(temperature=2)
    with torch.no_grad():
        for parameter in hot.logits.parameters():
            parameter /= 2
    torch.testing.assert_close(
        model.sample(6, generator=generator()), hot.sample(6, generator=generator())
    )
