"""One of several processes that train a small model, run by test_ranks.py: says what came of it.

Arguments: model, steps, path to write to, batch size, parts of a batch.
"""

import sys

import torch
from toys import TINY, Denoiser, bright_squares, random_images, registry

from genkit.cli.app import leave
from genkit.compute.device import place
from genkit.compute.ranks import joined
from genkit.config.resolve import resolve
from genkit.data import Split
from genkit.runs.build import build_model
from genkit.sampling.draw import draw
from genkit.specs import ImageShape
from genkit.training.loop import Loop
from genkit.training.stream import Stream

name, to = sys.argv[1], sys.argv[3]
steps, batch_size, accumulate = (int(sys.argv[i]) for i in (2, 4, 5))
split = Split(bright_squares(40))
with joined() as ranks:
    torch.manual_seed(0)
    if name == "denoiser":
        model = Denoiser(clip=0.05)
        model.noise = 0.0
    else:
        spec = registry().trainers.find(name)
        model = build_model(spec, resolve(spec, given=TINY[name]).options, ImageShape(1, 8, 8), 0)
    if name == "pixelcnn":  # images that are drawn again at each visit
        grey = random_images(40)
        split = Split((grey > 127).astype("u1") * 255, None, grey)
    cpu = torch.device("cpu")
    place(model, cpu)  # channels last, as in a run
    stream = Stream(split, batch_size=batch_size, seed=3, device=cpu, ranks=ranks)
    loop = Loop(model, stream, seed=3, ema_half_life=100, accumulate=accumulate, ranks=ranks)
    for _ in range(steps):
        logs = loop.iterate()
    found = {
        "state": loop.state_dict(),
        "logs": ranks.sum({key: float(value) for key, value in logs.items()}),
        "samples": draw(loop.average, 150, 5, ranks=ranks),
        "text": ranks.text(f"naïve words of rank {ranks.rank}"),
        "largest": ranks.largest(ranks.rank, -ranks.rank),
    }
    torch.save(found, f"{to}-{ranks.rank}.pt")
leave([0])  # as the command does: threads of torch may disturb the end of the interpreter
