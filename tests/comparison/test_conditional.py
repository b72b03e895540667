"""`genkit compare --conditional` from the command line to its page."""

import json

import numpy as np
import pytest
from command_lines import trainer_source
from toys import TINY, bright_squares, write_npz


@pytest.mark.slow
def test_models_are_compared_by_class_and_one_that_cannot_be_says_so(command_lines, tmp_path):
    labels = np.arange(120) % 2
    data = write_npz(tmp_path / "data.npz", bright_squares(120), labels=labels)
    out, plain = tmp_path / "out", tmp_path / "plain.py"
    plain.write_text(trainer_source("plain"), encoding="utf-8")
    options = [f"--set vae.{name}={value}" for name, value in TINY["vae"].items()]
    words = f"compare vae plain --plugin {plain} --conditional --data {data} --budget 4steps "
    words += f"--samples 20 --features none --device cpu --workers 1 --out {out} --json - "
    words += " ".join(options)
    (answer,) = command_lines(words)
    assert answer.code == 1 and "plain failed" in answer.err
    rows = {row["name"]: row for row in json.loads(answer.out)}
    said = "plain has no --conditional: it cannot be trained by class"
    assert said in rows["plain"]["error"]
    assert "training" in rows["vae"]["card"]["labels"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert said in page and 'id="classes"' in page and 'id="class"' in page
    assert "vae draws images by class" in page
