"""Files damaged at random are read or refused, whatever they are, and nothing else happens."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import fuzz as fuzzing
import pytest
import torch
from fuzz import Target, attempt, fuzz, make_mutant, mutate, targets

MUTANTS = 5000
torch.set_num_threads(1)


@pytest.mark.slow
def test_thousands_of_mutants_are_read_or_refused_each_within_a_second(tmp_path: Path) -> None:
    outcomes, failures = fuzz(tmp_path / "fuzz", MUTANTS, seed=0)
    assert failures == []
    assert sum(sum(count.values()) for count in outcomes.values()) >= MUTANTS
    for name, count in outcomes.items():
        refuses = name != "metrics.jsonl" and name not in ("png", "jpg", "webp", "bmp")
        assert count["read"] > 0 and (count["refused"] > 0) == refuses, (name, count)


def test_a_mutant_can_be_made_again_and_is_none_of_the_others(tmp_path: Path) -> None:
    found = targets(tmp_path / "fuzz")
    for name, target in found.items():
        mutants = [make_mutant(name, target, 0, number) for number in range(50)]
        assert mutants == [make_mutant(name, target, 0, number) for number in range(50)]
        assert len(Counter(mutants)) > 25 and sum(m != target.whole for m in mutants) > 25


def test_a_reader_that_fails_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer itself finds what it is there for."""
    careless = Target(b"a", bytes.decode)
    assert attempt(careless, b"a") == "read"
    assert "UnicodeDecodeError" in attempt(careless, b"\xff")
    monkeypatch.setattr(fuzzing, "MOST_SECONDS", -1.0)
    assert attempt(careless, b"a").startswith("read after")


def test_mutants_differ_in_kind() -> None:
    whole = b"0123456789" * 20
    sizes = {len(mutate(whole, random.Random(seed))) for seed in range(200)}
    assert min(sizes) < 100 and max(sizes) > 1000 and len(sizes) > 30
