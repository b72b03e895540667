"""Start-up: CPU seconds of light commands against those of `import torch`, and with twenty
plugins installed against none. Variants take turns.

python tests/bench/startup.py [--rounds 7]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "genkit --help": ["-m", "genkit", "--help"],
    "genkit list": ["-m", "genkit", "list"],
    "genkit train dcgan --help": ["-m", "genkit", "train", "dcgan", "--help"],
}
WITH_PLUGINS = ("genkit --help", "genkit list")
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


def cpu_seconds(arguments: list[str], site: Path | None = None) -> float:
    """User and system time of a whole process."""
    environment = {**os.environ, "PYTHONPATH": str(site) if site else ""}
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    times |= {f"{name}, 20 plugins": [] for name in WITH_PLUGINS}
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        install_plugins(site)
        for _ in range(rounds + 1):
            for name, arguments in COMMANDS.items():
                times[name].append(cpu_seconds(arguments))
                if name in WITH_PLUGINS:
                    times[f"{name}, 20 plugins"].append(cpu_seconds(arguments, site))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # warm
    for name, median in medians.items():
        print(f"{name:28} {median:.3f} s CPU  {median / medians['import torch']:.3f} of torch")
    for name in WITH_PLUGINS:
        none, twenty = times[name][1:], times[f"{name}, 20 plugins"][1:]
        ratios = [after / before for before, after in zip(none, twenty, strict=True)]
        print(
            f"{name}: 20 plugins cost {statistics.median(ratios):.2f} times as much "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
