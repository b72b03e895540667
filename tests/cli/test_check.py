"""`genkit check`: the test kit from the command line."""

import re

import pytest

MODEL = """
import torch
from unet import double
from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import TrainerConfig, TrainerSpec, option

class Options(TrainerConfig):
    width: int = option(64, "channels", ge=1)

class Model(GenerativeModel):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        size = image_shape.dimensions
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(size, config.width), torch.nn.Linear(config.width, size)
        )

    def phases(self):
        adam = torch.optim.Adam(self.parameters(), 1e-3)
        return [Phase(name="a", loss=self.loss, optimizer=adam)]

    def loss(self, batch):
        x = batch.images.flatten(1)
        return double((self.layers(x + torch.randn_like(x)).float() - x).square().mean()), {}

    def sample(self, n, labels=None, *, generator):
        noise = torch.randn(n, self.image_shape.dimensions, generator=generator)
        shape = self.image_shape
        return self.layers(noise).tanh().view(n, shape.channels, shape.height, shape.width)

@hookimpl
def register_trainers():
    target = "two_layers:Model"
    return [TrainerSpec(name="two-layers", summary="Two.", target=target, config=Options)]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model that keeps its contracts and imports its neighbour, one that draws by itself, and one
    that cannot be imported."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "unet.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "two_layers.py").write_text(MODEL)
    odd = MODEL.replace("two_layers", "odd").replace("two-layers", "odd")
    (folder / "odd.py").write_text(odd.replace(", generator=generator)", ")"))
    (folder / "torn.py").write_text("import no_such_module")
    return folder


def lines_of(answer):
    return answer.out.splitlines()


@pytest.mark.slow
def test_contracts_are_listed_one_on_a_line(command_lines, files):
    kept, broken = command_lines(
        f"check two-layers --set width=16 --plugin {files}/two_layers.py",
        f"check odd --set width=16 --plugin {files}/odd.py",
    )
    assert kept.code == 0, kept.out + kept.err
    assert all(re.match("kept: two[-_]layers", line) for line in lines_of(kept))
    assert len(lines_of(kept)) > 40 and "two-layers keeps its contracts" in kept.err
    assert broken.code == 3 and "odd: 1 of 2 checks found a broken contract" in broken.err
    *before, last = lines_of(broken)
    assert all(line.startswith("kept: odd") for line in before) and len(before) > 10
    assert last.startswith("BROKEN: odd (1 x 28 x 28): equal generators must give equal samples")
    assert "drew from torch's global generator" in last


def test_mistake_is_reported_before_training_and_not_with_the_switch(
    command_lines, files, tmp_path
):
    line = (
        f"train odd --data mnist-mini --budget 1steps --grids 0 --watch 0 --plugin {files}/odd.py"
    )
    checked, trained = command_lines(
        f"{line} --run-dir {tmp_path}/a",
        f"{line} --run-dir {tmp_path}/b",
        variables=[{}, {"GENKIT_NO_CHECKS": "1"}],
    )
    assert checked.code == 3 and "sampling drew from torch's global generator" in checked.err
    assert not (tmp_path / "a").exists()
    assert trained.code == 0, trained.err


def test_what_cannot_be_checked_is_a_usage_error(command_lines, files):
    unknown, option, pair, torn = command_lines(
        f"check two-layer --plugin {files}/two_layers.py",
        f"check two-layers --set widht=2 --plugin {files}/two_layers.py",
        f"check two-layers --set width --plugin {files}/two_layers.py",
        f"check toorn --plugin {files}/torn.py",
    )
    assert [answer.code for answer in (unknown, option, pair, torn)] == [2, 2, 2, 2]
    assert "Did you mean" in unknown.err
    assert "--set widht: two-layers has no such option" in option.err
    assert "write OPTION=VALUE" in pair.err
    assert "torn: ModuleNotFoundError: No module named 'no_such_module'" in torn.err


def test_plugin_that_fails_to_load_breaks_a_contract(command_lines, files):
    (answer,) = command_lines(f"check torn --plugin {files}/torn.py")
    assert answer.code == 3 and "BROKEN: torn: the plugin must load" in answer.out
