"""Third-party metrics that fail, installed for real: each costs its own columns, no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import Answer, CommandLines, install_plugin
from toys import bright_squares, write_npz

torch.set_num_threads(1)

pytestmark = pytest.mark.xdist_group("failing-metrics")  # its fixtures take long

METRIC = """
from genkit.hookspecs import hookimpl
from genkit.specs import Column, MetricSpec

@hookimpl
def register_metrics():
    columns = [Column(name=n, title=n, better="lower") for n in ("{name}_a", "{name}_b")]
    return [MetricSpec(
        name="{name}", summary="A metric.", target="{target}", columns=tuple(columns)
    )]

def score(config, samples, reference):
    {body}
"""
# What a metric does, which of its columns survive, and what is said of it.
FAULTS = {
    "raises": ("raise ValueError('no room')", "", "failed: ValueError: no room (*.py:13)"),
    "exits": ("raise SystemExit(0)", "", "failed: SystemExit: 0 (*.py:13)"),
    "missing": ("import nowhere_at_all", "", "failed: ModuleNotFoundError: No module named"),
    "nothing": ("return None", "", "returned NoneType, not a dict (*:score)"),
    "nan": (
        "return {'nan_a': float('nan'), 'nan_b': 2}",
        "b",
        "returned 'nan_a' = nan, not a finite number (*:score)",
    ),
    "words": ("return {'words_a': 'far'}", "", "returned 'words_a' = 'far', not a finite number"),
    "vector": (
        "return {'vector_a': samples.features[0], 'vector_b': 1.5}",
        "b",
        "returned 'vector_a' = tensor([",
    ),
    "undeclared": (
        "return {'undeclared_a': 1, 'fid': 0.0}",
        "a",
        "returned 'fid' = 0.0, which is not one of its columns (*:score)",
    ),
    "warns": ("import warnings; warnings.warn('old')", "", "failed: UserWarning: old (*.py:13)"),
    "target": ("", "", "failed: 'target' could not be loaded: No module named 'gone_with_it'"),
}
# It works, but prints and leaves the process other than it was.
NOISY = """print('FROM A METRIC')
    import os, torch
    os.chdir('/')
    torch.set_default_dtype(torch.float64)
    return {'noisy_a': 1, 'noisy_b': 2.5}"""
BUILT_IN = {"fid", "kid", "precision", "recall", "density", "coverage", "is"}


def install_metric(site: Path, name: str, body: str) -> None:
    module = f"stranger_{name}"
    target = "gone_with_it:score" if name == "target" else f"{module}:score"
    source = METRIC.replace("{name}", name).replace("{target}", target)
    install_plugin(site, name, source.replace("{body}", body or "pass"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, and samples of it."""
    folder = tmp_path_factory.mktemp("data")
    write_npz(folder / "data.npz", bright_squares(120, (1, 28, 28)))
    write_npz(folder / "samples.npz", bright_squares(40, (1, 28, 28), seed=1))
    return folder


def evaluate(folder: Path, more: str = "") -> str:
    data = f"--data npz:{folder / 'data.npz'} --features digits --threads 1"
    return f"evaluate {folder / 'samples.npz'} {data} {more}"


@pytest.fixture(scope="module")
def answers(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, command_lines: CommandLines
) -> list[Answer]:
    """Scores with all faulty metrics installed: as JSON, as a table, and with tracebacks."""
    site = tmp_path_factory.mktemp("site")
    for name, (body, _, _) in FAULTS.items():
        install_metric(site, name, body)
    install_metric(site, "noisy", NOISY)
    lines = [evaluate(folder, "--json -"), evaluate(folder), evaluate(folder, "--alone")]
    variables = [{}, {}, {"GENKIT_TRACEBACK": "1"}]
    return command_lines(*lines, site=site, variables=variables)


@pytest.fixture(scope="module")
def rows(answers: list[Answer]) -> list[dict[str, Any]]:
    return list(json.loads(answers[0].out))


def matches(line: str, name: str) -> bool:
    """Whether a line tells a metric's fault, with its distribution and the place."""
    start, _, end = FAULTS[name][2].partition("*")
    return line.startswith(f"metric {name!r} of torch-genkit-{name} 0.1 {start}") and end in line


@pytest.mark.parametrize("name", FAULTS)
def test_failing_metric_is_one_line_with_its_distribution_and_reason(
    name: str, answers: list[Answer], rows: list[dict[str, Any]]
) -> None:
    for answer in answers[:2]:
        assert answer.code == 0
        told = [line for line in answer.err.splitlines() if f"metric {name!r}" in line]
        assert len(told) == 1 and matches(told[0], name), told  # one for the four rows
    for row in rows:
        assert sum(matches(problem, name) for problem in row["problems"]) == 1


def test_failing_metrics_cost_their_own_columns_only(rows: list[dict[str, Any]]) -> None:
    kept = {f"{name}_{column}" for name, (_, columns, _) in FAULTS.items() for column in columns}
    assert [row["name"] for row in rows][1:] == ["real", "copy", "noise"]
    for row in rows:
        assert set(row["scores"]) >= BUILT_IN and row["scores"]["fid"] != 0.0
        mine = {name for name in row["scores"] if name.rpartition("_")[0] in FAULTS}
        assert mine == kept
        assert len(row["problems"]) == len(FAULTS)


def test_built_in_scores_are_those_without_the_failing_metrics(
    folder: Path, rows: list[dict[str, Any]], command_lines: CommandLines
) -> None:
    (alone,) = command_lines(evaluate(folder, "--json -"))
    for row, expected in zip(rows, json.loads(alone.out), strict=True):
        assert {name: row["scores"][name] for name in expected["scores"]} == expected["scores"]
        assert expected["problems"] == []


def test_what_a_metric_prints_or_does_to_the_process_is_not_in_the_results(
    answers: list[Answer], rows: list[dict[str, Any]]
) -> None:
    """What the other metrics say of the rows after it is compared with their own words above."""
    assert "FROM A METRIC" in answers[0].err and "FROM A METRIC" not in answers[0].out
    for row in rows:
        assert (row["scores"]["noisy_a"], row["scores"]["noisy_b"]) == (1, 2.5)


def test_table_has_no_column_without_a_value(answers: list[Answer]) -> None:
    assert "nan_b" in answers[1].out and "vector_b" in answers[1].out
    assert "nan_a" not in answers[1].out and "raises_a" not in answers[1].out
    assert "Ranked by" in answers[1].out


def test_tracebacks_are_shown_when_asked_for(answers: list[Answer]) -> None:
    assert not any("Traceback" in answer.err + answer.out for answer in answers[:2])
    assert "raise ValueError('no room')" in answers[2].err and answers[2].code == 0


def test_what_a_metric_says_to_its_user_ends_the_command(
    folder: Path, tmp_path: Path, command_lines: CommandLines
) -> None:
    body = "from genkit.errors import UsageError; raise UsageError('give more samples')"
    install_metric(tmp_path, "speaks", body)
    (answer,) = command_lines(evaluate(folder, "--alone"), site=tmp_path)
    assert answer.code == 2 and "Error: give more samples" in answer.err


@pytest.mark.thorough
def test_comparison_goes_on_with_a_failing_metric(
    folder: Path, tmp_path: Path, command_lines: CommandLines
) -> None:
    install_metric(tmp_path, "raises", FAULTS["raises"][0])
    words = f"compare vae --data npz:{folder / 'data.npz'} --features digits --budget 2steps"
    (answer,) = command_lines(f"{words} --samples 40 --json - --out {tmp_path}/out", site=tmp_path)
    assert answer.code == 0, answer.err
    assert "metric 'raises' of torch-genkit-raises 0.1 failed: ValueError: no room" in answer.err
    for row in json.loads(answer.out):
        assert set(row["scores"]) >= BUILT_IN
        assert matches(*row["problems"], "raises")
