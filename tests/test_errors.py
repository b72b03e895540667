"""An error names the plugin's line, not that of the library that noticed it."""

import importlib
import sys

import pytest

from genkit.errors import PluginError, one_line, plugin_code

MINE = """
import torch
from pathlib import Path
from neighbour import deeper

def in_torch():
    torch.zeros(2).view(3)

def in_python():
    Path("/nowhere/at/all").read_text()

def in_a_neighbour():
    deeper()

def in_a_callback():
    torch.nn.Module.apply(torch.nn.Linear(1, 1), lambda module: module.nothing)

@torch.no_grad()
def decorated():
    raise ValueError("mine")

def never_called(batch):
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE.strip() + "\n")
    (tmp_path / "neighbour.py").write_text(
        "import torch\n\ndef deeper():\n    torch.cat(7)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    del sys.modules["mine"], sys.modules["neighbour"]


@pytest.mark.parametrize(
    "name, place",
    [
        ("in_torch", "mine.py:6"),
        ("in_python", "mine.py:9"),
        ("in_a_neighbour", "neighbour.py:4"),
        ("in_a_callback", "mine.py:15"),
        ("decorated", "mine.py:19"),
    ],
)
def test_the_place_is_the_last_line_of_the_plugins_own_files(mine, tmp_path, name, place):
    with pytest.raises(PluginError) as caught, plugin_code("it"):
        getattr(mine, name)()
    assert f"({tmp_path.name}/{place})" in str(caught.value)


def test_where_no_line_of_the_plugin_is_left_its_function_is_named(mine, tmp_path):
    error = ValueError("no")
    assert one_line(error, mine.never_called) == f"ValueError: no ({tmp_path.name}/mine.py:21)"
    assert one_line(error) == "ValueError: no"
