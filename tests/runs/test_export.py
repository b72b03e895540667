"""What an exported folder holds: a model that loads again, a card that is true, and no secrets."""

from __future__ import annotations

import getpass
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import genkit
from genkit.cli import main
from genkit.compute.seeds import derive_seed
from genkit.errors import GenkitError, UsageError, WriteError
from genkit.io.files import read_json, write_json
from genkit.model import GenerativeModel
from genkit.report.model_card import code, escape
from genkit.runs import export
from genkit.runs import onnx as onnx_network
from genkit.runs.run import Run
from genkit.specs import ImageShape

torch.set_num_threads(1)

TINY: dict[str, dict[str, Any]] = {
    "dcgan": {"generator_width": 4, "discriminator_width": 4, "latent": 6},
    "vae": {"width": 4, "hidden": 8, "latent": 3},
    "pixelcnn": {"channels": 4, "layers": 2, "levels": 4},
}
QUICK = {"budget": "2steps", "grids": 1, "watch": 0, "progress": "none", "batch_size": 8}
HOSTILE = "`<script>alert(1)</script>` | *b* [x](http://evil.example) \n---\n# big\n\x1b[31m"
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx_network.PACKAGES),
    reason="needs the extra onnx",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each family."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: genkit.train(name, run_dir=folder / name, **QUICK, **o) for name, o in TINY.items()
    }


@pytest.fixture
def own(runs: dict[str, Run], tmp_path: Path) -> Run:
    """A copy of a run, to be changed."""
    import shutil

    return genkit.load(shutil.copytree(runs["dcgan"].path, tmp_path / "own"))


def scored(run: Run, *, weights: str = "ema", images: int = 16, **card: Any) -> None:
    """Store scores as `genkit evaluate` does."""
    about = {
        **{"features": "digits-0123", "features_note": "", "reference": "mnist-train"},
        **{"reference_images": 60_000, "data": "mnist-mini", "data_fingerprint": "ab"},
        **{"samples": 500, "quantisation": "uint8", "weights": weights, "metrics": {"fid": "all"}},
        **card,
    }
    scores = {"scores": {"fid": 18.25}, "deviations": {"fid": 0.38}, "memorisation": None}
    row = {"name": "any", "run": str(run.path), **scores, "images": images, "card": about}
    real = {"name": "real", "run": None, "scores": {"fid": 0.59}, "deviations": {}, "card": about}
    write_json(run.directory.evaluation_path, [row, real])


def card_of(folder: Path) -> tuple[str, str]:
    """The front matter and the text of a card."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return front, text


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"linkify": False}).enable("table").render(markdown)


# ---- the folder


@pytest.mark.parametrize("name", TINY)
def test_exported_folder_samples_what_the_run_samples(
    runs: dict[str, Run], name: str, tmp_path: Path
) -> None:
    run = runs[name]
    done = export.export(run, tmp_path / "out")
    found = genkit.load(tmp_path / "out")
    assert torch.equal(found.sample(5, seed=3), run.sample(5, seed=3))
    assert set(done["files"]) == {"README.md", "config.json", "model.safetensors", "samples.png"}
    weights = load_file(run.directory.weights_path)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert weights.keys() == exported.keys()
    assert all(torch.equal(weights[key], exported[key]) for key in weights)
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(run.grid(64)))


def test_export_of_an_exported_folder_says_the_same(runs: dict[str, Run], tmp_path: Path) -> None:
    export.export(runs["vae"], tmp_path / "one")
    export.export(genkit.load(tmp_path / "one"), tmp_path / "two")
    for name in ("README.md", "config.json", "model.safetensors", "samples.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("onnx", [False, pytest.param(True, marks=[needs_onnx, pytest.mark.slow])])
def test_nothing_of_the_training_machine_is_exported(tmp_path: Path, onnx: bool) -> None:
    folder = tmp_path / "home" / "alice-0815" / "pictures"
    folder.mkdir(parents=True)
    for i in range(12):
        noise = np.random.RandomState(i).randint(0, 256, (8, 8), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    run = genkit.train(
        "dcgan", run_dir=tmp_path / "run", data=f"folder:{folder}", data_root=str(folder),
        **QUICK, **TINY["dcgan"],
    )  # fmt: skip
    assert "alice-0815" in run.directory.config_path.read_text()
    scored(run, features="none-1", data=f"folder:{folder}", trained_on=f"folder:{folder}")
    export.export(run, tmp_path / "out", onnx=onnx)
    secrets = {"alice-0815", str(tmp_path), str(Path(genkit.__file__).parent), "site-packages"}
    if len(getpass.getuser()) > 4:  # "root" is also a word
        secrets.add(getpass.getuser())
    for path in (tmp_path / "out").iterdir():
        for secret in secrets:
            assert secret.encode() not in path.read_bytes(), (path.name, secret)
    assert read_json(tmp_path / "out" / "config.json")["run"]["data"] == "folder:PATH"
    assert "18.25 ±.76" in card_of(tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice/x y", "PATH"),
        ("folder:/home/alice", "folder:PATH"),
        ("labels=~alice/x.csv", "labels=PATH"),
        (r"C:\Users\alice", "PATH"),
        (r"npz:C:\Users\alice", "npz:PATH"),
        ("~/x", "PATH"),
        ("mnist-mini", "mnist-mini"),
        ("images / second", "images / second"),
        ("https://example.org/a", "https://example.org/a"),
        ("and/or", "and/or"),
    ],
)
def test_absolute_paths_are_distinguished_from_other_text(text: str, expected: str) -> None:
    assert export.without_paths({"a": [text, 1]}) == {"a": [expected, 1]}


def test_best_weights_are_exported_with_their_step(own: Run, tmp_path: Path) -> None:
    from genkit.runs import checkpoint

    with torch.no_grad():
        for parameter in own.model.parameters():
            parameter.add_(0.25)
    about = {"model": "dcgan", "step": 1, "weights": "ema"}
    checkpoint.save_best(own.directory.checkpoints, own.model, about, "kid", 2.0)
    code = main(["export", str(own.path), "--best", "--to", str(tmp_path / "out")])
    assert code == 0
    assert torch.equal(genkit.load(tmp_path / "out").sample(3), own.sample(3))
    assert "of step 1: best kid in training" in card_of(tmp_path / "out")[1]


# ---- refusals


def test_folder_that_is_not_empty_is_refused_and_left_alone(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    assert main(["export", str(runs["vae"].path), "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: --to ") and "choose another folder" in error
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_missing_package_names_the_extra(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(onnx_network, "PACKAGES", ("no_such_package",))
    assert main(["export", str(runs["vae"].path), "--to", str(tmp_path / "o"), "--onnx"]) == 2
    assert "pip install 'torch-genkit[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_damaged_weights_are_not_exported(
    own: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.directory.weights_path.write_bytes(own.directory.weights_path.read_bytes()[:-9])
    assert main(["export", str(own.path), "--to", str(tmp_path / "out")]) == 1
    assert "cannot be read as safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_no_half_folder(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export.write_atomic

    def full(path: Path, content: bytes) -> None:
        if path.name == "README.md":
            raise WriteError("the disk is full")
        write(path, content)

    monkeypatch.setattr(export, "write_atomic", full)
    with pytest.raises(WriteError, match="full"):
        export.export(runs["vae"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# ---- the card


def test_front_matter_is_what_hubs_read(runs: dict[str, Run], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    export.export(runs["pixelcnn"], tmp_path / "out")
    front, text = card_of(tmp_path / "out")
    assert yaml.safe_load(front) == {
        "library_name": "torch-genkit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["genkit", "image-generation", "pixelcnn"],
    }
    config = read_json(runs["pixelcnn"].directory.config_path)
    assert f"| parameters | {config['parameters']:,} |" in text
    assert config["data"]["fingerprint"] in text and "`2steps`, seed `0`" in text
    assert "10,000 training and 2,000 test images" in text
    assert "2 steps, 16 images" in text
    assert "have not been evaluated" in text and "±" not in text


@pytest.mark.parametrize("conditional", [True, False])
def test_card_of_a_class_conditional_model_says_so(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: Any, conditional: bool
) -> None:
    yaml = pytest.importorskip("yaml")
    run = runs["vae"]
    plain = type(run.model).sample

    def sample(self: Any, n: int, labels: Any = None, *, generator: Any) -> Any:
        images = plain(self, n, generator=generator)
        return images if labels is None else images * (labels / 10).view(-1, 1, 1, 1)

    monkeypatch.setattr(run.model, "image_shape", ImageShape(1, 28, 28, 10))
    if conditional:
        monkeypatch.setattr(type(run.model), "sample", sample)
    export.export(run, tmp_path / "out")
    front, text = card_of(tmp_path / "out")
    content = yaml.safe_load(front)
    assert ("class-conditional-image-generation" in content["tags"]) == conditional
    assert ("pipeline_tag" not in content) == conditional
    assert ("labels say which class they are to show" in text) == conditional
    assert ("no label says what they are to show" not in text) == conditional
    assert ("genkit sample . --labels each" in text) == conditional


def test_python_of_the_card_runs(runs: dict[str, Run], tmp_path: Path, monkeypatch: Any) -> None:
    export.export(runs["vae"], tmp_path / "out")
    source = card_of(tmp_path / "out")[1].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(source, names)
    assert torch.equal(names["images"], runs["vae"].sample(64, seed=0))


def test_scores_in_the_card_are_those_of_the_weights(own: Run, tmp_path: Path) -> None:
    scored(own)
    done = export.export(own, tmp_path / "out")
    text = card_of(tmp_path / "out")[1]
    assert done["scores"] == {"fid": 18.25}
    assert "| | dcgan | real |" in text and "| FID (digits) | 18.25 ±.76 | 0.59 |" in text
    assert "| number of samples | `500` |" in text and "| metric: fid | `all` |" in text


@pytest.mark.parametrize("changes", [{"weights": "ema, best in training"}, {"images": 8}])
def test_scores_of_other_weights_are_left_out(
    own: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    scored(own, **changes)
    assert export.export(own, tmp_path / "out")["scores"] is None
    assert "have not been evaluated" in card_of(tmp_path / "out")[1]


def test_text_from_outside_stays_text(own: Run, tmp_path: Path) -> None:
    config = read_json(own.directory.config_path)
    config["data"] |= {"classes": [HOSTILE, "a``b`"], "name": HOSTILE, "fingerprint": HOSTILE}
    config["provenance"] |= {"torch": HOSTILE, "genkit": HOSTILE}
    config["run"]["budget"] = "1steps"
    write_json(own.directory.config_path, config)
    scored(own, features_note=HOSTILE, metrics={"fid": HOSTILE, HOSTILE: "x"})
    export.export(genkit.load(own.path), tmp_path / "out")
    front, text = card_of(tmp_path / "out")
    assert front.splitlines()[-1].startswith("# license") and len(front.splitlines()) == 4
    html = rendered(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "a``b`" in html
    assert "<script" not in html and "<em>b" not in html and "evil.example&quot;" not in html
    assert "<a " not in html and "\x1b" not in text
    titles = ["How to sample", "Scores", "Options", "Limits"]
    assert [
        line.partition("<h2>")[2][:-5] for line in html.splitlines() if "<h2>" in line
    ] == titles
    assert html.count("<h1>") == 1


@pytest.mark.parametrize(
    "text", ["`", "a`", "``", " x", "a|b", "<b>", "&amp;", "\\", "$x$", "a\tb"]
)
def test_code_and_escape_render_as_the_text_itself(text: str) -> None:
    from html import unescape

    shown = text.replace("\t", "\\t")
    cells = rendered(f"| x | y |\n|---|---|\n| {code(text)} | {escape(text)} |\n")
    first, second = (part.split("</td>")[0] for part in cells.split("<td>")[1:])
    assert unescape(first.removeprefix("<code>").removesuffix("</code>")).strip() == shown.strip()
    assert unescape(second).strip() == shown.strip()


# ---- ONNX


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_onnx_network_does_what_pytorch_does_at_any_batch_size(
    runs: dict[str, Run], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    out = tmp_path / "out"
    words = ["export", str(runs[name].path), "--to", str(out), "--onnx", "--json", "-"]
    assert main(words) == 0
    onnx = json.loads(capsys.readouterr().out)["onnx"]
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    model = genkit.load(out, "cpu").model
    (end,) = session.get_inputs()
    for size in (1, 3, 8):
        random = torch.Generator().manual_seed(size)
        x = torch.randn(size, *end.shape[1:], generator=random)
        if name == "pixelcnn":
            x = (torch.rand(x.shape, generator=random) * 3).round() / 1.5 - 1
        (found,) = session.run(None, {end.name: x.numpy()})
        with torch.no_grad():
            expected = model(x) if name == "pixelcnn" else model.decode_latents(x)
        assert found.shape == expected.shape and expected.std() > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-4)
    text = card_of(out)[1]
    assert onnx["kind"] == ("network" if name == "pixelcnn" else "decoder")
    assert f"{onnx['difference']:.1e}" in text and onnx["difference"] <= 1e-4
    assert ("is a loop and not in the file" in text) == (name == "pixelcnn")


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_onnx_network_of_transparent_images_draws_the_samples_of_the_run(
    name: str, tmp_path: Path
) -> None:
    import onnxruntime

    straight = np.random.default_rng(0).integers(0, 256, (40, 4, 12, 8), dtype=np.uint8)
    straight[:, 3, :4] = 0
    np.savez(tmp_path / "sprites.npz", images=straight)
    data = f"npz:{tmp_path / 'sprites.npz'}"
    run = genkit.train(name, run_dir=tmp_path / "run", data=data, **QUICK, **TINY[name])
    export.export(run, tmp_path / "out", onnx=True)
    session = onnxruntime.InferenceSession(
        tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    first_chunk = torch.Generator().manual_seed(derive_seed(3, "sample", 0))
    latents = torch.randn(64, TINY[name]["latent"], generator=first_chunk)
    (found,) = session.run(None, {"latents": latents.numpy()})
    levels = np.rint((found + 1) * 127.5).clip(0, 255)
    levels[:, :3] = np.minimum(levels[:, :3], levels[:, 3:])  # premultiplied
    samples = run.sample(64, seed=3).numpy()
    assert samples.shape == found.shape == (64, 4, 12, 8) and samples.std((2, 3)).min() > 0
    assert np.abs(levels - samples).max() <= 1 and (levels == samples).mean() > 0.99


class Bare(GenerativeModel):
    """A model that offers no network."""

    def __init__(self) -> None:
        super().__init__(None, ImageShape(1, 2, 2))  # type: ignore[arg-type]
        self.layer = nn.Linear(4, 4)


class Fixed(Bare):
    """A model whose network asks for the length of its batch."""

    def network_to_export(self) -> Any:
        class Network(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * len(x)

        return Network(), {"x": torch.randn(2, 4)}


class Sized(Bare):
    def network_to_export(self) -> Any:
        return self.layer, {"x": torch.randn(2, 4)}


@needs_onnx
def test_model_without_a_network_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="Bare offers no network for ONNX"):
        onnx_network.export_network(Bare())


@needs_onnx
@pytest.mark.slow
def test_network_of_one_batch_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"takes batches of 2 only.*x\.shape\[0\]"):
        onnx_network.export_network(Fixed())


@needs_onnx
@pytest.mark.slow
def test_network_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_network.export_network(Sized()).difference <= 1e-6
    taken = onnx_network._take
    calls: list[int] = []

    def other(examples: Any, n: int) -> Any:  # PyTorch's module changes after the export
        calls.append(n)
        if len(calls) == 2:
            with torch.no_grad():
                model.layer.bias.add_(1e-3)
        return taken(examples, n)

    model = Sized()
    monkeypatch.setattr(onnx_network, "_take", other)
    with pytest.raises(GenkitError, match=r"differs from PyTorch by 0\.001, more than 0\.0001"):
        onnx_network.export_network(model)


class Failing(Bare):
    """A model whose network depends on the values that go through it."""

    def network_to_export(self) -> Any:
        class Network(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * 2 if float(x.sum()) > 0 else x

        return Network(), {"x": torch.randn(2, 4)}


class Breaking(Bare):
    def draw_latents(self, n: int, *, generator: torch.Generator) -> torch.Tensor:
        raise ZeroDivisionError("mine")


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Failing, Breaking])
def test_network_that_onnx_cannot_express_is_one_sentence(kind: type[Bare]) -> None:
    with pytest.raises(UsageError) as caught:
        onnx_network.export_network(kind())
    said = str(caught.value)
    assert said.startswith(f"the network of {kind.__name__} cannot be exported to ONNX: ")
    assert said.endswith("; export it without --onnx") and len(said) < 500
