"""`genkit study` in processes of its own: the page's own study, killed and continued."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from genkit.cli.app import main

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"
COMMAND = [sys.executable, "-P", "-m", "genkit", "study", "width.toml", "--quick"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["few-image"], "no study named 'few-image', and no such file. Did you mean 'few-images'"),
        (["mine.toml"], "mine.toml cannot be read: No such file or directory"),
        (["few-images", "--data", "nothing"], "there is no data set named 'nothing'"),
    ],
)
def test_wrong_command_line_is_one_sentence(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["study", *words, "--out", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_study_of_the_page_is_continued_after_a_kill(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(# width.toml\n.*?)^```$", text, re.M | re.S)
    assert "genkit study width.toml --quick --out width" in text
    (tmp_path / "width.toml").write_text(block, encoding="utf-8")
    command = [*COMMAND, "--out", "width", "--workers", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if "wide-s0: training:" in line:  # the first is scored, the second under way
                break
        process.kill()
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Continuing the study in width." in done.stderr
    assert "narrow-s0: " not in done.stderr and "wide-s0: scoring: done" in done.stderr
    assert re.search(r"^ *narrow +--width 8 +[01] of 1 +\d+% to \d+%", done.stdout, re.M)
    page = (tmp_path / "width" / "study.html").read_text(encoding="utf-8")
    assert "Is a wider VAE a better VAE?</h1>" in page and "<h2" in page
