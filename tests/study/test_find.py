"""Studies by name and by path; those that come with genkit can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import registry

from genkit.cli.app import main
from genkit.config.resolve import resolve
from genkit.errors import UsageError
from genkit.study.file import read_study
from genkit.study.find import find_study, shipped_studies

SHIPPED = ["few-images", "gan-instability", "pixel-order"]


def test_shipped_studies_have_models_options_and_budgets_that_there_are() -> None:
    found = shipped_studies(registry())
    assert list(found) == SHIPPED
    for path in found.values():
        for study in (read_study(path), read_study(path).with_quick()):
            for case in study.cases:
                spec = registry().trainers.find(case.model or study.model)
                resolve(spec, preset=study.preset, given=study.options_of(case))
            assert study.text and study.curves and study.score == "kid"
            assert study.data in registry().datasets


def test_study_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    text = shipped_studies(registry())["few-images"].read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    name, study = find_study(str(tmp_path / "mine.toml"), registry())
    assert (name, study) == ("mine", find_study("few-images", registry())[1])


def test_unknown_study_is_refused_with_the_closest_name() -> None:
    with pytest.raises(UsageError, match=r"named 'few-image'.* Did you mean 'few-images'"):
        find_study("few-image", registry())


def test_command_without_a_name_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in SHIPPED)
    assert "Why GAN training is unstable" in printed
