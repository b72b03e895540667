"""Flow: a training step against a hand-written loop with the same network, and sampling against the
network's passes alone. Preset `quick`, 28 x 28, batch 32, one thread.
"""

import torch
from subjects import CPU, PRECISIONS, digits, new_loop, new_model, next_of, steps_of, tuned
from timing import Figure, compare, interleave, main
from torch import nn

from genkit.io.machine import keep_freed_memory
from genkit.training.stream import Stream

SAMPLES, STEPS = 64, 10


def plain(model, stream, precision):
    """Training steps as a careful script takes them, endlessly: the loss of equation 1 with EDM's
    scaling, Adam, clipping, an average of the weights."""
    network = tuned(model).network
    parameters = list(network.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, 1e-3, betas=(0.9, 0.99), fused=True)
    decay = 0.5 ** (model.config.batch_size / model.config.ema_half_life)
    mean, deviation, step = model.mean, model.deviation, 0
    while True:
        x1 = stream.batch(step).images
        x1 = x1 + 2 / 255 * (torch.rand_like(x1) - 0.5)
        x0, t = torch.randn_like(x1), torch.randn(len(x1)).sigmoid()
        s = t[:, None, None, None]
        xt = torch.lerp(x0, x1, s) - s * mean
        variance = s**2 * deviation**2 + (1 - s) ** 2
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = network(xt * variance.rsqrt(), t[:, None])
        linear = mean + (s * deviation**2 - (1 - s)) / variance * xt
        loss = (linear + deviation * variance.rsqrt() * found - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1)
        optimizer.step()
        torch._foreach_lerp_(average, parameters, 1 - decay)
        step += 1
        yield loss


def training(precision: str, steps: int, rounds: int) -> Figure:
    model = new_model("flow", "quick")
    stream = Stream(digits(), batch_size=model.config.batch_size, seed=0, device=CPU)
    variants = {
        "plain": next_of(plain(model, stream, precision), steps),
        "genkit": steps_of(new_loop(new_model("flow", "quick"), precision), steps),
    }
    turns = interleave(variants, rounds)
    title = f"flow training (quick, {precision}), tuned loop to genkit"
    return compare(title, turns, "plain", "genkit", steps=steps, must=1, aim=1.1)


@torch.no_grad()
def sampling(rounds: int) -> Figure:
    model = new_model("flow", "quick").eval()
    model.sampler = model.sampler.model_copy(update={"steps": STEPS})
    images, times = torch.randn(SAMPLES, 1, 28, 28), torch.full((SAMPLES, 1), 0.5)
    generator = torch.Generator().manual_seed(0)
    variants = {
        "passes": lambda: [model.network(images, times) for _ in range(2 * STEPS)],
        "genkit": lambda: model.sample(SAMPLES, generator=generator),
    }
    title = f"flow sampling ({SAMPLES} digits, {STEPS} Heun steps), passes of the network to genkit"
    return compare(title, interleave(variants, rounds), "passes", "genkit", must=0.9, aim=0.98)


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as `genkit train` does, here for both
    steps, rounds = (1, 1) if quick else (10, 7)
    return [*(training(each, steps, rounds) for each in PRECISIONS), sampling(rounds)]


if __name__ == "__main__":
    main(measure, __doc__)
