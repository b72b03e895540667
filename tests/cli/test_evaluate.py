"""`genkit evaluate` and `compare` show what was computed, whatever cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from toys import train_tiny, write_npz

import genkit.io.files
from genkit.cli import main

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SMALL = ["-n", "10", "--features", "none", "--likelihood-images", "4", "--draws", "2"]


@pytest.mark.parametrize("json_path", [None, "scores.json", "/dev/full"])
def test_scores_are_shown_and_written_elsewhere_though_the_run_cannot_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    json_path: str | None,
) -> None:
    data = write_npz(tmp_path / "data.npz")
    runs = [train_tiny("vae", data, tmp_path / name, budget="1steps").path for name in "ab"]
    replace = os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).parent == runs[0]:
            raise FULL
        replace(source, target)

    monkeypatch.setattr(genkit.io.files.os, "replace", full)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", *map(str, runs), "--data", data, *SMALL, "--progress", "none"]
    assert main([*words, *(["--json", json_path] if json_path else [])]) == 1
    shown = capsys.readouterr()
    assert "\n  a " in shown.out and "\n  b " in shown.out and "NLL" in shown.out
    assert f"{runs[0] / 'evaluation.json'} could not be written" in shown.err
    assert "Traceback" not in shown.err
    assert (runs[1] / "evaluation.json").exists()
    if json_path == "scores.json":
        assert len(json.loads((tmp_path / json_path).read_text())) >= 2


def test_a_comparison_whose_folder_cannot_be_made_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_npz(tmp_path / "data.npz")
    run = train_tiny("vae", data, tmp_path / "run", budget="1steps").path
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert main(["compare", str(run), "--features", "none", "-n", "10", "--out", str(out)]) == 2
    assert f"{out} cannot be" in capsys.readouterr().err
