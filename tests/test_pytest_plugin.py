"""`pytest --genkit PLUGIN`: what it collects and runs, and that it costs other sessions nothing."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from command_lines import install_plugin, trainer_source

from genkit import testing
from genkit.registry.checks import CHECKS

pytest_plugins = "pytester"
INSTALLED = entry_points(group="pytest11", name="genkit")
SHAPES = """
import numpy as np
from pydantic import Field
from genkit.data import Split, Splits
from genkit.hookspecs import hookimpl
from genkit.specs import Column, Config, DatasetSpec, MetricSpec

class Options(Config):
    count: int = Field(8, description="images")

def load(config, source, root):
    shape = (config.count, 1, 6, 6)
    return Splits(Split(np.random.RandomState(0).randint(0, 256, shape, np.uint8)))

def load_late(config, source, root):
    return parse(source)

def parse(source):
    raise ValueError("no such shapes")

@hookimpl
def register_datasets():
    return [
        DatasetSpec(name="dots", summary="Dots.", target="stranger_shapes:load", config=Options),
        DatasetSpec(name="late", summary="Late.", target="stranger_shapes:load_late"),
    ]

@hookimpl
def register_metrics():
    column = Column(name="area", title="area", better=None)
    target = "stranger_shapes:no"
    return [MetricSpec(name="area", summary="Area.", target=target, columns=(column,))]
"""

# pytest's own, of the finder of an editable installation
REWRITING = "ignore:Module already imported so cannot be rewritten"


@pytest.fixture
def run(pytester, monkeypatch):
    """pytest in a folder with a plugin and one test; returns exit code and output."""
    install_plugin(pytester.path, "shapes", SHAPES)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    pytester.makepyfile("def test_of_its_own(): pass")

    def run(*arguments):
        # An editable installation may be older than the entry point.
        plugin = () if INSTALLED else ("-p", "genkit.pytest_plugin")
        options = ("-p", "no:cacheprovider", "-W", "error", "-W", REWRITING, *plugin)
        done = pytester.runpytest_subprocess(*options, *arguments, timeout=120)
        return done.ret, done.stdout.str() + done.stderr.str()

    return run


def test_every_check_of_the_kit_has_its_place():
    checks = {name for name in testing.__all__ if name.startswith("check_")}
    assert checks == {*CHECKS, "check_plugin", "check_likelihood"}  # the last is in check_trainer


def test_plugin_is_an_entry_point_of_the_distribution():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"genkit": "genkit.pytest_plugin"}


def test_module_imports_nothing_but_pytest():
    code = (
        "import pytest, sys; before = set(sys.modules); import genkit.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["genkit", "genkit.pytest_plugin", "genkit.version"], done.stderr


def test_sessions_without_the_option_are_as_they_were(run, pytester):
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure(config):\n"
        "    heavy = {'pydantic', 'typer', 'torch', 'genkit.registry.loader'} & set(sys.modules)\n"
        "    print('heavy:', *heavy, config.getini('markers'))\n"
    )
    code, out = run("-s", "-p", "no:hypothesispytest")
    assert code == 0 and "1 passed" in out
    assert "heavy: [" in out and "genkit: a check" not in out


def test_there_is_a_test_for_a_plugin_and_each_thing_it_provides(run):
    by_distribution, by_entry_point = (
        run("--collect-only", "-q", "--genkit", name)[1].splitlines()
        for name in ("Torch_Genkit_shapes", "shapes")
    )
    assert [line for line in by_distribution if "::" in line] == [
        "test_there_is_a_test_for_a_plugin_and_each_thing_it_provides.py::test_of_its_own",
        "genkit::check_plugin[shapes]",
        "genkit::check_dataset[dots]",
        "genkit::check_dataset[late]",
        "genkit::check_metric[area]",
    ]
    assert by_entry_point[:5] == by_distribution[:5]
    assert by_distribution[-1].startswith("5 tests collected")


def test_checks_are_chosen_among_by_marker_and_name(run):
    code, out = run("--co", "-q", "--genkit", "shapes", "--genkit", "shapes", "-m", "genkit")
    assert code == 0 and out.count("::") == 4 and "4/5 tests collected (1 deselected)" in out
    code, out = run("--co", "-q", "--genkit", "shapes", "-k", "plugin and shapes")
    assert "1/5 tests collected" in out


@pytest.mark.slow
def test_failure_is_the_broken_contract_and_the_lines_of_the_plugin(run, pytester):
    install_plugin(pytester.path, "broken", "raise RuntimeError('half finished')")
    pytester.makepyprojecttoml("[tool.genkit.check_dataset.dots]\noptions = { count = 40 }\n")
    code, out = run("--genkit", "shapes", "--genkit", "broken")
    assert code == 1 and "3 failed, 3 passed" in out
    failures = dict(re.findall(r"^_+ (.*) _+\n((?:(?!_{4}|====).*\n)+)", out, re.MULTILINE))
    assert failures.keys() == {
        "check_dataset[late]",
        "check_metric[area]",
        "check_plugin[broken]",
    }
    late = failures["check_dataset[late]"].splitlines()
    contract, seen = late[0].split("; ")
    assert contract == (
        "late: the loader must return Splits of uint8 images, (N, 1 or 3, H, W), with int64 labels "
        "below the number of classes or none"
    )
    assert "'late' failed: ValueError: no such shapes (" in seen
    assert re.fullmatch(r'  File ".*stranger_shapes.py", line \d+, in load_late', late[1])
    assert late[-1] == '    raise ValueError("no such shapes")'
    assert failures["check_metric[area]"] == (
        'area: the target must be there to import, as "package.module:Name" says; '
        "'area' could not be loaded: module 'stranger_shapes' has no attribute 'no'\n"
    )
    assert failures["check_plugin[broken]"].startswith(
        "broken: the plugin must load, and register all that it provides, without a problem; "
        "RuntimeError: half finished\n"
    )
    assert "contract.py" not in out


@pytest.mark.slow
def test_processes_of_xdist_share_the_checks(run):
    pytest.importorskip("xdist")
    code, out = run("-n", "2", "-v", "--genkit", "shapes", "-m", "genkit")
    found = {(name, verdict) for verdict, name in re.findall(r"(PASSED|FAILED) genkit::(\S+)", out)}
    assert code == 1 and found == {
        ("check_plugin[shapes]", "PASSED"),
        ("check_dataset[dots]", "FAILED"),
        ("check_dataset[late]", "FAILED"),
        ("check_metric[area]", "FAILED"),
    }


@pytest.mark.parametrize(
    "option, table, message",
    [
        ("shapse", "", "--genkit: there is no plugin named 'shapse'. Did you mean 'shapes'?"),
        ("shapes", "[tool.genkit.check_datset.dots]", "Did you mean 'check_dataset'?"),
        ("shapes", "[tool.genkit.check_dataset.dts]", "Did you mean 'dots'?"),
    ],
)
def test_name_that_is_not_there_ends_the_session(run, pytester, option, table, message):
    pytester.makepyprojecttoml(table)
    code, out = run("--genkit", option)
    assert code == pytest.ExitCode.INTERRUPTED
    assert message in out and "Traceback" not in out and "passed" not in out


@pytest.mark.parametrize("name", ["my_shapes", "my-shapes", "My_Shapes"])
def test_file_is_a_plugin_by_its_own_name(run, pytester, monkeypatch, name):
    path = pytester.path / "my_shapes.py"
    path.write_text(SHAPES.replace("stranger_shapes", "my_shapes").replace('"area"', '"size"'))
    monkeypatch.setenv("GENKIT_PLUGINS", str(path))
    monkeypatch.setenv("GENKIT_DISABLE_PLUGINS", "shapes")
    code, out = run("--co", "-q", "--genkit", name, "-m", "genkit")
    assert code == 0 and "genkit::check_plugin[my_shapes]" in out
    assert "genkit::check_dataset[dots]" in out


@pytest.mark.slow
def test_name_that_two_plugins_claim_is_checked_and_reported(run, pytester):
    for name in ("one", "two"):
        install_plugin(pytester.path, name, trainer_source("same"))
    code, out = run("--genkit", "one", "-k", "same")
    assert code == 1 and "model 'same' comes from torch-genkit-one 0.1 and torch-" in out


@pytest.mark.slow
def test_argument_that_a_check_does_not_take_is_reported(run, pytester):
    pytester.makepyprojecttoml("[tool.genkit.check_dataset.dots]\noption = { count = 40 }\n")
    code, out = run("--genkit", "shapes", "-k", "dots")
    assert code == 1 and "check_dataset() takes no 'option': see pyproject.toml" in out
    assert "contract.py" not in out
