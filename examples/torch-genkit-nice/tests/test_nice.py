"""NICE: its inverse and its density against others' computations, and genkit's contract."""

import math

import pytest
import torch
from genkit_nice import NiceConfig, NiceSampler
from genkit_nice.model import Nice

from genkit.errors import UsageError
from genkit.specs import ImageShape
from genkit.testing import check_trainer

torch.set_num_threads(1)
TINY = {"width": 8, "couplings": 3, "batch_size": 8}


def make(shape=(1, 3, 3), **values):
    torch.manual_seed(0)
    model = Nice(NiceConfig(**{**TINY, **values}), ImageShape(*shape))
    model.sampler = NiceSampler()
    for parameter in model.parameters():  # the untrained map is the identity
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_contract_is_kept():
    check_trainer("nice", options=TINY, shapes=((1, 8, 8), (3, 5, 6)))


@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 3, 3), (3, 4, 5)])
def test_decoding_undoes_encoding(shape):
    model = make(shape)
    points = torch.randn(5, math.prod(shape))
    torch.testing.assert_close(model.decode(model.encode(points)), points)


def test_volume_is_that_of_the_jacobian():
    model = make()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: model.encode(x[None])[0], torch.zeros(9)
    )
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(model.log_scale.sum(), expected)


def test_density_of_the_identity_is_that_of_a_normal_distribution():
    model = make((1, 1, 2))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.mean, model.deviation = 0.5, 1.0
    images = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)
    found = torch.stack([model.log_density(images) for _ in range(200)]).mean().item()
    values = torch.tensor([0.5 / 256, 255.5 / 256])  # the middles of the two levels
    normal = torch.distributions.Normal(0.5, 1.0).log_prob(values).sum().item()
    assert found == pytest.approx(normal - 2 * math.log(256), abs=1e-3)


def test_temperature_scales_the_noise():
    model = make()
    cool = NiceSampler(temperature=1e-6)
    model.sampler = cool
    one, other = model.sample(2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_single_value_is_refused():
    with pytest.raises(UsageError, match="at least 2 values, not 1 x 1 x 1"):
        make((1, 1, 1))
