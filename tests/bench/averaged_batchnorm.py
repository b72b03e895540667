"""FID of averaged weights by what their BatchNorm holds: buffers of the last batch, buffers that
are averaged as the weights are, or buffers recomputed over batches of samples. A DCGAN for each
seed.

    python tests/bench/averaged_batchnorm.py --seeds 6 --images 20000 60000
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch
from torch import nn

from genkit.compute.device import place
from genkit.config.resolve import fit, resolve
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.io.progress import Reporter
from genkit.registry.catalogue import load_registry
from genkit.runs.build import build_model, load_data
from genkit.sampling.draw import draw
from genkit.training import average as average_module
from genkit.training.loop import Loop
from genkit.training.stream import Stream

KINDS = ("raw", "copied", "averaged", "recomputed 100", "recomputed 16", "recomputed 4")


def norms(model: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    kind = nn.modules.batchnorm._NormBase
    return [m for m in model.modules() if isinstance(m, kind) and m.running_mean is not None]


def recomputed(model: nn.Module, batch_size: int, batches: int) -> nn.Module:
    """A copy whose statistics are the mean of those of some batches of samples."""
    model = copy.deepcopy(model)
    for norm in norms(model):
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    model.train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(batches):
            model.sample(batch_size, generator=generator)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 60_000])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument(
        "--ramp", type=float, default=average_module.RAMP, help="large: a full half-life"
    )
    options = parser.parse_args()
    average_module.RAMP = options.ramp
    torch.set_num_threads(1)
    registry = load_registry()
    spec = registry.trainers.find("dcgan")
    found: dict[tuple[int, str], list[float]] = {}
    for seed in range(options.seeds):
        resolved = resolve(spec, preset="quick", given={"data": "mnist-mini", "seed": seed})
        data = load_data(registry, resolved.run)
        resolved, _ = fit(spec, resolved, data.facts)
        model = build_model(spec, resolved.options, data.model_shape, seed)
        cpu = torch.device("cpu")
        place(model, cpu)
        stream = Stream(data.train, batch_size=model.config.batch_size, seed=seed, device=cpu)
        half_life = model.config.ema_half_life
        loop = Loop(model, stream, seed=seed, precision="fp32", ema_half_life=half_life)
        evaluator = Evaluator.choose(registry, data, EvaluationProtocol(), Reporter())
        averages = [[b.clone() for n in norms(model) for b in (n.running_mean, n.running_var)]]
        for images in options.images:
            while loop.images_seen < images:
                loop.iterate()
                seen = min(half_life, average_module.RAMP * loop.images_seen)
                new = [b for n in norms(model) for b in (n.running_mean, n.running_var)]
                torch._foreach_lerp_(averages[0], new, 1 - 0.5 ** (loop.images_per_step / seen))
            alike, copied = copy.deepcopy(loop.average), copy.deepcopy(loop.average)
            for buffer, last in zip(copied.buffers(), model.buffers(), strict=True):
                buffer.copy_(last)
            own = [b for n in norms(alike) for b in (n.running_mean, n.running_var)]
            for buffer, average in zip(own, averages[0], strict=True):
                buffer.copy_(average)
            kinds = (
                copy.deepcopy(loop.model).eval(),
                copied,
                alike,
                *(recomputed(copied, stream.batch_size, n) for n in (100, 16, 4)),
            )
            for name, each in zip(KINDS, kinds, strict=True):
                row = evaluator.evaluate_images(name, draw(each, options.samples, seed=0))
                found.setdefault((images, name), []).append(row.scores["fid"])
            loop.model.train()
            line = ", ".join(f"{name} {found[images, name][-1]:.2f}" for name in KINDS)
            print(f"seed {seed}, {images:,} images: {line}", flush=True)
    for (images, name), values in found.items():
        shares = [v / c for v, c in zip(values, found[images, "copied"], strict=True)]
        print(
            f"{images:,} images, {name}: FID {statistics.mean(values):.2f} "
            f"(sd {statistics.stdev(values):.2f}), over copied {statistics.median(shares):.3f} "
            f"({min(shares):.3f} to {max(shares):.3f})"
        )


if __name__ == "__main__":
    main()
