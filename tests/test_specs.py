"""`option` makes the fields that pydantic's `Field` would, and type checkers see their defaults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from genkit.specs import Config, DatasetSpec, TrainerConfig, option


class Written(Config):
    """By option."""

    width: int = option(64, "channels", ge=8, le=1024, multiple_of=8, panel="Network")
    rate: float = option(1e-3, "learning rate", gt=0, lt=1)
    weights: str | None = option(None, "file of weights")


class Expected(Config):
    """By pydantic's own function."""

    width: int = Field(
        64,
        ge=8,
        le=1024,
        multiple_of=8,
        description="channels",
        json_schema_extra={"panel": "Network"},
    )
    rate: float = Field(1e-3, gt=0, lt=1, description="learning rate")
    weights: str | None = Field(None, description="file of weights")


def test_option_makes_the_field_that_pydantic_makes() -> None:
    found, expected = Written.model_fields, Expected.model_fields
    assert list(found) == list(expected)
    for name in found:
        assert repr(found[name]) == repr(expected[name])
        assert found[name].json_schema_extra == expected[name].json_schema_extra


@pytest.mark.parametrize(
    "values", [{"width": 7}, {"width": 12}, {"rate": 0}, {"rate": 1.0}, {"width": "wide"}]
)
def test_values_outside_of_an_options_limits_are_refused(values: dict[str, object]) -> None:
    assert Written() == Written(width=64, rate=1e-3, weights=None)
    with pytest.raises(ValidationError):
        Written.model_validate(values)


@pytest.mark.slow
def test_a_default_of_another_type_is_an_error_to_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "mine.py"
    file.write_text(
        "from typing import Literal\n"
        "from genkit.specs import TrainerConfig, option\n\n\n"
        "class Mine(TrainerConfig):\n"
        "    good: int = option(1, 'fine')\n"
        "    kind: Literal['a', 'b'] = option('a', 'fine')\n"
        "    path: str | None = option(None, 'fine')\n"
        "    bad: int = option('one', 'not a number')\n"
        "\n\nMine(good=2, kind='b', batch_size=3)\n",
        encoding="utf-8",
    )
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(pyproject), str(file)]
    command += ["--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1 and "mine.py:9:" in errors[0], done.stdout


def test_a_data_set_has_the_default_features_and_is_not_the_default_unless_it_says_so() -> None:
    spec = DatasetSpec(name="mine", summary="Mine.", target="mine:load")
    assert (spec.features, spec.default) == (None, False)
    assert TrainerConfig().batch_size == 64
