"""Options of a model's sampler: how they are written, checked and applied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import registry, train_tiny, write_npz

import genkit
from genkit.cli import main
from genkit.comparison.candidates import choose_candidates
from genkit.config.sampler import read_pairs, sampler_of, split_entrant, split_target, sweep
from genkit.errors import PluginError, UsageError
from genkit.io.files import read_json
from genkit.runs.run import load_run
from genkit.specs import Config, TrainerSpec


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = write_npz(folder / "data.npz")
    return train_tiny("pixelcnn", data, folder / "run", budget="20steps").path


def test_pairs_are_read_by_key_and_others_refused() -> None:
    assert read_pairs(["temperature=0.8", "guidance-scale = 3"]) == {
        "temperature": "0.8",
        "guidance_scale": "3",
    }
    for text in ("temperature", "=3"):
        with pytest.raises(UsageError, match="write KEY=VALUE"):
            read_pairs([text])


def test_the_name_of_an_entrant_has_the_run_and_its_options() -> None:
    assert split_entrant("flow@steps=4,solver=euler") == (
        "flow",
        {"steps": "4", "solver": "euler"},
    )
    for name in ("flow", "me@home", "flow@steps", "flow@steps=4,euler", "@"):
        assert split_entrant(name) == (name, {})


def test_a_sweep_puts_an_entrant_for_each_value_where_a_run_is() -> None:
    runs = {"a/run", "b"}.__contains__
    assert sweep(["vae", "a/run", "b@guidance=2"], "steps = 1, 2,1", runs) == [
        "vae",
        "a/run@steps=1",
        "a/run@steps=2",
        "b@guidance=2,steps=1",
        "b@guidance=2,steps=2",
    ]
    with pytest.raises(UsageError, match=r"--sweep 'steps=1,2' is for runs; give one beside vae"):
        sweep(["vae"], "steps=1,2", runs)
    with pytest.raises(UsageError, match="--sweep 'steps' cannot be read"):
        sweep(["b"], "steps", runs)


def test_a_target_may_carry_options_and_a_path_that_exists_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    assert split_target("runs/a@temperature=0.8,x=1") == (
        "runs/a",
        {"temperature": "0.8", "x": "1"},
    )
    assert split_target("runs/me@home") == ("runs/me@home", {})
    odd = tmp_path / "a@b=c"
    odd.mkdir()
    assert split_target(str(odd)) == (str(odd), {})


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        ("pixelcnn", {"temprature": "1"}, "Did you mean 'temperature'"),
        ("pixelcnn", {"temperature": "0"}, "--sampler temperature"),
        ("pixelcnn", {"temperature": "cold"}, "--sampler temperature"),
        ("vae", {"temperature": "1"}, "its sampler has none"),
    ],
)
def test_unknown_options_and_wrong_values_are_refused(
    model: str, values: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sampler_of(registry().trainers.find(model), values)


def test_a_sampler_that_is_no_sampler_config_is_a_plugin_error() -> None:
    with pytest.raises(PluginError, match="SamplerConfig"):
        TrainerSpec(name="a", summary="", target="a:B", sampler=Config)  # type: ignore[arg-type]


def test_a_low_temperature_draws_the_likeliest_images_and_the_default_changes_nothing(
    run: Path,
) -> None:
    plain, same, cold = (
        genkit.load(run, "cpu", sampler=sampler)
        for sampler in (None, {"temperature": 1.0}, {"temperature": "0.01"})
    )
    assert torch.equal(plain.sample(20), same.sample(20))
    assert len(cold.sample(20).unique(dim=0)) < len(plain.sample(20).unique(dim=0))
    assert (plain.name, cold.name) == ("pixelcnn", "pixelcnn@temperature=0.01")
    nats = [
        r.model.log_likelihood(r.sample(20).float() / 127.5 - 1).nats.mean() for r in (plain, cold)
    ]
    assert nats[1] > nats[0]


def test_scores_of_other_samplers_say_so_and_are_not_stored_as_the_runs_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"evaluate {run} {run}@temperature=0.5 -n 10 --features none --alone --json rows.json"
    assert main([*words.split(), "--progress", "none"]) == 0
    plain, other = read_json(tmp_path / "rows.json")
    assert plain["name"] == "pixelcnn" and "sampler" not in plain["card"]
    assert other["name"] == "pixelcnn@temperature=0.5"
    assert other["card"]["sampler"] == {"temperature": 0.5}
    (stored,) = read_json(run / "evaluation.json")
    assert stored["name"] == "pixelcnn"
    assert main(["sample", str(run), "--sampler", "temperature=0.1", "-n", "4", "-o", "a.npz"]) == 0
    assert main(["sample", str(run), "--sampler", "heat=1"]) == 2


def test_a_comparison_takes_a_run_with_other_options_beside_itself(run: Path) -> None:
    names = [str(run), f"{run}@temperature=0.5"]
    first, second = choose_candidates(names, registry(), Path("out"))
    assert (first.name, first.target) == ("run", str(run))
    assert (second.name, second.target) == ("run@temperature=0.5", f"{run}@temperature=0.5")
    with pytest.raises(UsageError, match="no option 'heat'"):
        choose_candidates([f"{run}@heat=1"], registry(), Path("out"))


def test_sampler_options_change_nothing_in_training(run: Path) -> None:
    weights = load_run(run, registry(), "cpu").model.state_dict()
    other = load_run(run, registry(), "cpu", sampler={"temperature": 3}).model.state_dict()
    assert all(torch.equal(weights[key], other[key]) for key in weights)
