"""Labels of samples: where they come from, what they depend on, and which are refused."""

from __future__ import annotations

import pytest
import torch
from toys import SHAPE, TINY, Constant

from genkit.errors import UsageError
from genkit.model import GenerativeModel
from genkit.sampling.draw import draw
from genkit.sampling.labels import choose_labels, draw_labels, how_drawn
from genkit.specs import ImageShape
from genkit_vae import VAEConfig
from genkit_vae.model import VAE

SHARES = (0.6, 0.3, 0.1, 0.0)
LABELLED = ImageShape(*SHAPE, len(SHARES), SHARES)


class Bright(GenerativeModel):
    """Samples whose brightness is their label; it keeps what it was given."""

    def __init__(self, shape: ImageShape = LABELLED, conditional: bool = True) -> None:
        super().__init__(VAEConfig(), shape)
        self.conditional = conditional
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.given: list[torch.Tensor | None] = []

    def sample(
        self, n: int, labels: torch.Tensor | None = None, *, generator: torch.Generator
    ) -> torch.Tensor:
        self.given.append(labels)
        bright = torch.zeros(n) if labels is None else labels / 10
        return bright.view(n, 1, 1, 1).expand(n, *SHAPE) + self.weight


def brightness(images: torch.Tensor) -> list[int]:
    """The labels behind images of `Bright`."""
    found: list[int] = (images[:, 0, 0, 0].float() / 127.5 - 1).mul(10).round().int().tolist()
    return found


def test_labels_are_drawn_from_the_training_shares() -> None:
    labels = draw_labels(LABELLED, 20_000, seed=1)
    shares = torch.bincount(labels, minlength=4) / len(labels)
    assert labels.dtype == torch.int64
    assert torch.allclose(shares, torch.tensor(SHARES), atol=0.02) and shares[3] == 0


def test_labels_are_uniform_where_the_shares_are_not_known() -> None:
    labels = draw_labels(ImageShape(*SHAPE, 4), 20_000, seed=1)
    assert torch.allclose(torch.bincount(labels) / len(labels), torch.full((4,), 0.25), atol=0.02)


@pytest.mark.parametrize("balanced", [True, False])
def test_label_i_follows_from_seed_and_place_whatever_n(balanced: bool) -> None:
    many = draw_labels(LABELLED, 200, 3, balanced=balanced)
    for n in (1, 63, 64, 65, 130):
        assert torch.equal(draw_labels(LABELLED, n, 3, balanced=balanced), many[:n])
    other = draw_labels(LABELLED, 200, 4, balanced=balanced)
    assert torch.equal(other, many) == balanced


def test_samples_follow_the_labels_that_genkit_draws() -> None:
    expected = draw_labels(LABELLED, 150, seed=7).tolist()
    assert brightness(draw(Bright(), 150, seed=7)) == expected
    assert brightness(draw(Bright(), 10, seed=7)) == expected[:10]
    assert brightness(draw(Bright(), 6, 7, labels="balanced")) == [0, 1, 2, 3, 0, 1]


def test_labels_may_be_one_for_all_or_one_for_each() -> None:
    assert brightness(draw(Bright(), 3, 0, labels=2)) == [2, 2, 2]
    assert brightness(draw(Bright(), 3, 0, labels=[2, 0, 1])) == [2, 0, 1]
    assert brightness(draw(Bright(), 70, 0, labels=torch.arange(70) % 3))[64:] == [1, 2, 0, 1, 2, 0]


def test_models_that_follow_no_labels_get_none() -> None:
    model = Bright(conditional=False)
    draw(model, 3, 0)
    assert model.given == [None]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "2 labels were given for 3 samples"),
        ([0, 1, 4], "there is no class 4; classes are 0 to 3"),
        (-1, "there is no class -1"),
        ([0.0, 1.0, 2.0], "labels must be whole numbers"),
        ([[0], [1], [2]], "labels must be whole numbers"),
        (["cat", "dog", "cat"], "labels must be numbers of classes, not .'cat'"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), "labels must be numbers of classes"),
    ],
)
def test_bad_labels_are_refused_in_a_sentence(labels: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        draw(Bright(), 3, 0, labels=labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "2 labels were given for 3 samples"),
        (torch.tensor([0, 1, 4]), "there is no class 4; classes are 0 to 3"),
        (torch.tensor([0, 1, -1]), "there is no class -1"),
        (torch.tensor([0.0, 1.0, 2.0]), "labels must be whole numbers"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), "labels are on meta; move them to cpu"),
    ],
)
def test_a_model_itself_refuses_bad_labels(labels: torch.Tensor, message: str) -> None:
    model = VAE(VAEConfig(**TINY["vae"], conditional=True), LABELLED)
    with pytest.raises(UsageError, match=message):
        model.sample(3, labels, generator=torch.Generator())


def test_labels_for_a_model_without_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="without classes"):
        draw(Constant(), 3, 0, labels=0)
    with pytest.raises(UsageError, match="cannot be balanced"):
        choose_labels(Constant(), 3, 0, "balanced")


def test_cards_say_how_labels_were_drawn() -> None:
    assert how_drawn(LABELLED, balanced=True) == "balanced: all classes in turn"
    assert how_drawn(LABELLED, balanced=False) == "from the training shares"
    assert how_drawn(ImageShape(*SHAPE, 4), balanced=False) == "uniformly"


def test_labels_on_another_device_are_moved_to_the_models() -> None:
    labels = torch.zeros(3, dtype=torch.int32, device="cpu")
    model = VAE(VAEConfig(**TINY["vae"], conditional=True), LABELLED)
    assert draw(model, 3, 0, labels=labels).shape == (3, *SHAPE)
