"""Nothing in the project runs code from files, or could."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("genkit", "plugins", "examples")
    for pattern in ("*.py", "*.py.template")
    for path in (ROOT / folder).rglob(pattern)
)
# Modules that unpickle or run what a file says.
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
MODULES |= {"yaml", "runpy", "code", "pty"}
# DINOv2's network is code from GitHub, as `genkit info dinov2` says; its weights come as a pickle,
# which is read after its SHA-256 was compared, and then as plain tensors only. So do the weights of
# EfficientNet-Lite0, from a package.
KNOWN = {"pretrained.py": {"torch.hub.load", "torch.load"}, "weights.py": {"torch.load"}}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"os.system", "os.popen", "os.execv", "os.execvp", "pandas.read_pickle", "torch.jit.load"}
CALLS |= {"torch.load", "torch.hub.load", "torch.package.PackageImporter", "numpy.fromregex"}


def dotted(node: ast.expr) -> str:
    """A call's name, such as "torch.load", or "" for what has none."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_literal(call: ast.Call, name: str, value: object) -> bool:
    """Whether a call's keyword is there and says so."""
    found = [each.value for each in call.keywords if each.arg == name]
    return len(found) == 1 and isinstance(found[0], ast.Constant) and found[0].value is value


def faults(source: str) -> Iterator[str]:
    """What in a module's source is banned."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            yield from (m for m in modules if m.partition(".")[0] in MODULES)
            if modules == ["torch"] and isinstance(node, ast.ImportFrom):
                yield from ("torch.load" for name in names if name == "load")
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in BUILTINS | CALLS:
                yield name
            if name == "torch.load" and not is_literal(node, "weights_only", True):
                yield "torch.load without weights_only=True"
            if any(each.arg == "shell" for each in node.keywords):
                yield "shell"
            pickled = [each for each in node.keywords if each.arg == "allow_pickle"]
            if pickled and not is_literal(node, "allow_pickle", False):
                yield "allow_pickle"
            if name in ("np.load", "numpy.load") and not pickled:
                yield "numpy.load without allow_pickle=False"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_from_files(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    source = source.replace("$", "") if path.suffix == ".template" else source
    assert set(faults(source)) <= KNOWN.get(path.name, set())


BAD = {
    "import pickle": "pickle",
    "import torch, dill": "dill",
    "from joblib import load": "joblib",
    "def f():\n    import cloudpickle as c": "cloudpickle",
    "import yaml": "yaml",
    "from marshal import loads": "marshal",
    "eval('1')": "eval",
    "exec(text)": "exec",
    "torch.load(p, weights_only=True)": "torch.load",
    "from torch import load": "torch.load",
    "from torch import nn, load as read": "torch.load",
    "np.load(p)": "numpy.load without allow_pickle=False",
    "np.load(p, allow_pickle=True)": "allow_pickle",
    "np.lib.format.read_array(p, allow_pickle=yes)": "allow_pickle",
    "subprocess.run(c, shell=True)": "shell",
    "os.system(c)": "os.system",
}


@pytest.mark.parametrize("source", BAD)
def test_each_ban_is_enforced(source: str) -> None:
    assert list(faults(source)) == [BAD[source]]


@pytest.mark.parametrize("rest", ["", ", weights_only=False", ", weights_only=safe", ", **options"])
def test_where_torch_load_is_allowed_it_must_read_plain_tensors_only(rest: str) -> None:
    found = list(faults(f"torch.load(p{rest})"))
    assert found == ["torch.load", "torch.load without weights_only=True"]


def test_what_is_allowed_is_not_banned() -> None:
    assert not list(faults("model.eval(); safetensors.torch.load(b); re.compile('x')"))


def test_there_are_files_to_look_at() -> None:
    names = {path.name for path in FILES}
    assert names >= {"checkpoint.py", "state_file.py", "folder.py", "model.py"}
    assert any(path.suffix == ".template" for path in FILES)


def test_ruff_bans_the_same() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert {"S301", "S306", "TID251"} <= set(lint["lint"]["select"])
    banned = lint["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {"pickle", "torch.load"} <= set(banned)
