"""Each model is caught by what is wrong with it, and the honest one is not."""

import pytest
import torch
from genkit_broken_likelihoods import register_trainers

from genkit.testing import PromiseBroken, check_likelihood

torch.set_num_threads(1)
SPECS = {spec.name: spec for spec in register_trainers()}


@pytest.mark.parametrize(
    ("name", "world", "said"),
    [
        ("unshifted-map", "1 x 1 x 2", "a map from right to left needs a shift by a row"),
        ("mask-b-first", "1 x 1 x 1", "the first layer needs mask A"),
        ("taps-padded-below", "1 x 2 x 3", "kernels need their padding at the top"),
        ("colours-see-each-other", "3 x 1 x 1", "itself or a later colour of it"),
        ("nats-in-bits", "1 x 1 x 1", "in bits they do: the unit must be nats per image"),
    ],
)
def test_a_broken_model_is_caught_by_what_is_wrong(name: str, world: str, said: str) -> None:
    with pytest.raises(PromiseBroken, match="probabilities of all images must sum to 1") as caught:
        check_likelihood(SPECS[name])
    assert str(caught.value).startswith(f"{name} ({world}, 2 levels): ")
    assert said in str(caught.value)


def test_the_honest_model_is_exact() -> None:
    found = check_likelihood(SPECS["honest"])
    assert "1 x 3 x 4, 2 levels: 4,096 images sum to 1.000000" in found
