"""Fixtures of several test files."""

from __future__ import annotations

import os

# Before NumPy is imported, here and in all processes of the tests: with more threads than free
# cores its products wait for each other, and tests took ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from command_lines import CommandLines


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Features of real images are kept in a folder of these tests' own."""
    os.environ["GENKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def command_lines(tmp_path_factory: pytest.TempPathFactory) -> CommandLines:
    """Runs command lines in a fresh interpreter whose working directory is empty."""
    return CommandLines(tmp_path_factory.mktemp("work"))
