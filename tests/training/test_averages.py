"""Several averages of the weights: each follows its half-life, all resume, the best is kept."""

import json

import pytest
import torch
from toys import Denoiser, make_loop, registry, same_bits, snapshot, train_tiny, write_npz

from genkit.config.resolve import resolve
from genkit.errors import UsageError
from genkit.runs import checkpoint
from genkit.runs.run import load_run
from genkit.training.average import RAMP
from genkit.training.monitor import Monitor
from genkit.training.resume import resume

TWO = {"ema_half_life": "100,400", "budget": "6steps", "grids": 4, "watch": 64}


def test_each_average_follows_its_own_half_life():
    loop = make_loop(Denoiser(), ema_half_life=16, averages=[40])
    mine = {half_life: snapshot(loop.model) for half_life in (16, 40)}
    for step in range(1, 300):
        loop.iterate()
        for half_life, weights in mine.items():
            share = 1 - 0.5 ** (8 / min(half_life, RAMP * 8 * step))
            for name, value in loop.model.state_dict().items():
                weights[name] = torch.lerp(weights[name], value, share)
    for half_life, model in {16: loop.average, **loop.other_averages}.items():
        for name, value in model.state_dict().items():
            assert torch.allclose(value, mine[half_life][name], atol=1e-6), (half_life, name)
    assert not same_bits(loop.average.state_dict(), loop.other_averages[40].state_dict())


def test_half_lives_are_given_as_one_option():
    spec = registry().trainers.find("vae")
    found = resolve(spec, given={"ema_half_life": "10k,50k,1M"})
    assert found.options.ema_half_life == 10_000
    assert found.run.average_half_lives == [50_000, 1_000_000]
    assert resolve(spec, given={"ema_half_life": "500"}).options.ema_half_life == 500
    assert resolve(spec, given={"ema_half_life": "0"}).options.ema_half_life == 0
    for text in ("10k,10k,10k", "many"):
        with pytest.raises(UsageError):
            resolve(spec, given={"ema_half_life": text})


def test_averages_do_not_change_the_training_and_resume_with_it(tmp_path):
    data = write_npz(tmp_path / "data.npz")
    whole = train_tiny("vae", data, tmp_path / "whole", **TWO)
    plain = train_tiny("vae", data, tmp_path / "plain", **{**TWO, "ema_half_life": 100})
    assert same_bits(whole.model.state_dict(), plain.model.state_dict())
    train_tiny("vae", data, tmp_path / "parted", **{**TWO, "budget": "3steps"})
    resume(tmp_path / "parted", registry(), budget="6steps")
    states = [
        checkpoint.load_state(tmp_path / name / "checkpoints")[0]["loop"]
        for name in ("whole", "parted")
    ]
    assert list(states[0]["averages"]) == ["400"] and same_bits(*states)


def test_best_weights_are_of_the_average_whose_samples_score_best(tmp_path, monkeypatch):
    scores = iter([3.0, 2.0, 2.5, 1.0, 4.0, 5.0])  # of both averages, at three grids
    monkeypatch.setattr(Monitor, "_score", lambda self, samples, reference: next(scores))
    options = {**TWO, "checkpoint_seconds": 1e-9}
    run = train_tiny("vae", "mnist-mini", tmp_path / "run", **options)
    best = checkpoint.read_best(run.directory.checkpoints)
    assert (best.step, best.value) == (4, 1.0)
    part = train_tiny(
        "vae", "mnist-mini", tmp_path / "part", **{**TWO, "budget": "4steps"} | {"grids": 0}
    )
    other = checkpoint.load_state(part.directory.checkpoints)[0]["loop"]["averages"]["400"]
    kept = load_run(run.path, registry(), best=True).model.state_dict()
    assert same_bits(dict(kept), dict(other))
    rows = [json.loads(line) for line in run.directory.metrics_path.read_text().splitlines()]
    assert [row["kid@400"] for row in rows if "kid@400" in row] == [2.0, 1.0, 5.0]
