"""Small PNGs: `genkit data prepare` against epochs of torchvision's ImageFolder, and what a second
start from the prepared folder costs.

python tests/bench/prepare.py [--images 20000] [--side 32] [--rounds 3]

Each measurement runs in its own process, and rounds are interleaved; medians are shown. CPU seconds
are those of the process and its children, which other work on the machine disturbs less. Peak
memory is that of the process and, where it starts others, of the largest of them. A start loads the
data, checks it and takes its fingerprint, as every command does; importing torch does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# What each process runs; each prints how many seconds its part took.
WORK = {
    "prepare, 1 process": """
from genkit.cli import main
assert main(["data", "prepare", FOLDER, "--out", OUT, "--size", SIDE, "--workers", "1",
             "--progress", "none", "--json", os.devnull]) == 0
""",
    "prepare, 2 processes": """
from genkit.cli import main
assert main(["data", "prepare", FOLDER, "--out", OUT, "--size", SIDE, "--workers", "2",
             "--progress", "none", "--json", os.devnull]) == 0
""",
    "ImageFolder, 1 epoch, 0 workers": """
for _ in loader(0):
    pass
""",
    "ImageFolder, 1 epoch, 2 workers": """
for _ in loader(2):
    pass
""",
    "start from folder:": """
data = load("folder:" + FOLDER, {"size": SIDE})
""",
    "start from prepared:": """
data = load("prepared:" + PREPARED, {})
""",
    "start and 1 epoch from prepared:": """
data = load("prepared:" + PREPARED, {})
stream = Stream(data.train, batch_size=64, seed=0, device=torch.device("cpu"))
for number in range(len(stream) // 64):
    stream.batch(number)
""",
}
BEFORE = """
import json, os, resource, sys, time
FOLDER, OUT, PREPARED, SIDE, kind = sys.argv[1:]
if kind.startswith("ImageFolder"):
    import torch
    from torchvision import datasets, transforms
    torch.set_num_threads(1)
    def loader(workers):
        size = int(SIDE)
        change = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size),
                                     transforms.ToTensor()])
        images = datasets.ImageFolder(os.path.dirname(FOLDER), change)
        return torch.utils.data.DataLoader(images, 64, shuffle=True, num_workers=workers)
elif kind.startswith("start"):
    import torch
    import genkit_datasets
    from genkit.data.datasets import open_data, parse_data_name
    from genkit.training.stream import Stream
    torch.set_num_threads(1)
    def load(text, options):
        name, source = parse_data_name(text)
        specs = {spec.name: spec for spec in genkit_datasets.register_datasets()}
        data = open_data(specs[name], text, source, options)
        assert data.fingerprint
        return data
def cpu():
    return sum(os.times()[:4])
begin, cpu_begin = time.perf_counter(), cpu()
"""
AFTER = """
seconds, cpu_seconds = time.perf_counter() - begin, cpu() - cpu_begin
usage = [resource.getrusage(w).ru_maxrss / 1024 for w in (resource.RUSAGE_SELF,
                                                          resource.RUSAGE_CHILDREN)]
print(json.dumps([seconds, cpu_seconds, *usage]))
"""


def make_images(folder: Path, count: int, side: int) -> None:
    """PNGs in colour that compress about as drawings and photos do."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for number, pixels in enumerate(coarse):
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06}.png")


def measure(kind: str, folder: Path, out: Path, kept: Path, side: int) -> list[float]:
    """Seconds, CPU seconds, MiB of the process, MiB of its largest child."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + WORK[kind] + AFTER, folder, out, kept, str(side), kind],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "all", "images")
        make = [sys.executable, __file__, "--make", str(folder), str(options.images)]
        # In a process of its own: the peak of memory starts from the parent's.
        subprocess.run([*make, str(options.side)], check=True)
        kept = Path(place, "kept")
        measure("prepare, 1 process", folder, kept, kept, options.side)
        found: dict[str, list[list[float]]] = {kind: [] for kind in WORK}
        for number in range(options.rounds):
            for kind in WORK:
                out = Path(place, f"out-{number}-{len(found[kind])}-{kind[-11:].strip()}")
                found[kind].append(measure(kind, folder, out, kept, options.side))
    print(f"{options.images:,} PNGs of {options.side} x {options.side}, medians of rounds")
    print("| | seconds | CPU seconds | peak MiB | largest child MiB |\n|---|---|---|---|---|")
    for kind, rows in found.items():
        seconds, cpu, own, child = (statistics.median(v) for v in zip(*rows, strict=True))
        largest = f"{child:.0f}" if kind[-9:] in ("processes", "2 workers") else "-"
        print(f"| {kind} | {seconds:.2f} | {cpu:.2f} | {own:.0f} | {largest} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make_images(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
