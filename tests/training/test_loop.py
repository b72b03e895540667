"""The training loop, against loops written by hand."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from toys import (
    CPU,
    SHAPE,
    TINY,
    Denoiser,
    TinyGAN,
    make_loop,
    make_stream,
    random_images,
    same_bits,
    snapshot,
)

from genkit.compute.device import place
from genkit.compute.seeds import derive_seed
from genkit.errors import PluginError, TrainingError, UsageError
from genkit.model import Phase
from genkit.sampling import draw as sampling
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN
from genkit_vae import VAEConfig
from genkit_vae.model import VAE

IMAGES = random_images(20)  # with batches of 8, the third one straddles two epochs


def batches_by_hand(count, size=8, seed=0):
    """Batches in [-1, 1] as the design says: permutations seeded by (seed, epoch), in a row."""
    order = []
    for epoch in range(count * size // len(IMAGES) + 1):
        generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
        order += torch.randperm(len(IMAGES), generator=generator).tolist()
    images = torch.from_numpy(IMAGES).float() * (1 / 127.5) - 1
    return [images[order[i * size : (i + 1) * size]] for i in range(count)]


def both_phases(gan, generator, discriminator):
    return [
        Phase(name="d", loss=gan.discriminator_loss, optimizer=discriminator),
        Phase(name="g", loss=gan.generator_loss, optimizer=generator),
    ]


def later(loss, optimizer):
    """A phase that no test reaches, for networks that are to stay as they are."""
    return Phase(name="later", loss=loss, optimizer=optimizer, active=(0.9, 1.0))


def only_generator(loss):
    return lambda m, g, d: [
        Phase(name="g", loss=loss or m.generator_loss, optimizer=g),
        later(m.discriminator_loss, d),
    ]


# ---- one iteration equals a bare loop


def test_iterations_equal_a_bare_loop_for_a_toy_model():
    torch.manual_seed(1)
    model = Denoiser()
    bare = copy.deepcopy(model)
    loop = make_loop(model, IMAGES)
    optimizer = torch.optim.Adam(bare.parameters(), 1e-2)
    for step, images in enumerate(batches_by_hand(6)):
        logs = loop.iterate()
        torch.manual_seed(derive_seed(0, "step", step))
        x = images.flatten(1)
        loss = ((bare.layers(x + torch.randn_like(x)) - x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.equal(logs["denoise/loss"], loss)
        assert torch.equal(logs["denoise/double"], 2 * loss)
    assert same_bits(model.state_dict(), bare.state_dict())


def test_iterations_equal_a_bare_loop_for_dcgan():
    torch.manual_seed(1)
    model = place(DCGAN(DCGANConfig(**TINY["dcgan"]), ImageShape(*SHAPE)), CPU)
    bare = copy.deepcopy(model)
    loop = make_loop(model, IMAGES)
    generator, discriminator = bare.generator, bare.discriminator
    adam = torch.optim.Adam
    generator_adam = adam(generator.parameters(), 3e-4, (0.5, 0.999), fused=True)
    discriminator_adam = adam(discriminator.parameters(), 3e-4, (0.5, 0.999), fused=True)
    for step, real in enumerate(batches_by_hand(6)):
        logs = loop.iterate()
        torch.manual_seed(derive_seed(0, "step", step))
        fake = generator(torch.randn(8, 4))
        loss = F.softplus(-discriminator(fake)).mean()
        gradients = torch.autograd.grad(loss, list(generator.parameters()))
        for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
            parameter.grad = gradient
        generator_adam.step()
        assert torch.equal(logs["generator/loss"], loss)

        real_logits, fake_logits = discriminator(torch.cat([real, fake.detach()])).chunk(2)
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        discriminator_adam.zero_grad()
        loss.backward()
        discriminator_adam.step()
        assert torch.equal(logs["discriminator/loss"], loss)
        assert torch.equal(logs["discriminator/real"], real_logits.sigmoid().mean())
    assert same_bits(model.state_dict(), bare.state_dict())


def test_iterations_equal_a_bare_loop_for_the_vae():
    torch.manual_seed(1)
    config = VAEConfig(**TINY["vae"], decay_after=3)
    model = place(VAE(config, ImageShape(*SHAPE)), CPU)
    bare = copy.deepcopy(model)
    loop = make_loop(model, IMAGES)
    adam = torch.optim.Adam(bare.parameters(), 1e-3, fused=True)
    for step, images in enumerate(batches_by_hand(6)):
        logs = loop.iterate()
        torch.manual_seed(derive_seed(0, "step", step))
        mean, log_variance = bare.encoder(images)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        output, white = bare.decoder(z), (images + 1) / 2
        entropy = F.binary_cross_entropy_with_logits(output, white, reduction="none")
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        loss = (1.0 * kl + entropy.flatten(1).sum(1)).mean() / 64
        adam.param_groups[0]["lr"] = 1e-3 * (1 / math.sqrt(max(step / 3, 1)))
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert torch.equal(logs["elbo/loss"], loss)
        assert torch.equal(logs["elbo/kl_nats"], kl.mean())
    assert same_bits(model.state_dict(), bare.state_dict())


# ---- phases


def test_generator_phase_leaves_discriminator_untouched_and_without_gradients():
    model = TinyGAN(only_generator(None))
    before, generator = snapshot(model.discriminator), snapshot(model.generator)
    loop = make_loop(model)
    for _ in range(3):
        loop.iterate()
    assert same_bits(model.discriminator.state_dict(), before)
    assert not same_bits(model.generator.state_dict(), generator)
    assert all(p.grad is None and p.requires_grad for p in model.discriminator.parameters())


def test_discriminator_phase_leaves_generator_weights_untouched():
    model = TinyGAN(
        lambda m, g, d: [
            Phase(name="d", loss=m.discriminator_loss, optimizer=d),
            later(m.generator_loss, g),
        ]
    )
    before = copy.deepcopy(list(model.generator.parameters()))
    make_loop(model).iterate()
    assert same_bits(list(model.generator.parameters()), before)
    assert all(p.grad is None for p in model.generator.parameters())


def test_parameters_are_unfrozen_after_a_loss_that_raises():
    def fail(batch):
        raise RuntimeError("broken plugin")

    model = TinyGAN(only_generator(fail))
    with pytest.raises(PluginError, match=r"loss of phase 'g' in step 1 failed.*broken plugin"):
        make_loop(model).iterate()
    assert all(p.requires_grad for p in model.parameters())


def test_parameters_that_a_model_froze_itself_stay_frozen():
    model = TinyGAN(only_generator(None))
    model.discriminator[0].weight.requires_grad_(False)
    make_loop(model).iterate()
    assert not model.discriminator[0].weight.requires_grad


def test_five_repeats_take_five_distinct_batches_and_other_phases_the_first():
    def plan(m, g, d):
        critic = Phase(name="d", loss=m.discriminator_loss, optimizer=d, repeats=5)
        return [critic, Phase(name="g", loss=m.generator_loss, optimizer=g)]

    model = TinyGAN(plan)
    loop = make_loop(model, random_images(200))
    expected = [make_stream(random_images(200)).batch(i).images for i in range(10)]
    loop.iterate()
    loop.iterate()
    assert [name for name, _ in model.seen] == ["d"] * 5 + ["g"] + ["d"] * 5 + ["g"]
    seen = [images for _, images in model.seen]
    assert same_bits(seen, [*expected[:5], expected[0], *expected[5:], expected[5]])
    assert loop.images_seen == 2 * 5 * 8


def test_phase_with_every_runs_on_multiples_only():
    def plan(m, g, d):
        lazy = Phase(name="r1", loss=m.r1_loss, optimizer=d, every=16)
        return [*both_phases(m, g, d), lazy]

    loop = make_loop(TinyGAN(plan))
    ran = [step for step in range(40) if "r1/loss" in loop.iterate()]
    assert ran == [0, 16, 32]


def shared_optimizer(m, g, d):
    lazy = Phase(name="r1", loss=m.r1_loss, optimizer=d, every=4)
    return [*both_phases(m, g, d), lazy]


def test_two_phases_on_one_optimizer_keep_one_state_and_save_it_once():
    torch.manual_seed(0)
    loop = make_loop(TinyGAN(shared_optimizer))
    for _ in range(6):
        loop.iterate()
    saved = copy.deepcopy(loop.state_dict())
    discriminator, generator = saved["optimizers"]  # in the order of the phases
    steps = [int(s["step"]) for s in discriminator["state"].values()]
    assert steps == [6 + 2, 6 + 2, 6 + 2, 6]  # R1 has no gradient for the last bias
    assert {int(s["step"]) for s in generator["state"].values()} == {6}

    torch.manual_seed(1)
    again = make_loop(TinyGAN(shared_optimizer))
    again.load_state_dict(saved)
    for _ in range(3):
        loop.iterate()
        again.iterate()
    assert same_bits(loop.state_dict(), again.state_dict())


@pytest.mark.parametrize(
    "phases, complaint",
    [
        (lambda m, g, d: [], "names of their own"),
        (lambda m, g, d: both_phases(m, g, d) * 2, "names of their own"),
        (lambda m, g, d: [Phase(name="g", loss=m.loss, optimizer=g, repeats=0)], "start at 1"),
        (lambda m, g, d: [Phase(name="g", loss=m.loss, optimizer=g, every=0)], "start at 1"),
    ],
)
def test_phases_that_the_loop_cannot_follow_are_a_plugin_error(phases, complaint):
    model = TinyGAN(phases)
    model.loss = model.generator_loss
    with pytest.raises(PluginError, match=complaint):
        make_loop(model)


# ---- gradient penalties, accumulation, clipping, schedules


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", ["wgan_loss", "r1_loss"])
def test_gradient_penalties_train(loss, precision):
    torch.manual_seed(0)
    model = TinyGAN(
        lambda m, g, d: [
            Phase(name="d", loss=getattr(m, loss), optimizer=d),
            Phase(name="g", loss=m.generator_loss, optimizer=g),
        ]
    )
    loop = make_loop(model, precision=precision)
    losses = [loop.iterate()["d/loss"] for _ in range(60)]
    assert torch.stack(losses[-5:]).mean() < torch.stack(losses[:5]).mean()


def test_gradient_penalty_equals_the_closed_form_of_a_linear_critic():
    """The gradient of w·x is w everywhere: R1 is |w|², and its gradient 2w."""
    model = TinyGAN(
        lambda m, g, d: [
            Phase(name="r1", loss=m.r1_loss, optimizer=d),
            later(m.generator_loss, g),
        ]
    )
    model.discriminator = torch.nn.Linear(64, 1)
    model.discriminator.bias.requires_grad_(False)
    weight = model.discriminator.weight.detach().clone()
    model.judges = lambda: [model.discriminator.weight]
    logs = make_loop(model).iterate()
    torch.testing.assert_close(logs["r1/loss"], weight.square().sum())
    torch.testing.assert_close(model.discriminator.weight.grad, 2 * weight)


@pytest.mark.parametrize("parts", [2, 3, 4, 8, 100])
def test_accumulation_equals_the_whole_batch(parts):
    def sgd(parameters):
        return torch.optim.SGD(parameters, 0.1)

    torch.manual_seed(0)
    whole = Denoiser(sgd, clip=0.05)
    whole.noise = 0.0
    split = copy.deepcopy(whole)
    loops = make_loop(whole), make_loop(split, accumulate=parts)
    for _ in range(5):
        logs, split_logs = (loop.iterate() for loop in loops)
        for name in ("denoise/loss", "denoise/double", "denoise/gradient_norm"):
            torch.testing.assert_close(split_logs[name], logs[name], rtol=1e-6, atol=1e-6)
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_accumulation_gives_each_part_its_labels():
    labels = torch.arange(40).numpy()
    images = random_images(40)
    seen = []

    class Labelled(Denoiser):
        def loss(self, batch):
            seen.append((batch.images, batch.labels))
            return super().loss(batch)

    stream = make_stream(images, labels=labels)
    loop = make_loop(Labelled(), images, accumulate=3)
    loop.stream = stream
    loop.iterate()
    assert [len(part) for part, _ in seen] == [3, 3, 2]
    whole = stream.batch(0)
    assert torch.equal(torch.cat([part for part, _ in seen]), whole.images)
    assert torch.equal(torch.cat([part for _, part in seen]), whole.labels)


def test_dcgan_refuses_parts_of_one_image():
    model = DCGAN(DCGANConfig(**TINY["dcgan"]), ImageShape(*SHAPE))
    with pytest.raises(UsageError, match="--accumulate"):
        make_loop(model, accumulate=8).iterate()


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_clip_bounds_the_norm_of_the_gradient(clip):
    torch.manual_seed(0)
    free, clipped = Denoiser(), Denoiser(lambda p: torch.optim.SGD(p, 1.0), clip=clip)
    clipped.load_state_dict(free.state_dict())
    free.make_optimizer = lambda p: torch.optim.SGD(p, 1.0)
    before = torch.nn.utils.parameters_to_vector(free.parameters()).detach().clone()
    make_loop(free).iterate()
    norm = make_loop(clipped).iterate()["denoise/gradient_norm"]
    gradient = before - torch.nn.utils.parameters_to_vector(free.parameters())
    moved = before - torch.nn.utils.parameters_to_vector(clipped.parameters())
    torch.testing.assert_close(norm, gradient.norm(), rtol=1e-4, atol=0)
    expected = gradient * min(1, clip / gradient.norm())
    torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-6)


def test_schedule_of_an_iteration_is_used_for_it_and_starts_at_zero():
    asked = []

    def schedule(step):
        asked.append(step)
        return 1 / (step + 1)

    model = Denoiser(lambda p: torch.optim.SGD(p, 0.5), schedule=schedule)
    model.loss = lambda batch: (sum(p.sum() for p in model.parameters()), {})  # gradient 1
    model.phase["loss"] = model.loss
    before = copy.deepcopy(list(model.parameters()))
    loop = make_loop(model)
    for step in range(4):
        loop.iterate()
        moved = [(b - p).mean().item() for b, p in zip(before, model.parameters(), strict=True)]
        assert moved == pytest.approx([0.5 * sum(1 / (i + 1) for i in range(step + 1))] * 4)
    assert asked == [0, 1, 2, 3]


# ---- averages, counts


def test_average_equals_the_recursion_of_its_half_life_with_its_early_ramp():
    torch.manual_seed(0)
    model = TinyGAN(both_phases)
    expected = [p.detach().double().clone() for p in model.parameters()]
    loop = make_loop(model, ema_half_life=40)
    for step in range(1, 121):
        loop.iterate()
        half_life = min(40, 0.05 * 8 * step)  # in images; reaches 40 after 100 steps
        keep = 0.5 ** (8 / half_life)
        expected = [
            keep * e + (1 - keep) * p.detach().double()
            for e, p in zip(expected, model.parameters(), strict=True)
        ]
    for own, wanted in zip(loop.average.parameters(), expected, strict=True):
        torch.testing.assert_close(own.double(), wanted, rtol=1e-5, atol=1e-6)
        assert not own.requires_grad
    assert not loop.average.training and model.training


def test_no_half_life_gives_the_model_itself():
    model = TinyGAN(both_phases)
    loop = make_loop(model)
    loop.iterate()
    assert loop.average is model
    assert loop.state_dict()["average"] == {}


def test_images_seen_counts_batches():
    loop = make_loop(Denoiser(), batch_size=7)
    assert loop.images_seen == 0
    for _ in range(3):
        loop.iterate()
    assert (loop.step, loop.images_seen) == (3, 21)


# ---- losses that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_non_finite_loss_stops_before_any_weight_moves(value, accumulate):
    model = Denoiser()
    loop = make_loop(model, accumulate=accumulate, ema_half_life=100)
    for _ in range(4):
        loop.iterate()
    before, average = snapshot(model), snapshot(loop.average)
    plain = model.loss
    loop.phases[0].loss = lambda batch: (plain(batch)[0] + value, {})
    with pytest.raises(TrainingError, match=r"'denoise' became .* in step 5;"):
        loop.iterate()
    assert same_bits(model.state_dict(), before)
    assert same_bits(loop.average.state_dict(), average)
    assert loop.step == 4


def test_non_finite_loss_of_the_second_phase_leaves_its_weights_untouched():
    model = TinyGAN(both_phases)
    loop = make_loop(model)
    loop.iterate()
    before = copy.deepcopy(list(model.generator.parameters()))
    loop.phases[1].loss = lambda batch: (model.generator_loss(batch)[0] * float("inf"), {})
    with pytest.raises(TrainingError, match="'g' became inf in step 2;"):
        loop.iterate()
    assert same_bits(list(model.generator.parameters()), before)
    assert all(p.requires_grad for p in model.parameters())


def test_non_finite_extras_do_not_stop_the_loop():
    model = Denoiser()
    model.phase["loss"] = lambda batch: (model.loss(batch)[0], {"odd": torch.tensor(torch.nan)})
    assert make_loop(model).iterate()["denoise/odd"].isnan()


def test_weights_that_are_not_finite_are_found_though_the_loss_was_finite():
    model = Denoiser()
    loop = make_loop(model)
    loop.iterate()
    loop.check_weights()
    with torch.no_grad():
        model.layers[2].bias[3] = torch.inf
    with pytest.raises(TrainingError, match=r"'layers\.2\.bias' .* step 1;"):
        loop.check_weights()


# ---- randomness


def make_dcgan(ema_half_life=100):
    torch.manual_seed(3)
    model = DCGAN(DCGANConfig(**TINY["dcgan"]), ImageShape(*SHAPE))
    return make_loop(model, ema_half_life=ema_half_life)


@pytest.mark.parametrize("ema_half_life", [0, 100])
def test_sampling_between_iterations_changes_nothing(ema_half_life):
    plain, interrupted = make_dcgan(ema_half_life), make_dcgan(ema_half_life)
    for _ in range(4):
        logs = plain.iterate()
        sampling.draw(interrupted.average, 3, seed=0)
        torch.randn(17)
        interrupted_logs = interrupted.iterate()
        assert same_bits(logs, interrupted_logs)
    assert same_bits(plain.state_dict(), interrupted.state_dict())


def test_an_iteration_replayed_from_a_state_gives_the_same_bits():
    loop = make_dcgan()
    for _ in range(3):
        loop.iterate()
    saved = copy.deepcopy(loop.state_dict())
    logs, after = loop.iterate(), copy.deepcopy(loop.state_dict())
    for _ in range(2):
        loop.load_state_dict(copy.deepcopy(saved))
        assert same_bits(loop.iterate(), logs)
        assert same_bits(loop.state_dict(), after)


def test_noise_differs_between_steps_and_between_seeds():
    def noise(seed, steps):
        drawn = []
        model = Denoiser()
        model.phase["loss"] = lambda b: (drawn.append(torch.randn(5)) or model.loss(b)[0], {})
        loop = make_loop(model, seed=seed)
        for _ in range(steps):
            loop.iterate()
        return drawn

    drawn = [tuple(d.tolist()) for seed in (0, 1, 2**32) for d in noise(seed, 3)]
    assert len(set(drawn)) == 9
    assert drawn[:3] == [tuple(d.tolist()) for d in noise(0, 3)]
