"""Start-up: whole processes against `import torch`, and twenty installed plugins against none.

`genkit sample` draws 64 digits from a VAE. It must import neither torchvision nor torch-fidelity,
which imports torchvision: they would double its start.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from timing import Figure, Turn, compare, main, run_process

GENKIT = ["-m", "genkit"]
TORCH = "import torch"
LIGHT = {
    "genkit --help": [*GENKIT, "--help"],
    "genkit list": [*GENKIT, "list"],
    "genkit info kid": [*GENKIT, "info", "kid"],
    "genkit train dcgan --help": [*GENKIT, "train", "dcgan", "--help"],
    "completion of genkit train": GENKIT,
}
HEAVIER = ("genkit info vae", "genkit sample")  # which need torch; one counts parameters
COMPLETION = {
    "_GENKIT_COMPLETE": "complete_bash",
    "COMP_WORDS": "genkit train ",
    "COMP_CWORD": "2",
}
WITH_PLUGINS = ("genkit --help", "genkit list")
GOALS = {"genkit --help": {"must": 0.1, "aim": 0.05}}
HEAVY = """
import sys
from genkit.cli import main
code = main(sys.argv[1:])
heavy = {"torchvision", "torch_fidelity", "torch._dynamo.utils"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else code)
"""
TRAINER = """
from pydantic import Field
from genkit.hookspecs import hookimpl
from genkit.specs import TrainerConfig, TrainerSpec


class Options(TrainerConfig):
    width: int = Field(64, ge=1, description="channels")
    depth: int = Field(4, ge=1, description="layers")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's learning rate")


@hookimpl
def register_trainers():
    return [TrainerSpec(name="{name}", summary="A model.", target="a:B", config=Options)]
"""
COMMAND = """
import typer

app = typer.Typer()


@app.command()
def work(times: int = 1):
    "Work."
"""


def install_plugins(site: Path) -> None:
    """Ten plugins with a trainer and ten with a command, as pip would lay them into a folder."""
    for number in range(20):
        name = f"bench{number}"
        group, target = ("genkit.v1", f"genkit_{name}")
        if number >= 10:
            group, target = "genkit.v1.commands", f"genkit_{name}:app"
        source = TRAINER.replace("{name}", name) if number < 10 else COMMAND
        (site / f"genkit_{name}.py").write_text(source)
        info = site / f"torch_genkit_{name}-0.1.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: torch-genkit-{name}\nVersion: 0.1\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")


def measure(quick: bool) -> list[Figure]:
    rounds = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        site, run, grid = (Path(folder, name) for name in ("site", "run", "grid.png"))
        site.mkdir()
        install_plugins(site)
        train = [*GENKIT, "train", "vae", "--preset", "quick", "--budget", "1steps"]
        run_process([*train, "--watch", "0", "--grids", "0", "--run-dir", str(run)])
        sample = ["sample", str(run), "-o", str(grid)]
        run_process(["-c", HEAVY, *sample])
        grid.unlink()

        def process(arguments: list[str], **environment: str) -> Turn:
            return run_process(arguments, **environment).turn

        turns: dict[str, list[Turn]] = {}
        for number in range(-1, rounds):
            taken = {TORCH: process(["-c", TORCH])}
            for name, arguments in LIGHT.items():
                taken[name] = process(arguments, **(COMPLETION if arguments == GENKIT else {}))
            for name in WITH_PLUGINS:
                taken[f"{name}, 20 plugins"] = process(LIGHT[name], PYTHONPATH=str(site))
            taken["genkit info vae"] = process([*GENKIT, "info", "vae"])
            taken["genkit sample"] = process([*GENKIT, *sample])
            grid.unlink()
            if number >= 0:  # the first round fills caches
                for name, turn in taken.items():
                    turns.setdefault(name, []).append(turn)
    figures = [
        compare(f"`{name}` in units of `{TORCH}`", turns, name, TORCH, **GOALS.get(name, {}))
        for name in [*LIGHT, *HEAVIER]
    ]
    return figures + [
        compare(f"`{name}` with 20 plugins to none", turns, f"{name}, 20 plugins", name)
        for name in WITH_PLUGINS
    ]


if __name__ == "__main__":
    main(measure, __doc__)
