"""Several processes train as one: two of them, by gloo, against one on the same batches."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genkit.compute.ranks import ALONE, Ranks

pytestmark = pytest.mark.xdist_group("ranks")

NOISELESS = ("denoiser", "pixelcnn")
SCRIPT = Path(__file__).parent / "rank.py"


def train(folder, name, ranks, *, steps=8, batch_size=9, accumulate=1):
    """What each rank ended with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    to = folder / f"{name}-{ranks}-{accumulate}"
    arguments = [name, str(steps), str(to), str(batch_size), str(accumulate)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(SCRIPT.parents[1]),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [
        torch.load(f"{to}-{rank}.pt", weights_only=True)  # noqa: TID251 - written just now
        for rank in range(ranks)
    ]


def weights(result, kind="model"):
    return result["state"][kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def pairs(folder):
    return {name: (train(folder, name, 1)[0], train(folder, name, 2)) for name in NOISELESS}


@pytest.fixture(params=NOISELESS)
def pair(request, pairs):
    """A model whose loss draws no noise and that has no BatchNorm, by one process and by two."""
    return pairs[request.param]


def test_two_processes_equal_one_on_the_same_global_batches(pair):
    one, two = pair
    for kind in ("model", "average"):
        for name, tensor in weights(one, kind).items():
            torch.testing.assert_close(weights(two[0], kind)[name], tensor, atol=1e-6, rtol=1e-6)


def test_parameters_are_equal_across_ranks_to_the_last_bit(pair):
    _, two = pair
    for name, tensor in weights(two[0]).items():
        assert torch.equal(tensor, weights(two[1])[name]), name


def test_what_is_logged_is_of_the_whole_batch(pair):
    one, two = pair
    assert two[0]["logs"] == two[1]["logs"]
    assert two[0]["logs"] == pytest.approx(one["logs"], rel=1e-5)


def test_ranks_agree_on_words_and_on_the_largest(pair):
    _, two = pair
    assert {each["text"] for each in two} == {"naïve words of rank 0"}
    assert [each["largest"] for each in two] == [[1.0, 0.0]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_models_with_noise_stay_equal_across_ranks(folder, name):
    """Each rank draws noise of its own; parameters and buffers are the same all the same, and so
    are the samples that the ranks share between them."""
    two = train(folder, name, 2)
    for kind in ("model", "average"):
        for key, tensor in weights(two[0], kind).items():
            assert torch.equal(tensor, weights(two[1], kind)[key]), key
    assert torch.equal(two[0]["samples"], two[1]["samples"])


@pytest.mark.slow
def test_parts_of_a_batch_add_up_on_each_rank(folder):
    one = train(folder, "denoiser", 1)[0]
    two = train(folder, "denoiser", 2, accumulate=2)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two[0])[name], tensor, atol=1e-6, rtol=1e-6)


def test_parts_of_a_batch_are_a_partition_of_nearly_equal_sizes():
    for count in (1, 2, 3, 7):
        for total in (7, 8, 64):
            parts = [range(total)[Ranks(rank, count).part(total)] for rank in range(count)]
            assert [i for part in parts for i in part] == list(range(total))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_rank_exchanges_nothing():
    weight = torch.zeros(3, requires_grad=True)
    loss = torch.tensor(2.0)
    assert ALONE.sum_gradients([weight], loss) is loss and weight.grad is None
    values = {"a": 1.0}
    assert ALONE.sum(values) is values and ALONE.text("x") == "x" and ALONE.largest(3) == [3]


def test_samples_shared_by_ranks_are_those_of_one(pair):
    one, two = pair
    same = (one["samples"] == two[0]["samples"]).float().mean()
    assert torch.equal(two[0]["samples"], two[1]["samples"])
    assert same > 0.99  # weights differ in their last bits
