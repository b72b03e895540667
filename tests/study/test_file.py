"""Study files: what they may hold, and what is said of one that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from genkit.errors import UsageError
from genkit.study.file import StudyFile, read_study

GOOD = """
title = "Two players"
model = "dcgan"
budget = "10steps"
options = { latent = 8 }
data_options = { flip = true }
reference = "calm"

[quick]
budget = "2steps"
seeds = 1

[[cases]]
label = "calm"

[[cases]]
label = "Too fast!"
options = { generator-rate = 0.01, spectral_norm = false }
data_options = { images = 20 }

[[cases]]
label = "bounded"
cures = "Too fast!"
options = { spectral_norm = true }
"""


def read(folder: Path, text: str) -> StudyFile:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(path)


def test_cure_has_the_options_of_the_failure_and_its_own(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD)
    calm, fast, bounded = study.cases
    assert study.options_of(calm) == {"latent": "8"}
    failing = {"latent": "8", "generator_rate": "0.01", "spectral_norm": "false"}
    assert study.options_of(fast) == failing
    assert study.options_of(bounded) == {**failing, "spectral_norm": "true"}
    assert study.data_options_of(calm) == ()
    assert study.data_options_of(bounded) == study.data_options_of(fast) == ("images=20",)
    assert study.cured_by(fast) == [bounded] and study.cured_by(calm) == []
    assert fast.slug == "too-fast"


def test_quick_takes_what_its_table_says_and_leaves_the_rest(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD)
    quick = study.with_quick()
    assert (quick.budget, quick.seeds, quick.samples) == ("2steps", 1, study.samples)
    assert quick.cases == study.cases


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('title = "Two players"', "", "title: .* at least 1 character"),
        ('"10steps"', '"10stps"', "budget: '10stps' is not a budget"),
        ('"2steps"', '"soon"', "quick.budget: 'soon' is not a budget"),
        ("seeds = 1", "seeds = 0", r"quick.seeds: .* \(got 0\)"),
        ("seeds = 1", 'seeds = "1"', r"quick.seeds: .* \(got '1'\)"),
        ('label = "calm"', 'lable = "calm"', "cases.0.lable is not an option here"),
        ('label = "calm"', 'label = "bounded"', "two cases have the label 'bounded'"),
        ('label = "calm"', 'label = "too fast"', "two cases have the slug 'too-fast'"),
        ('label = "calm"', 'label = "real"', "label 'real' cannot be used"),
        ('label = "calm"', 'label = "?"', r"label '\?' cannot be used"),
        ('cures = "Too fast!"', 'cures = "Too fats!"', "cures 'Too fats!'.* Did you mean 'Too"),
        ('cures = "Too fast!"', 'cures = "bounded"', "'bounded', which is not a case above it"),
        ('reference = "calm"', 'reference = "clam"', "'clam' is no case's label. Did you mean"),
        ('model = "dcgan"', "", "case 'calm' names no model, nor does the study"),
        ("images = 20", "images = [20]", "cases.1.data_options.images"),
        ("[quick]", "[quick", "is not valid TOML"),
    ],
)
def test_bad_file_is_one_sentence_with_key_and_value(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match=complaint) as refused:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert str(refused.value).startswith(str(tmp_path / "mine.toml"))
    assert "\n" not in str(refused.value)


def test_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml cannot be read: No such file"):
        read_study(tmp_path / "none.toml")
