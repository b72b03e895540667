"""Where a training replays its iterations; what replays are is in tests/phases/test_replay.py."""

import types

import pytest
import torch
from recorders import OperationRecorder
from safetensors.torch import load_file
from toys import registry, train_tiny, write_npz

from genkit.compute.ranks import Ranks
from genkit.phases.replay import Replays
from genkit.training import train as training
from genkit.training.resume import resume

GPU = torch.device("cuda", 0)


def context(device=GPU, ranks=1, cuda_graphs=True, accumulate=1):
    options = types.SimpleNamespace(cuda_graphs=cuda_graphs, accumulate=accumulate)
    reporter = types.SimpleNamespace(say=print)
    return types.SimpleNamespace(
        device=device, ranks=Ranks(0, ranks), options=options, reporter=reporter
    )


@pytest.mark.parametrize(
    ("given", "replayed"),
    [
        ({}, True),
        ({"device": torch.device("cpu")}, False),
        ({"ranks": 2}, False),
        ({"cuda_graphs": False}, False),
        ({"accumulate": 2}, False),
    ],
)
def test_iterations_are_replayed_on_one_gpu_if_the_options_let_them(monkeypatch, given, replayed):
    monkeypatch.setattr(training, "CudaRecorder", lambda device: OperationRecorder())
    assert (training.make_replays(context(**given)) is not None) == replayed


def final(run):
    return load_file(run.path / "model.safetensors")


@pytest.mark.parametrize("model", ["dcgan", "vae"])
def test_a_run_with_replays_equals_one_without_and_may_end_and_resume(tmp_path, monkeypatch, model):
    data = write_npz(tmp_path / "data.npz")
    plain = train_tiny(model, data, tmp_path / "plain", budget="20steps", grids=2)
    made = []

    def make_replays(context):
        made.append(Replays(OperationRecorder(), context.reporter.say))
        return made[-1]

    monkeypatch.setattr(training, "make_replays", make_replays)
    whole = train_tiny(model, data, tmp_path / "whole", budget="20steps", grids=2)
    train_tiny(model, data, tmp_path / "half", budget="9steps", grids=2)
    again = resume(tmp_path / "half", registry(), budget="20steps")
    assert [replays.count for replays in made] == [15, 5, 7]
    for run in (whole, again):
        for name, weights in final(plain).items():
            assert torch.equal(weights, final(run)[name]), name
