"""Third-party plugins, installed for real: a faulty one is named and the others work."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_lines import Answer, CommandLines, install_plugin, trainer_source

from genkit.errors import PluginError
from genkit.hookspecs import hookimpl
from genkit.registry.loader import Plugins
from genkit.registry.plugin import Plugin


def metric_source(*columns: str) -> str:
    """The entry module of a plugin with one metric of these columns."""
    return f"""
from genkit.hookspecs import hookimpl
from genkit.specs import Column, MetricSpec

@hookimpl
def register_metrics():
    columns = tuple(Column(name=n, title=n, better=None) for n in {columns!r})
    return [MetricSpec(name="stranger", summary="X.", target="a:B", columns=columns)]
"""


# Each fault, and what `genkit plugins` must say of it.
FAULTS = {
    "raises": ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
    "lines": ("raise RuntimeError('first\\n  second')", "RuntimeError: first second"),
    "escapes": ("raise RuntimeError('a\\x1b[2Jb')", "RuntimeError: a\\x1b[2Jb"),
    "exits": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "syntax": ("def broken(:", "SyntaxError"),
    "empty": ("", "no hook in it"),
    "misspelt": (
        trainer_source("misspelt").replace("register_trainers", "register_trainer"),
        "there is no hook named 'register_trainer'. Did you mean 'register_trainers'?",
    ),
    "argument": (
        trainer_source("argument").replace("trainers()", "trainers(host)"),
        "are declared in the hookimpl but can not be found in the hookspec",
    ),
    "nothing": (
        trainer_source("nothing").replace("return [", "_ = ["),
        "register_trainers() returned None, not a list of specs",
    ),
    "wrong-type": (
        trainer_source("wrong-type").replace("TrainerSpec(", "dict("),
        "not a TrainerSpec",
    ),
    "hook-raises": (
        trainer_source("hook-raises").replace("return [", "raise KeyError('weights') or ["),
        "KeyError: 'weights'",
    ),
    "hook-exits": (
        trainer_source("hook-exits").replace("return [", "raise SystemExit(0) or ["),
        "SystemExit: 0",
    ),
    "squatter": (trainer_source("dcgan"), "model 'dcgan' is built into genkit and cannot be"),
    "first-in-line": (
        trainer_source("vae").replace("@hookimpl", "@hookimpl(trylast=True)"),
        "model 'vae' is built into genkit and cannot be",
    ),
    "collides": (
        trainer_source("collides", "seed: int = Field(0, description='x')"),
        "config field 'seed' of 'collides' is an option of every run",
    ),
    "odd-option": (
        trainer_source("odd-option", "sizes: dict[str, int] = Field({}, description='x')"),
        "config field 'sizes': type dict[str, int] cannot be a command-line option",
    ),
    "no-default": (
        trainer_source("no-default", "width: int"),
        "config field 'width' needs a default",
    ),
    "bad-name": (trainer_source("Bad Name!"), "'Bad Name!' is not a name"),
    "bad-target": (
        trainer_source("bad-target").replace("nowhere:Model", "nowhere.Model"),
        "must read 'package.module:Name'",
    ),
    "bad-summary": (
        trainer_source("bad-summary").replace('"A stranger\'s model."', "None"),
        "the summary of 'bad-summary' must be one line of text",
    ),
    "bad-config": (
        trainer_source("bad-config", config="dict"),
        "config of 'bad-config' must be a subclass of genkit.specs.Config",
    ),
    "bad-preset": (
        trainer_source("bad-preset", extra=", presets={'quick': {'depth': 3}}"),
        "preset 'quick' of 'bad-preset' sets unknown 'depth'",
    ),
    "bad-column": (
        "from genkit.hookspecs import hookimpl\n"
        "from genkit.specs import MetricSpec\n"
        "@hookimpl\n"
        "def register_metrics():\n"
        "    return [MetricSpec(name='x', summary='X.', target='a:B', columns=('fid',))]",
        "each of the columns of 'x' must be a genkit.specs.Column",
    ),
    "column-thief": (metric_source("fid"), "column 'fid' of 'stranger' is there already, by 'fid'"),
    "column-twice": (
        metric_source("new", "new"),
        "column 'new' of 'stranger' is there already, by 'stranger'",
    ),
    "name-twice": (
        trainer_source("name-twice").replace("return [", "return 2 * ["),
        "it provides the model 'name-twice' twice",
    ),
    "half-way": (
        trainer_source("half-way").replace("return [", "yield from [")
        + "    raise OSError('half way')",
        "OSError: half way",
    ),
    "half-way-exits": (
        trainer_source("half-way-exits").replace("return [", "yield from [")
        + "    raise SystemExit(0)",
        "SystemExit: 0",
    ),
    "panics": (
        "class PanicException(BaseException): pass\nraise PanicException('in Rust')",
        "PanicException: in Rust",
    ),
    "wordless": (
        "class Wordless(Exception):\n    def __str__(self): return self.words\nraise Wordless",
        "Wordless:",
    ),
    "warns": ("import warnings; warnings.warn('old')", "UserWarning: old"),  # errors in the tests
    "group": ("raise ExceptionGroup('both', [ValueError(), TypeError()])", "ExceptionGroup: both"),
    "recurses": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "attribute": ("from genkit.specs import TrainerSpecs", "ImportError: cannot import name"),
    "own-host": (
        "from genkit.hookspecs import hookspec\n@hookspec\ndef register_trainers(): ...",
        "no hook in it: decorate register_trainers or another with hookimpl",
    ),
}

GOOD = trainer_source(
    "rectflow",
    fields="depth: int = Field(4, ge=1, le=8, description='blocks [of two] in [-1, 1]')\n"
    "    gate: bool = Field(False, description='whether [/b] to gate')\n"
    "    kind: Literal['a', 'b'] = Field('a', description='which kind')",
    extra=", presets={'quick': {'depth': 2}}",
).replace("A stranger's model.", "Straight paths, [bold]faster[/bold] [/x].")

COMMANDS = [
    "plugins",
    "plugins --json -",
    "list",
    "list --json -",
    "train dcgan --help",
    "train rectflow --help",
    "train --help",
    "train rectflow --gate --budget soon",
    "train --gate rectflow --budget soon",
    "train toy --help",
    "train broken --help",
]


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory, command_lines: CommandLines
) -> dict[str, Answer]:
    """Command lines with all faulty plugins, two that share a name, and a good one installed."""
    site = tmp_path_factory.mktemp("site")
    for name, (source, _) in FAULTS.items():
        install_plugin(site, name, source)
    install_plugin(site, "one", trainer_source("toy"), distribution="torch-genkit-one")
    install_plugin(site, "two", trainer_source("toy"), distribution="torch-genkit-two")
    install_plugin(site, "twin", "", target="genkit_dcgan")  # the built-in plugin's own module
    install_plugin(site, "printer", "print('PRINTED AT IMPORT')\n" + trainer_source("printer"))
    install_plugin(site, "good", GOOD)
    leftover = site / "leftover-0.1.dist-info"  # no METADATA, as after a broken removal
    leftover.mkdir()
    (leftover / "entry_points.txt").write_text(
        "[genkit.v1]\nleftover = gone_for_good\n", encoding="utf-8"
    )
    return dict(zip(COMMANDS, command_lines(*COMMANDS, site=site), strict=True))


def line_of(name: str, text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
    return line


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_reported_by_name_with_its_reason(name: str, answers: dict[str, Answer]) -> None:
    assert answers["plugins"].code == 0
    line = line_of(name, answers["plugins"].out)
    assert f"torch-genkit-{name} 0.1" in line
    assert FAULTS[name][1] in line


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_plugin_provides_nothing(name: str, answers: dict[str, Answer]) -> None:
    listed = json.loads(answers["list --json -"].out)
    sources = {entry["from"] for kind in listed.values() for entry in kind.values()}
    assert f"torch-genkit-{name}" not in sources


def test_all_that_is_built_in_is_still_there(answers: dict[str, Answer]) -> None:
    listed = json.loads(answers["list --json -"].out)
    built_in = {
        kind: [name for name, entry in entries.items() if entry["from"] == "torch-genkit"]
        for kind, entries in listed.items()
    }
    assert set(built_in["trainers"]) == {
        "dcgan",
        "gan",
        "vae",
        "pixelcnn",
        "pixelrnn",
        "flow",
        "diffusion",
        "meanflow",
    }
    assert {"mnist-mini", "folder", "npz"} <= set(built_in["datasets"])
    assert {"fid", "kid", "manifold", "inception-score"} <= set(built_in["metrics"])
    assert {"digits", "inception"} <= set(built_in["features"])
    assert "Radford" in listed["trainers"]["dcgan"]["summary"]
    assert answers["train dcgan --help"].code == 0
    assert "--generator-width" in answers["train dcgan --help"].out


def test_other_commands_name_the_faulty_plugins_in_one_line(answers: dict[str, Answer]) -> None:
    for command in ("list", "train dcgan --help", "train rectflow --gate --budget soon"):
        lines = [line for line in answers[command].err.splitlines() if "problems" in line]
        assert len(lines) == 1, command
        assert lines[0].endswith("see: genkit plugins")
        named = set(lines[0].removeprefix("Plugins with problems: ").split(";")[0].split(", "))
        assert named == {*FAULTS, "twin", "leftover"}


def test_plugin_that_prints_at_import_does_not_mix_with_results(
    answers: dict[str, Answer],
) -> None:
    answer = answers["list --json -"]
    assert json.loads(answer.out)["trainers"]["printer"]["from"] == "torch-genkit-printer"
    assert "PRINTED AT IMPORT" not in answer.out
    assert any("PRINTED AT IMPORT" in each.err for each in answers.values())


def test_entry_point_to_the_built_in_module_leaves_the_built_in_plugin_alone(
    answers: dict[str, Answer],
) -> None:
    assert "Plugin already registered" in line_of("twin", answers["plugins"].out)
    assert "dcgan" in json.loads(answers["list --json -"].out)["trainers"]


def test_leftover_of_a_removed_plugin_is_reported(answers: dict[str, Answer]) -> None:
    line = line_of("leftover", answers["plugins"].out)
    assert "No module named 'gone_for_good'" in line


def test_third_party_trainer_is_listed_with_its_words_as_they_are(
    answers: dict[str, Answer],
) -> None:
    listed = line_of("rectflow", answers["list"].out)
    assert "Straight paths, [bold]faster[/bold] [/x]. (torch-genkit-good)" in listed
    assert "[bold]faster[/bold] [/x]." in answers["train --help"].out


def test_third_party_trainer_has_its_own_options(answers: dict[str, Answer]) -> None:
    answer = answers["train rectflow --help"]
    assert answer.code == 0
    assert "[bold]faster[/bold] [/x]." in answer.out
    for part in ("--depth", "[1<=x<=8]", "blocks [of two] in [-1, 1]", "[default: 4]"):
        assert part in answer.out
    for part in ("--gate", "--no-gate", "whether [/b] to gate", "<a|b>", "full, quick"):
        assert part in answer.out


def test_switch_of_a_third_party_model_may_come_before_its_name(answers: dict[str, Answer]) -> None:
    for command in ("train rectflow --gate --budget soon", "train --gate rectflow --budget soon"):
        assert answers[command].code == 2
        assert "--budget: 'soon' is not a budget" in answers[command].err


def test_a_name_that_two_third_party_plugins_claim_cannot_be_used(
    answers: dict[str, Answer],
) -> None:
    assert "toy" not in json.loads(answers["list --json -"].out)["trainers"]
    answer = answers["train toy --help"]
    assert answer.code == 3
    assert "torch-genkit-one 0.1 and torch-genkit-two 0.1" in answer.err
    assert "GENKIT_DISABLE_PLUGINS" in answer.err
    for name in ("one", "two"):
        assert "model 'toy' comes from torch-genkit-one 0.1 and torch-genkit-two 0.1" in line_of(
            name, answers["plugins"].out
        )


def test_no_fault_imports_torch_or_shows_a_traceback(answers: dict[str, Answer]) -> None:
    for answer in answers.values():
        assert answer.heavy == []
        assert "Traceback" not in answer.out + answer.err


def test_contested_name_works_once_one_claimant_is_disabled(
    tmp_path: Path, command_lines: CommandLines
) -> None:
    for name in ("one", "two"):
        install_plugin(tmp_path, name, trainer_source("toy"))
    keep = [{"GENKIT_DISABLE_PLUGINS": "torch-genkit-two"}, {"GENKIT_DISABLE_PLUGINS": "x, one"}]
    lines = ["list --json -", "list --json -"]
    answers = command_lines(*lines, site=tmp_path, variables=keep)
    owners = [json.loads(answer.out)["trainers"]["toy"]["from"] for answer in answers]
    assert owners == ["torch-genkit-one", "torch-genkit-two"]
    assert [answer.err for answer in answers] == ["", ""]


def test_completion_is_silent_about_faulty_plugins(
    tmp_path: Path, command_lines: CommandLines
) -> None:
    install_plugin(tmp_path, "raises", FAULTS["raises"][0])
    variables = {"_GENKIT_COMPLETE": "complete_bash", "COMP_WORDS": "genkit train dc"}
    (answer,) = command_lines("", site=tmp_path, variables=[{**variables, "COMP_CWORD": "2"}])
    assert answer.out.split() == ["dcgan"]
    assert answer.err == ""


def test_traceback_is_shown_when_asked_for(tmp_path: Path, command_lines: CommandLines) -> None:
    install_plugin(tmp_path, "raises", FAULTS["raises"][0])
    (answer,) = command_lines("plugins --traceback", site=tmp_path)
    assert "Traceback (most recent call last)" in answer.out
    assert "stranger_raises.py" in answer.out


# ---- plugins that work, but do what they should not


def at_import(name: str, code: str) -> str:
    """A plugin that does something when it is imported."""
    return f"{code}\n{trainer_source(name)}"


def in_hook(name: str, code: str) -> str:
    """A plugin that does something when it is asked for its trainers."""
    return trainer_source(name).replace("return [", f"{code}\n    return [")


# Each of them, and what `genkit plugins` notes; their trainers work.
DISTURBERS = {
    "sleeps": (
        at_import("sleeps", "import time; time.sleep(1.05)"),
        "each command waits 1.1 s for it to be imported",
    ),
    "moves": (
        at_import("moves", "import os; os.chdir('/')"),
        "it changed the working directory, which was put back",
    ),
    "argues": (
        at_import("argues", "import sys; sys.argv.append('x')"),
        "it changed sys.argv, which was put back",
    ),
    "traps": (
        at_import("traps", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"),
        "it changed the handler of SIGINT, which was put back",
    ),
    "doubles": (
        at_import("doubles", "import torch; torch.set_default_dtype(torch.float64)"),
        "it changed torch's default type, which was put back",
    ),
    "freezes": (
        at_import("freezes", "import torch; torch.set_grad_enabled(False)"),
        "it changed torch's gradients, which was put back",
    ),
    "threads": (
        at_import("threads", "import threading; threading.Timer(1, print).start()"),
        "it started a thread: what that prints may mix with results",
    ),
    "moves-later": (
        in_hook("moves-later", "import os; os.chdir('/'); print('FROM A HOOK')"),
        "it changed the working directory, which was put back",
    ),
    "logs": (
        at_import("logs", "import logging; logging.basicConfig(level=10); logging.info('A LOG')"),
        None,
    ),
}
# Loaded last, it tells in its summary what the process is like by then.
PROBE = """
import os, signal, sys, torch
from genkit.hookspecs import hookimpl
from genkit.specs import TrainerSpec

@hookimpl
def register_trainers():
    state = [os.getcwd(), len(sys.argv), signal.getsignal(signal.SIGINT).__name__]
    state += [str(torch.get_default_dtype()), torch.is_grad_enabled()]
    return [TrainerSpec(name="zz-probe", summary=repr(state), target="a:B")]
"""


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory, command_lines: CommandLines
) -> dict[str, Answer]:
    """Command lines with all of them installed, and two that share an entry point's name."""
    site = tmp_path_factory.mktemp("site")
    for name, (source, _) in DISTURBERS.items():
        install_plugin(site, name, source)
    install_plugin(site, "zz-probe", PROBE)
    for number in ("one", "two"):
        target = f"stranger_{number}"
        install_plugin(site, number, trainer_source(number))
        points = site / f"torch_genkit_{number}-0.1.dist-info" / "entry_points.txt"
        points.write_text(f"[genkit.v1]\nsame = {target}\n", encoding="utf-8")
    lines = ["plugins --json -", "plugins --json health.json", "plugins", "list --json -"]
    return dict(zip(lines, command_lines(*lines, site=site), strict=True))


def health(answers: dict[str, Answer]) -> dict[str, dict[str, Any]]:
    return {
        plugin["distribution"]: plugin for plugin in json.loads(answers["plugins --json -"].out)
    }


@pytest.mark.parametrize("name", DISTURBERS)
def test_what_a_plugin_does_to_the_process_is_noted_and_it_works(
    name: str, disturbed: dict[str, Answer]
) -> None:
    plugin, note = health(disturbed)[f"torch-genkit-{name}"], DISTURBERS[name][1]
    assert plugin["problem"] is None
    assert plugin["provides"] == {"trainers": [name]}
    if name == "sleeps":
        assert 1.05 <= plugin["import_seconds"] < 60
        note = f"each command waits {plugin['import_seconds']:.1f} s for it to be imported"
    notes = [line for line in plugin["notes"] if "each command waits" not in line or line == note]
    assert notes == ([note] if note else [])  # importing torch may also be slow
    assert json.loads(disturbed["list --json -"].out)["trainers"][name]["from"].endswith(name)
    if name == "moves-later":  # hooks are asked each time, modules imported once
        assert note in line_of(name, disturbed["plugins"].out)


def test_process_is_as_it_was_before_the_plugins(
    disturbed: dict[str, Answer], command_lines: CommandLines
) -> None:
    listed = json.loads(disturbed["list --json -"].out)["trainers"]
    folder, arguments, handler, kind, gradients = ast.literal_eval(listed["zz-probe"]["summary"])
    assert folder == str(command_lines.folder) and (command_lines.folder / "health.json").exists()
    assert arguments == 2  # as the driver of these tests is called
    assert (handler, kind, gradients) == ("default_int_handler", "torch.float32", True)


def test_what_plugins_print_is_not_in_the_json(disturbed: dict[str, Answer]) -> None:
    for line in ("plugins --json -", "list --json -"):
        assert "FROM A HOOK" not in disturbed[line].out and "A LOG" not in disturbed[line].out
        assert "FROM A HOOK" in disturbed[line].err


def test_plugins_may_share_the_name_of_an_entry_point(disturbed: dict[str, Answer]) -> None:
    for number in ("one", "two"):
        plugin = health(disturbed)[f"torch-genkit-{number}"]
        assert (plugin["name"], plugin["problem"]) == ("same", None)
        assert plugin["provides"] == {"trainers": [number]}


def test_health_as_json_says_what_the_table_says(answers: dict[str, Answer]) -> None:
    found = json.loads(answers["plugins --json -"].out)
    names = ["name", "distribution", "version", "provides", "import_seconds", "imported_torch"]
    assert all(list(plugin) == [*names, "problem", "notes"] for plugin in found)
    assert [plugin["name"] for plugin in found if plugin["distribution"] == "torch-genkit"] == [
        "datasets", "dcgan", "diffusion", "efficientnet", "fidelity", "gan", "pixelcnn",
        "pixelrnn", "studies", "tensorboard", "vae",
    ]  # fmt: skip
    for plugin in found:
        line = next(
            line
            for line in answers["plugins"].out.splitlines()
            if line.split()[:2] == [plugin["name"], plugin["distribution"]]
        )
        assert (plugin["problem"] or "") in line and plugin["version"] in line
        assert 0 <= plugin["import_seconds"] < 60 and plugin["imported_torch"] is False
        faulty = plugin["problem"] is not None or plugin["name"] in ("one", "two")
        assert faulty != bool(plugin["provides"])
        if plugin["name"] == "tensorboard":  # registers nothing and listens
            assert "on_log" in plugin["provides"]["events"]
    vae = next(plugin for plugin in found if plugin["name"] == "vae")
    assert vae["provides"] == {"trainers": ["vae"]} and vae["notes"] == []


def test_plugin_that_warns_at_import_works(tmp_path: Path) -> None:
    """Where warnings are no errors, as for users."""
    install_plugin(tmp_path, "warns", at_import("warns", FAULTS["warns"][0]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "genkit", "list", "--json", "-"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "warns" in json.loads(done.stdout)["trainers"]
    assert "UserWarning: old" in done.stderr and "problems" not in done.stderr


# ---- run events


class Listener:
    """A plugin that hears run events and fails in one of them."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.heard: list[int] = []

    @hookimpl
    def on_log(self, step: int) -> None:
        self.heard.append(step)
        print("HEARD", step)
        if self.error:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("two\nlines"), SystemExit(1)])
def test_listener_that_fails_is_muted_and_the_others_hear_on(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins, bad, good = Plugins(), Listener(error), Listener()
    plugins.register(bad, Plugin("bad", "torch-genkit-bad", "1"))
    plugins.register(good, Plugin("good", "torch-genkit-good", "1"))
    muted = [plugins.notify("on_log", run=Path(), step=step, values={}) for step in (1, 2, 3)]
    assert [len(lines) for lines in muted] == [1, 0, 0]
    assert muted[0][0].startswith("plugin bad failed in on_log and is muted: ")
    assert "\n" not in muted[0][0]
    assert (bad.heard, good.heard) == ([1], [1, 2, 3])
    assert capsys.readouterr().out == ""  # what a listener prints must not mix with results


def test_interrupt_is_never_a_plugins_fault() -> None:
    plugins = Plugins()
    plugins.register(Listener(KeyboardInterrupt()), Plugin("bad", "torch-genkit-bad", "1"))
    with pytest.raises(KeyboardInterrupt):
        plugins.notify("on_log", run=Path(), step=1, values={})


def test_first_problem_of_a_plugin_stays() -> None:
    record = Plugin("bad", "torch-genkit-bad", "1")
    record.fail(PluginError("the first"))
    record.fail(ValueError("the second"))
    assert record.problem == "the first"
