"""The contracts that are checked before the first step of each training."""

import time

import numpy as np
import pytest
import torch
from broken import Toy
from toys import QUIET, bright_squares, registry, same_bits, train_tiny, write_npz

from genkit.config.resolve import resolve
from genkit.contracts.contract import random_states
from genkit.contracts.trial import OFF_SWITCH, check_before_training
from genkit.errors import PluginError, UsageError
from genkit.model import Phase
from genkit.runs.build import load_data
from genkit.specs import TrainerSpec

CPU = torch.device("cpu")


def scaled(change):
    """A toy's sample(), changed."""

    def sample(self, n, labels=None, *, generator):
        return change(Toy.sample(self, n, generator=generator))

    return {"sample": sample}


def without_generator(self, n, labels=None, *, generator):
    return self.images_of(torch.randn(n, self.image_shape.dimensions))


def by_numpy(self, n, labels=None, *, generator):
    noise = np.random.standard_normal((n, self.image_shape.dimensions))
    return self.images_of(torch.from_numpy(noise).float())


def by_own_generator(self, n, labels=None, *, generator):
    self.own = getattr(self, "own", None) or torch.Generator()
    noise = torch.randn(n, self.image_shape.dimensions, generator=self.own)
    return self.images_of(noise)


def without_the_word(self, n, labels=None):
    return self.images_of(torch.zeros(n, self.image_shape.dimensions))


def bare_loss(self, batch):
    return Toy.loss(self, batch)[0]


def per_image(self, batch):
    return self.layer(batch.images.flatten(1)).square().mean(1), {}


def numpy_loss(self, batch):
    return Toy.loss(self, batch)[0].detach().numpy(), {}


def without_super(self, config, image_shape):
    self.layer = torch.nn.Linear(2, 2)


def logs_floats(self, batch):
    return Toy.loss(self, batch)[0], {"accuracy": 0.5}


def backward(self, batch):
    Toy.loss(self, batch)[0].backward()
    return Toy.loss(self, batch)


def in_place(self, batch):
    batch.images.add_(0.1)
    return Toy.loss(self, batch)


def seeded(self, batch):
    torch.manual_seed(0)
    return Toy.loss(self, batch)


def seeded_init(self, config, image_shape):
    torch.manual_seed(0)
    Toy.__init__(self, config, image_shape)


def double_init(self, config, image_shape):
    Toy.__init__(self, config, image_shape)
    self.prior = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))


def listed_init(self, config, image_shape):
    Toy.__init__(self, config, image_shape)
    self.layers = [torch.nn.Linear(2, 2)]


def twice(self):
    optimizers = [torch.optim.Adam(self.parameters()) for _ in range(2)]
    return [
        Phase(name=n, loss=self.loss, optimizer=o) for n, o in zip("ab", optimizers, strict=True)
    ]


def half(self):
    optimizer = torch.optim.Adam([self.layer.weight])
    return [Phase(name="a", loss=self.loss, optimizer=optimizer)]


MISTAKES = {
    "0 to 255": (scaled(lambda x: (x + 1) * 127.5), "sample(2) gave values from"),
    "bytes": (scaled(lambda x: x.mul(100).to(torch.uint8)), "sample(2) gave torch.uint8"),
    "0 to 1": (scaled(lambda x: (x + 1) / 2), "black must be -1 in samples, not 0"),
    "NaN": (scaled(lambda x: x * torch.nan), "not finite"),
    "flat": (scaled(lambda x: x.flatten(1)), "sample(2) gave (2, 64), not (2, 1, 8, 8)"),
    "NHWC": (scaled(lambda x: x.movedim(1, -1)), "sample(2) gave (2, 8, 8, 1)"),
    "numpy": (scaled(lambda x: x.numpy()), "sample(2) gave ndarray"),
    "no generator": ({"sample": without_generator}, "give generator=generator to every draw"),
    "numpy's generator": ({"sample": by_numpy}, "numpy's global generator: draw all noise by"),
    "its own generator": ({"sample": by_own_generator}, "a second sample of the same generator"),
    "bare loss": ({"loss": bare_loss}, "'denoise' returned Tensor, not (loss, extras)"),
    "loss per image": ({"loss": per_image}, "'loss' of 'denoise' is (8,), not a scalar tensor"),
    "loss by numpy": ({"loss": numpy_loss}, "'loss' of 'denoise' is ndarray, not a scalar"),
    "floats to log": ({"loss": logs_floats}, "'accuracy' of 'denoise' is float, not a scalar"),
    "backward()": ({"loss": backward}, "calls backward(), which the loop does"),
    "images in place": ({"loss": in_place}, "'denoise' changed the images in place"),
    "seed in a loss": ({"loss": seeded}, "the loss of 'denoise' seeds the generator with 0"),
    "seed in __init__": ({"__init__": seeded_init}, "every --seed begins with the same weights"),
    "float64": ({"__init__": double_init}, "'prior' is torch.float64; call float()"),
    "layers in a list": ({"__init__": listed_init}, "'layers' holds a Linear"),
    "two optimizers": ({"phases": twice}, "'layer.weight' is in the optimizers of both 'a' and"),
    "no optimizer": ({"phases": half}, "'layer.bias' is in none"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


def check_toy(monkeypatch, data, methods, **given):
    """Check a toy with other methods, as `genkit train` does before it writes anything."""
    monkeypatch.setitem(globals(), "Model", type("Model", (Toy,), methods))
    spec = TrainerSpec(name="toy", summary="A toy.", target=f"{__name__}:Model")
    resolved = resolve(spec, given={**QUIET, "data": data, "batch_size": 8, **given})
    found = load_data(registry(), resolved.run)
    check_before_training(spec, resolved, found, CPU, resolved.run.precision)


@pytest.mark.parametrize("methods, sentence", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_reported_with_the_contract_and_the_off_switch(
    monkeypatch, data, methods, sentence
):
    with pytest.raises(PluginError) as caught:
        check_toy(monkeypatch, data, methods)
    assert str(caught.value).startswith("toy: ") and sentence in str(caught.value)
    assert str(caught.value).endswith(f"; {OFF_SWITCH}=1 trains all the same")


@pytest.mark.parametrize(
    "change",
    [lambda x: x, torch.zeros_like, lambda x: x.double(), lambda x: torch.ones_like(x).neg()],
    ids=["as it is", "an output that starts at 0", "float64", "black"],
)
def test_honest_samples_of_an_untrained_model_pass(monkeypatch, data, change):
    check_toy(monkeypatch, data, scaled(change))


def test_white_samples_of_white_data_pass(monkeypatch, tmp_path):
    white = write_npz(tmp_path / "white.npz", 255 - bright_squares(40))
    check_toy(monkeypatch, white, scaled(torch.abs))


def test_labels_of_the_data_reach_the_loss(monkeypatch, tmp_path):
    labels = np.arange(40) % 4
    data = write_npz(tmp_path / "labelled.npz", bright_squares(40), labels=labels)
    seen = []

    def loss(self, batch):
        seen.append(batch.labels)
        return Toy.loss(self, batch)

    check_toy(monkeypatch, data, {"loss": loss})
    assert seen[0].dtype == torch.int64 and seen[0].shape == (8,)


def test_parts_of_a_batch_are_as_small_as_in_the_training(monkeypatch, data):
    sizes = []

    def loss(self, batch):
        sizes.append(len(batch.images))
        return Toy.loss(self, batch)

    check_toy(monkeypatch, data, {"loss": loss}, accumulate=4)
    assert set(sizes) == {2}


def test_switch_turns_the_checks_off(monkeypatch, data):
    monkeypatch.setenv(OFF_SWITCH, "1")
    check_toy(monkeypatch, data, MISTAKES["0 to 255"][0])


def test_message_of_the_model_to_its_user_stays_a_usage_error(monkeypatch, data):
    def refuse(self, config, image_shape):
        raise UsageError("only images of 32 x 32")

    with pytest.raises(UsageError, match=r"^only images of 32 x 32$"):
        check_toy(monkeypatch, data, {"__init__": refuse})


def raise_value_error(self, *arguments, **named):
    raise ValueError("not today")


@pytest.mark.parametrize(
    "methods, message",
    [
        ({"sample": without_the_word}, "Model.sample() failed: TypeError: without_the_word() got"),
        ({"loss": raise_value_error}, "the loss of phase 'denoise' failed: ValueError: not today"),
        ({"phases": raise_value_error}, "Model.phases() failed: ValueError: not today"),
        ({"__init__": raise_value_error}, "toy: building the model for images of 1 x 8 x 8 failed"),
        (
            {"__init__": without_super},
            "toy: building the model for images of 1 x 8 x 8 failed: Attr",
        ),
    ],
)
def test_failure_of_the_models_code_is_said_as_such(monkeypatch, data, methods, message):
    with pytest.raises(PluginError) as caught:
        check_toy(monkeypatch, data, methods)
    assert str(caught.value).startswith(message)


def test_slow_sampler_is_asked_once(monkeypatch, data):
    calls = []

    def sample(self, n, labels=None, *, generator):
        calls.append(n)
        time.sleep(0.4)
        return Toy.sample(self, n, generator=generator)

    check_toy(monkeypatch, data, {"sample": sample})
    assert calls == [2]


def test_random_states_are_left_as_they_were(monkeypatch, data):
    before = random_states()
    check_toy(monkeypatch, data, {})
    after = random_states()
    assert torch.equal(before["torch"], after["torch"]) and before["Python"] == after["Python"]
    assert np.array_equal(before["numpy"][1], after["numpy"][1])


@pytest.mark.parametrize("model", ["vae", "dcgan"])
def test_training_computes_the_same_bits_with_and_without(monkeypatch, tmp_path, data, model):
    runs = []
    for switch in ("0", "1"):
        monkeypatch.setenv(OFF_SWITCH, switch)
        runs.append(train_tiny(model, data, tmp_path / switch, budget="3steps"))
    assert same_bits(*(run.model.state_dict() for run in runs))


def test_nothing_is_written_for_a_model_that_is_refused(monkeypatch, tmp_path, data):
    from genkit_vae.model import VAE

    monkeypatch.setattr(VAE, "decode_latents", lambda self, z, labels=None: torch.full((2,), 9.0))
    with pytest.raises(PluginError, match="samples must be finite floats"):
        train_tiny("vae", data, tmp_path / "run", budget="2steps")
    assert not (tmp_path / "run").exists()
