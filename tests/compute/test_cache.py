"""The cache folder: where it is, and that what is damaged in it is computed again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import same_bits

from genkit.compute.cache import cache_folder, read_cached, write_cached


def test_cache_folder_is_the_variable_then_the_users_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("GENKIT_CACHE", "~/variable")
    assert cache_folder("features") == Path("/home/someone/variable/features")
    monkeypatch.delenv("GENKIT_CACHE")
    assert cache_folder("features") == Path("/cache/genkit/features")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("features") == Path("/home/someone/.cache/genkit/features")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("features") == Path("/home/someone/.cache/genkit/features")


def test_what_is_kept_comes_back_and_what_is_damaged_does_not(tmp_path: Path) -> None:
    path, tensors = tmp_path / "folder" / "kept", {"a": torch.randn(3, 2).t(), "b": torch.arange(4)}
    assert read_cached(path) is None
    write_cached(path, tensors)
    found = read_cached(path)
    assert found and same_bits(found, tensors)
    content = bytearray(path.read_bytes())
    for place in (4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_cached(path) is None
    path.write_bytes(content[:-1])
    assert read_cached(path) is None


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    write_cached(tmp_path / "file" / "kept", {"a": torch.ones(1)})
    assert (tmp_path / "file").read_text() == "here"
