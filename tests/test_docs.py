"""The documentation's code is code: the plugin page's package is installed and used as written."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.config import RunConfig, resolve
from genkit.data import Split
from genkit.loop import Loop
from genkit.plugins import Plugin, Plugins
from genkit.registry import Entry, Registry
from genkit.runs import build_model
from genkit.sampling import draw
from genkit.specs import ImageShape
from genkit.stream import Stream

PAGE = Path(__file__).parent.parent / "docs" / "plugins.md"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The files of the page, each code block under the name in its first line."""
    for block in re.findall(r"```(?:python|toml)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def tinyflow(package):
    plugins = Plugins()
    module = EntryPoint("tinyflow", "genkit_tinyflow", "genkit.v1").load()
    plugins.register(module, Plugin("tinyflow", "torch-genkit-tinyflow", "0.1"))
    return Registry(plugins).trainers.find("tinyflow")


def test_tutorial_model_has_under_60_lines(package):
    lines = [
        line
        for path in package.glob("genkit_tinyflow/*.py")
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert len(lines) < 60


def test_tutorial_entry_module_does_not_import_torch(package):
    code = "import sys, genkit_tinyflow; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=package, check=False)
    assert done.returncode == 0


def test_tutorial_model_trains_and_samples(tinyflow):
    options = resolve(tinyflow, given={"width": 64, "batch_size": 32}).options
    model = build_model(tinyflow, options, ImageShape(1, 8, 8), seed=0)
    black = Split(np.zeros((40, 1, 8, 8), np.uint8))
    stream = Stream(black, batch_size=32, seed=0, device=torch.device("cpu"))
    loop = Loop(model, stream, seed=0, ema_half_life=options.ema_half_life)
    losses = [float(loop.iterate()["flow/loss"]) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    images = draw(loop.average, 3, seed=0)
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.uint8


@pytest.mark.slow
def test_tutorial_model_is_compared_like_a_built_in(package, tmp_path):
    info = package / "torch_genkit_tinyflow-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: torch-genkit-tinyflow\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[genkit.v1]\ntinyflow = genkit_tinyflow\n")
    command = [sys.executable, "-m", "genkit", "compare", "vae", "tinyflow", "--budget", "3steps"]
    command += ["--samples", "64", "--out", "out", "--set", "tinyflow.width=16"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No preset quick for tinyflow: default options are used." in done.stderr
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert {row["name"]: row["rank"] is None for row in rows} == {
        "vae": False,
        "tinyflow": False,
        "real": True,
        "copy": True,
        "noise": True,
    }


def test_tutorial_metric_scores_beside_the_built_in_ones(package):
    from genkit.evaluation import Protocol, Yardstick, evaluate
    from genkit.registry import load_registry
    from genkit.runs import load_data

    registry = load_registry()
    module = EntryPoint("tinymetric", "genkit_tinymetric", "genkit.v1").load()
    (spec,) = module.register_metrics()
    registry.metrics["mean-distance"] = Entry(spec, registry.metrics["fid"].plugin)
    noise = np.random.default_rng(0).integers(0, 256, (60, 28, 28), "u1")
    np.savez(package / "d.npz", images=noise)
    data = load_data(registry, RunConfig(data=f"npz:{package / 'd.npz'}"))
    protocol = Protocol(samples=40, features="digits", device="cpu")
    copy, noise = evaluate(["copy", "noise"], Yardstick.choose(registry, data, protocol), load=None)
    assert 0 < copy["deviations"]["mean_distance"] < copy["scores"]["mean_distance"]
    assert "fid" in copy["scores"] and noise["card"]["metrics"]["mean-distance"]


def test_every_hook_stands_in_the_plugin_page_with_its_arguments():
    import inspect

    from genkit import hookspecs

    hooks = [f for n, f in vars(hookspecs).items() if n.startswith(("register_", "on_"))]
    assert len(hooks) == 9
    for hook in hooks:
        signature = f"{hook.__name__}({', '.join(inspect.signature(hook).parameters)})"
        assert f"`{signature}`" in PAGE.read_text()


def test_example_config_is_a_config():
    from genkit.registry import load_registry

    spec = load_registry().trainers.find("vae")
    resolved = resolve(spec, file=PAGE.parents[1] / "examples" / "vae.toml")
    assert resolved.options.latent == 10 and resolved.run.budget == "200kimg"


@pytest.mark.slow
def test_example_script_uses_only_what_there_is(monkeypatch, tmp_path):
    """Run with a comparison of one step a model, in place of a minute."""
    import runpy

    import genkit

    real = genkit.compare
    short = {"budget": "1steps", "samples": 64, "out": tmp_path / "out"}
    monkeypatch.setattr(genkit, "compare", lambda models, **more: real(models, **{**more, **short}))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(PAGE.parents[1] / "examples" / "compare.py"))
    assert (tmp_path / "winner.png").exists()
