"""The models of examples/, one file each: short, used as their first lines say, kept contracts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_lines import CommandLines
from toys import bright_squares, write_npz

from genkit.registry.catalogue import load_registry
from genkit.testing import check_trainer

FILES = sorted(Path(__file__).parents[2].glob("examples/*.py"))
MODELS = {path.stem: path for path in FILES if path.stem != "compare"}
PLUGINS = [word for path in MODELS.values() for word in ("--plugin", str(path))]
QUICK = "--device cpu --precision fp32 --grids 0 --batch-size 16 --progress none"
TINY_DIFFUSION = {"width": 8, "batch_size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Squares in four corners, in two classes."""
    labels = np.arange(120) % 2
    return write_npz(
        tmp_path_factory.mktemp("data") / "data.npz", bright_squares(120), labels=labels
    )


def run_all(command_lines: CommandLines, *lines: str) -> list[str]:
    """What command lines print, which all succeed."""
    answers = command_lines(*([*line.split(), *PLUGINS] for line in lines))
    assert [answer.code for answer in answers] == [0] * len(lines), answers
    return [answer.out for answer in answers]


@pytest.mark.parametrize("path", MODELS.values(), ids=MODELS)
def test_example_is_a_page_of_code_and_the_documentation_names_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in text.splitlines()) < 120
    assert f"examples/{path.name}" in text  # how to run it
    pages = "".join(page.read_text("utf-8") for page in path.parents[1].glob("docs/*.md"))
    assert f"examples/{path.name}" in pages


def test_diffusion_is_guided_and_distilled_after_its_run_is_gone(
    command_lines: CommandLines, data: str, tmp_path: Path
) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    run_all(
        command_lines,
        f"train guided-diffusion --conditional --width 8 --data {data} --budget 4steps "
        f"--log-every 1 --run-dir {teacher} {QUICK}",
        *(
            f"sample {teacher} -n 3 --sampler guidance={guidance} --sampler steps=3 "
            f"-o {tmp_path / name}"
            for name, guidance in (("plain", 0), ("guided", 4))
        ),
        f"train consistency --teacher {teacher} --guidance 2 --data {data} --budget 3steps "
        f"--run-dir {student} {QUICK}",
    )
    rates = [json.loads(line) for line in (teacher / "metrics.jsonl").read_text().splitlines()]
    shares = [row["denoise/learning_rate"] / 2e-3 * 100 for row in rates]
    cosine = [(1 + np.cos(np.pi * step / 4)) / 2 * (step + 1) for step in range(4)]
    assert np.allclose(shares, cosine)
    plain, guided = (sorted((tmp_path / name).rglob("*.png")) for name in ("plain", "guided"))
    assert plain[0].read_bytes() != guided[0].read_bytes()
    shutil.rmtree(teacher)
    run_all(
        command_lines,
        f"sample {student} -n 2 --labels 1 --sampler steps=1 -o {tmp_path / 'one'}",
        f"resume {student} --budget 4steps --progress none",
    )


def test_vq_vae_is_trained_in_two_runs(
    command_lines: CommandLines, data: str, tmp_path: Path
) -> None:
    first, prior = tmp_path / "first", tmp_path / "prior"
    run_all(
        command_lines,
        f"train vq-vae --width 4 --codes 8 --size 4 --data {data} --budget 30steps "
        f"--log-every 5 --run-dir {first} {QUICK}",
        f"train code-prior --first {first} --width 8 --layers 1 --data {data} --budget 30steps "
        f"--log-every 5 --run-dir {prior} {QUICK}",
        f"sample {prior} -n 2 --sampler temperature=0.5 -o {tmp_path / 'out'}",
    )
    for run, name in ((first, "codes/loss"), (prior, "prior/loss")):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [row[name] for row in rows if name in row]
        assert losses[-1] < losses[0]


@pytest.mark.slow
def test_guidance_makes_two_rows_of_a_comparison(
    command_lines: CommandLines, data: str, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _, table = run_all(
        command_lines,
        f"train guided-diffusion --conditional --width 8 --data {data} --budget 4steps "
        f"--run-dir {run} {QUICK}",
        f"compare {run}@guidance=0 {run}@guidance=2 --samples 20 --features none --device cpu "
        f"--out {out} --json -",
    )
    rows = {row["name"]: row for row in json.loads(table)}
    assert {"run@guidance=0", "run@guidance=2"} <= {re.sub(r"\.0$", "", name) for name in rows}
    assert (out / "report.html").is_file()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("guided-diffusion", TINY_DIFFUSION),
        ("vq-vae", {"width": 8, "codes": 8, "size": 4, "batch_size": 16}),
    ],
)
def test_examples_keep_their_contracts(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, int]
) -> None:
    monkeypatch.setenv("GENKIT_PLUGINS", ":".join(map(str, MODELS.values())))
    check_trainer(load_registry().trainers.find(name), options=options)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("first", "name", "option", "more"),
    [
        ("guided-diffusion", "consistency", "teacher", {"levels": 5}),
        ("vq-vae", "code-prior", "first", {"width": 8, "layers": 1}),
    ],
)
def test_examples_that_use_another_run_keep_their_contracts(
    command_lines: CommandLines,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    first: str,
    name: str,
    option: str,
    more: dict[str, int],
) -> None:
    run, data = tmp_path / "run", write_npz(tmp_path / "data.npz")
    run_all(
        command_lines,
        f"train {first} --width 8 --data {data} --budget 2steps --run-dir {run} {QUICK}",
    )
    monkeypatch.setenv("GENKIT_PLUGINS", ":".join(map(str, MODELS.values())))
    options = {option: str(run), "batch_size": 16, **more}
    check_trainer(load_registry().trainers.find(name), options=options, shapes=[(1, 8, 8)])
