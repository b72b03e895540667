"""The plugin page's code is code, its reference is complete, and what it promises is kept."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import CommandLines

from genkit import hookspecs, model, specs, testing
from genkit.config.resolve import resolve
from genkit.config.sampler import sampler_of
from genkit.registry.catalogue import load_registry
from genkit.runs.build import build_model
from genkit.sampling.draw import draw

torch.set_num_threads(1)

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = {
    match[2]: match[0].partition("\n")[2].removesuffix("```")
    for match in re.finditer(r"^```(python|toml)\n# (\S+)\n.*?^```$", TEXT, re.M | re.S)
}
HOOKS = [name for name in vars(hookspecs) if name.startswith(("register_", "on_"))]


@dataclass(frozen=True)
class Written:
    """The page's files: packages as pip would lay them, and plugins of a single file."""

    site: Path
    files: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    site, files = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("files")
    for name, block in BLOCKS.items():
        package, _, module = name.rpartition("/")
        package = package.rpartition("/")[2]
        if name.endswith(".toml"):
            lay_metadata(site, tomllib.loads(block))
        elif package:
            (site / package).mkdir(exist_ok=True)
            (site / package / module).write_text(block, encoding="utf-8")
        else:
            (files / name).write_text(block, encoding="utf-8")
    return Written(site, files)


def lay_metadata(site: Path, project: dict[str, Any]) -> None:
    """The metadata of a distribution as its pyproject.toml describes it."""
    name, version = project["project"]["name"], project["project"]["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def spec_of(written: Written, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Imports a module of the page and asks it for the one spec that it registers."""
    for folder in (written.site, written.files):
        monkeypatch.syspath_prepend(folder)

    def find(module: str, hook: str) -> Any:
        (spec,) = getattr(importlib.import_module(module), hook)()
        return spec

    return find


# ---- the examples


def test_every_hook_has_an_example_in_the_page() -> None:
    found = set()
    for block in BLOCKS.values():
        for node in ast.walk(ast.parse(block)) if "hookimpl" in block else []:
            if isinstance(node, ast.FunctionDef):
                found |= {node.name for mark in node.decorator_list if ast.unparse(mark)}
    assert found == set(HOOKS)


def test_model_of_the_page_has_under_60_lines_and_a_light_entry_module(written: Written) -> None:
    texts = [b for n, b in BLOCKS.items() if n.startswith("genkit_tinyflow/")]
    assert 20 < len([line for text in texts for line in text.splitlines() if line.strip()]) < 60
    for package in ("genkit_tinyflow", "genkit_last"):
        code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
        command = [sys.executable, "-W", "error", "-c", code]
        assert subprocess.run(command, cwd=written.site, timeout=60, check=False).returncode == 0


@pytest.mark.slow
def test_examples_keep_the_promises_of_the_test_kit(spec_of: Callable[[str, str], Any]) -> None:
    flow = spec_of("genkit_tinyflow", "register_trainers")
    testing.check_trainer(spec_of("genkit_shades", "register_trainers"))
    testing.check_trainer(flow, options={"width": 16, "euler_steps": 3})
    testing.check_dataset(spec_of("stripes", "register_datasets"))
    testing.check_features(spec_of("thumbnails", "register_features"), (1, 28, 28))
    testing.check_metric(spec_of("closeness", "register_metrics"))


def test_labels_and_sampler_of_the_page_are_followed(
    spec_of: Callable[[str, str], Any], tmp_path: Path
) -> None:
    spec = spec_of("genkit_shades", "register_trainers")
    shape = specs.ImageShape(1, 8, 8, 2, (0.5, 0.5))
    model = build_model(spec, spec.config(conditional=True), shape, seed=0)
    with torch.no_grad():
        model.means.copy_(torch.tensor([[-0.5], [0.5]]).expand(2, 64))
    means = draw(model, 4, 0, labels=[0, 1, 1, 0]).float().mean((1, 2, 3))
    assert (means > 127).tolist() == [False, True, True, False]
    model.sampler = sampler_of(spec, {"contrast": "0"})
    assert len(draw(model, 4, 0, labels=1).unique()) == 1


def test_data_listener_and_command_work_together(
    written: Written, command_lines: CommandLines, tmp_path: Path
) -> None:
    run, plugins = tmp_path / "run", [f"--plugin={written.files / 'stripes.py'}"]
    plugins += [f"--plugin={written.files / 'diary.py'}"]
    train = f"train tinyflow --data stripes --data-option size=12 --width 16 --run-dir {run}"
    train += " --budget 4steps --log-every 2 --grids 2 --progress none"
    answers = command_lines(
        [*train.split(), *plugins], f"last {run} --key step", "--help", site=written.site
    )
    assert [answer.code for answer in answers] == [0, 0, 0], answers
    assert answers[1].out == "4\n" and "torch-genkit-last 0.1" in answers[2].out
    diary = (run / "diary.txt").read_text(encoding="utf-8").splitlines()
    said = [re.sub(r"^[\d:]+ |(?<=loss) .*", "", line) for line in diary]
    assert said == [
        "start",
        "step 0: samples in step-000000000.png",
        "step 2: flow/loss",
        "step 4: flow/loss",
        "step 4: samples in step-000000004.png",
        "step 4: saved",
        "finished",
    ]


@pytest.mark.slow
def test_data_features_and_metric_of_the_page_make_scores(
    written: Written, command_lines: CommandLines
) -> None:
    words = "evaluate real --data stripes --features thumbnails -n 100 --json -".split()
    words += [
        f"--plugin={written.files / name}.py" for name in ("stripes", "thumbnails", "closeness")
    ]
    (answer,) = command_lines(words, site=written.site)
    rows = {row["name"]: row for row in json.loads(answer.out)}
    for column in ("fid", "mean_distance"):
        assert rows["real"]["scores"][column] > 0
        assert rows["real"]["deviations"][column] > 0
    assert rows["real"]["scores"]["fid"] < rows["noise"]["scores"]["fid"]


def test_model_in_stages_of_the_page_trains_and_resumes(
    written: Written, command_lines: CommandLines, tmp_path: Path
) -> None:
    run, plugin = tmp_path / "run", {"GENKIT_PLUGINS": str(written.files / "latentflow.py")}
    train = f"train latentflow --run-dir {run} --log-every 1 --grids 1 --progress none"
    answers = command_lines(
        f"{train} --budget 8steps",
        f"resume {run} --budget 12steps --progress none",
        f"sample {run} -n 2 -o {tmp_path / 'samples'}",
        site=written.site,
        variables=[plugin] * 3,
    )
    assert [answer.code for answer in answers] == [0, 0, 0], answers
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines) if "seconds" in row}
    assert [step for step in rows if "code/loss" in rows[step]] == [1, 2, 3, 4]
    assert [rows[step]["code/noise"] for step in (1, 3)] == pytest.approx([0, 0.025])
    assert [step for step in rows if "flow/loss" in rows[step]] == [5, 6, 7, 8, 9, 10, 11, 12]
    assert [rows[5]["flow/learning_rate"], rows[7]["flow/learning_rate"]] == [1e-3, 5e-4]
    assert rows[9]["flow/learning_rate"] == pytest.approx(7.5e-4)  # 8 of 12 steps are done
    assert rows[12]["flow/skipped"] == 0


def test_games_of_the_page_are_played(
    written: Written, command_lines: CommandLines, tmp_path: Path
) -> None:
    run, plugin = tmp_path / "run", {"GENKIT_PLUGINS": str(written.files / "games.py")}
    quick = "--log-every 1 --grids 1 --progress none --budget 6steps"
    pair = "train pair --loss hinge --spectral-norm --r1 1 --augment cutout"
    answer, other = command_lines(
        f"train game --run-dir {run} {quick}",
        f"{pair} --run-dir {tmp_path / 'pair'} {quick} --plugin {written.files / 'pair.py'}",
        site=written.site,
        variables=[plugin, {}],
    )
    assert answer.code == other.code == 0, (answer, other)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "critic/loss" in row]
    assert [row["step"] for row in rows if "slope/loss" in row] == [1, 5]
    assert all(row["generator/loss"] > 0 for row in rows) and rows[0]["slope/loss"] > 0
    assert "penalty/r1" in (tmp_path / "pair" / "metrics.jsonl").read_text(encoding="utf-8")


def test_study_of_the_page_is_the_one_that_its_plugin_ships(
    written: Written, spec_of: Callable[[str, str], Any]
) -> None:
    assert spec_of("crowded", "register_studies") == written.files / "crowded.toml"


def test_each_example_is_run_by_one_of_these_tests() -> None:
    sampled = test_labels_and_sampler_of_the_page_are_followed
    together, scored = (
        test_data_listener_and_command_work_together,
        test_data_features_and_metric_of_the_page_make_scores,
    )
    run_by = {
        **dict.fromkeys(["pyproject.toml", "genkit_tinyflow/__init__.py"], together),
        **dict.fromkeys(["genkit_tinyflow/model.py", "stripes.py", "diary.py"], together),
        **dict.fromkeys(["last/pyproject.toml", "last/genkit_last/__init__.py"], together),
        **dict.fromkeys(["thumbnails.py", "closeness.py"], scored),
        "crowded.py": test_study_of_the_page_is_the_one_that_its_plugin_ships,
        "latentflow.py": test_model_in_stages_of_the_page_trains_and_resumes,
        **dict.fromkeys(["games.py", "pair.py"], test_games_of_the_page_are_played),
        **dict.fromkeys(["genkit_shades/__init__.py", "genkit_shades/model.py"], sampled),
    }
    assert run_by.keys() == BLOCKS.keys()
    assert len(re.findall("^```(?:python|toml)$", TEXT, re.M)) == len(BLOCKS)


# ---- the reference


def test_every_hooks_signature_stands_in_the_page_as_it_is_written() -> None:
    tree = ast.parse(inspect.getsource(hookspecs))
    written = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert [node.name for node in written] == HOOKS and len(HOOKS) == 10
    for node in written:
        line = f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
        assert f"\n```\n{line}\n```\n" in TEXT


def documented(title: str) -> dict[str, str]:
    """A table of fields in the page: names to defaults."""
    section = TEXT.partition(f"\n### Fields of {title}\n")[2].partition("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \| .{10}", section, re.M))


def default(field: dataclasses.Field[Any]) -> str:
    """A field's default as the page writes it."""
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    if isinstance(field.default, type):
        return field.default.__name__
    if field.default is dataclasses.MISSING:
        return "required"
    return re.sub(r"'(.*)'", r'"\1"', repr(field.default))


@pytest.mark.parametrize("kind", ["TrainerSpec", "DatasetSpec", "MetricSpec", "FeaturesSpec"])
def test_every_field_of_a_spec_stands_in_the_page_with_its_default(kind: str) -> None:
    common = documented("every spec")
    assert common == {field.name: default(field) for field in fields(specs.Spec)}
    own = {f.name: default(f) for f in fields(getattr(specs, kind)) if f.name not in common}
    assert documented(f"`{kind}`") == own


@pytest.mark.parametrize(
    "kind", [specs.Column, model.Phase, model.Batch, model.LogLikelihood], ids=lambda k: k.__name__
)
def test_every_field_of_a_class_stands_in_the_page_with_its_default(kind: Any) -> None:
    found = documented(f"`{kind.__name__}`")
    assert found == {field.name: default(field) for field in fields(kind)}
    assert list(found) == [field.name for field in fields(kind)]


def test_every_method_of_a_model_stands_in_the_page_with_its_arguments() -> None:
    methods = {n: m for n, m in vars(model.GenerativeModel).items() if inspect.isfunction(m)}
    assert len(methods) >= 6
    for name, method in methods.items():
        bare = [
            p.replace(annotation=p.empty) for p in inspect.signature(method).parameters.values()
        ]
        call = f"`{name}{inspect.Signature(bare[1:])}`"
        assert call in TEXT, call


# ---- what will not change

# Version 1 as it was promised: parameters of classes and functions. "=" marks those that may be
# left out, "*" stands before those that are given by name. Lines may be added, and parameters with
# "=" at the end of a line; whatever else changes here is version 2 of the plugin interface.
PROMISED = """
specs.TrainerSpec(*, name, summary, target, budget=, config=, presets=, fit=, records=, sampler=)
specs.DatasetSpec(*, name, summary, target, config=, source=, features=, reference=, default=, records=)
specs.MetricSpec(*, name, summary, target, config=, columns=, definition=, records=)
specs.FeaturesSpec(*, name, summary, target, config=, quick=, default=, records=)
specs.Column(*, name, title, better, ranks=, unbiased=, scale=, decimals=, shown=, help=)
specs.option(default, description, *, ge=, gt=, le=, lt=, multiple_of=, panel=)
specs.ImageShape(channels, height, width, classes=, class_shares=, class_names=, train_images=, mean=, deviation=, attributes=)
adversarial.discriminator_loss(kind, real, fake, smoothing=)
adversarial.generator_loss(kind, fake, real=)
adversarial.slope_penalty(judge, images)
adversarial.gradient_penalty(judge, real, fake)
adversarial.AdversarialModel(config, image_shape)
adversarial.AdversarialModel.steady(self)
adversarial.AdversarialModel.phases(self)
adversarial.AdversarialModel.generator_loss(self, batch)
adversarial.AdversarialModel.discriminator_loss(self, batch)
adversarial.AdversarialModel.penalty(self, batch)
augment.augment(images, kinds, share=)
autoregressive.choose(logits, uniforms)
autoregressive.Guidance(labels, log_shares, strength)
autoregressive.Guidance.logits(self, each)
autoregressive.Guidance.see(self, levels)
model.Phase(*, name, loss, optimizer, repeats=, every=, clip=, schedule=, active=, after=, precision=, compile=, skip_above=)
model.Batch(images, labels=, shared=, step=, images_seen=, progress=)
model.LogLikelihood(nats, kind, of)
model.GenerativeModel(config, image_shape)
model.GenerativeModel.phases(self)
model.GenerativeModel.sample(self, n, labels=, *, generator)
model.GenerativeModel.log_likelihood(self, images)
model.GenerativeModel.log_weights(self, images, draws)
model.GenerativeModel.reconstruct(self, images)
model.GenerativeModel.draw_latents(self, n, *, generator)
model.GenerativeModel.decode_latents(self, latents, labels=)
model.GenerativeModel.complete(self, images, known, labels=, *, generator)
model.GenerativeModel.choose_labels(self, labels, n)
model.GenerativeModel.frozen(self, name)
model.GenerativeModel.pictures(self, images)
model.GenerativeModel.network_to_export(self)
model.GenerativeModel.trouble(self, history)
model.diverged(values, lines=)
model.is_black_and_white(images)
data.Split(images, labels=, intensities=)
data.Splits(train, test=, classes=, notes=)
data.combine(values, names)
data.read_folder(folder, *, size, channels=)
data.read_image(path, size, channels)
data.read_prepared(folder)
data.downloading(what, remedy)
features.FeatureExtractor(config)
features.FeatureExtractor.open(config, data, reporter=)
features.FeatureExtractor.check(config, data)
features.FeatureExtractor.check_shape(self, shape)
features.FeatureExtractor.forward(self, images)
features.FeatureExtractor.shipped_statistics(self, reference)
features.Statistics(mean, covariance, count)
features.ImageSet.take(self, places)
features.Reporter.say(self, message)
features.Reporter.counter(self, stage)
features.cache_folder(kind)
features.read_cached(path)
features.write_cached(path, tensors)
features.hash_tensors(tensors)
features.cpu_threads(count)
features.extract(extractor, images)
features.statistics_of(features)
metrics.Estimate(value, deviation=)
metrics.Reference.choose(self, count)
metrics.blocks_of(count)
metrics.choice(count, wanted, seed)
metrics.jackknife(left_out)
testing.check_trainer(trainer, *, options=, shapes=, images=)
testing.check_dataset(dataset, source=, options=)
testing.check_metric(metric)
testing.check_features(features, shape=, options=)
testing.check_plugin(plugin)
hookspecs.register_trainers()
hookspecs.register_datasets()
hookspecs.register_metrics()
hookspecs.register_features()
hookspecs.on_run_start(run)
hookspecs.on_log(run, step, values)
hookspecs.on_sample(run, step, path)
hookspecs.on_checkpoint(run, step, path)
hookspecs.on_run_end(run, status)
"""  # noqa: E501
BROKEN = (
    "{}: this breaks version 1 of the plugin interface, which docs/plugins.md promises to keep "
    "(What will not change): put it back, or give what is new a default"
)


def parameters(text: str) -> list[tuple[str, bool, bool]]:
    """(name, given by name only, may be left out) of each parameter in a promise's brackets."""
    found, named = [], False
    for word in filter(None, text.split(", ")):
        named = named or word == "*"
        found += [] if word == "*" else [(word.rstrip("="), named, word.endswith("="))]
    return found


def breach(promise: list[tuple[str, bool, bool]], there: inspect.Signature) -> str | None:
    """What a signature does not keep of a promise, if anything."""
    left = dict(there.parameters)
    for place, (name, named, optional) in enumerate(promise):
        parameter = left.pop(name, None)
        if parameter is None:
            return f"{name!r} is gone"
        if optional and parameter.default is parameter.empty:
            return f"{name!r} has no default any more"
        if not named and parameter.kind is parameter.KEYWORD_ONLY:
            return f"{name!r} must be given by name now"
        if not named and list(there.parameters)[place] != name:
            return f"{name!r} stands elsewhere now"
    needed = [n for n, p in left.items() if p.default is p.empty]
    return f"{needed[0]!r} must be given now" if needed else None


@pytest.mark.parametrize("line", PROMISED.split("\n")[1:-1], ids=lambda line: line.split("(")[0])
def test_promised_signatures_are_kept(line: str) -> None:
    path, _, text = line.rstrip(")").partition("(")
    module, *names = path.split(".")
    found: Any = importlib.import_module(f"genkit.{module}")
    for name in names:
        found = getattr(found, name, None)
        assert found is not None, BROKEN.format(f"genkit.{path} is gone")
    problem = breach(parameters(text), inspect.signature(found))
    assert problem is None, BROKEN.format(f"genkit.{path}: {problem}")


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (lambda a, b=0, *, c=0: 0, None),
        (lambda a, b=0, d=0, *, e=0, c=0: 0, None),
        (lambda b=0, *, c=0: 0, "'a' is gone"),
        (lambda a, b, *, c=0: 0, "'b' has no default any more"),
        (lambda a, *, b=0, c=0: 0, "'b' must be given by name now"),
        (lambda a, d=0, b=0, *, c=0: 0, "'b' stands elsewhere now"),
        (lambda a, b=0, *, c=0, d: 0, "'d' must be given now"),
    ],
)
def test_breach_of_a_promise_is_seen(now: Callable[..., Any], problem: str | None) -> None:
    assert breach(parameters("a, b=, *, c="), inspect.signature(now)) == problem


def test_promised_names_are_there_and_cover_what_is_promised_above() -> None:
    section = TEXT.partition("## What will not change")[2]
    table = dict(re.findall(r"^\| `genkit\.(\w+)` \| (.+) \|$", section, re.M))
    listed = {m: set(re.findall(r"`(\w+)`", names)) for m, names in table.items()}
    for module, names in listed.items():
        for name in names:
            there = hasattr(importlib.import_module(f"genkit.{module}"), name)
            assert there, BROKEN.format(f"genkit.{module}.{name} is gone")
    for path in re.findall(r"^(\w+\.\w+)", PROMISED, re.M):
        module, name = path.split(".")
        assert name in listed[module] | set(HOOKS)


def test_page_imports_only_promised_names() -> None:
    section = TEXT.partition("## What will not change")[2]
    pages = [(DOCS / f"{n}.md").read_text("utf-8") for n in ("plugins", "tutorial", "porting")]
    templates = [
        p.read_text("utf-8") for p in (DOCS.parent / "genkit/cli/templates").rglob("*.py.*")
    ]
    examples = [p.read_text("utf-8") for p in (DOCS.parent / "examples").glob("*/**/*.py")]
    assert templates and examples
    found = 0
    for text in (*pages, *templates, *examples):
        for module, names in re.findall(r"^from (genkit\.\w+) import (.+)$", text, re.M):
            for name in names.split(", "):
                assert re.search(rf"^\| `{module}` \|.*`{name}`", section, re.M), (module, name)
                found += 1
    assert found > 50


# ---- examples/


def test_example_config_is_a_config() -> None:
    spec = load_registry().trainers.find("vae")
    resolved = resolve(spec, file=DOCS.parent / "examples" / "vae.toml")
    assert resolved.options.latent == 10 and resolved.run.budget == "200kimg"


@pytest.mark.thorough
def test_example_script_uses_only_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Run with a comparison of one step a model, in place of a minute."""
    import runpy

    import genkit

    real = genkit.compare
    short = {"budget": "1steps", "samples": 64, "out": tmp_path / "out"}
    monkeypatch.setattr(genkit, "compare", lambda models, **more: real(models, **{**more, **short}))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(DOCS.parent / "examples" / "compare.py"))
    assert (tmp_path / "winner.png").exists()
