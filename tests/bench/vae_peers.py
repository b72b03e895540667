"""Training the same VAE on the same digits: genkit against pythae, Lightning and Accelerate.

All read data from memory, with as few extras as they allow: no logger, no checkpoints. Lightning
and Accelerate have fused Adam, and take turns in each precision; pythae knows fp32 only, and makes
its own Adam. One thread. A peer that is not installed is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

import torch
from subjects import PRECISIONS, digits, new_loop, new_model, next_of, steps_of
from timing import Figure, compare, interleave, main
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from genkit.model import Batch

RATE = 2e-3
PRESET = "quick"
MIXED = {"fp32": "no", "bf16": "bf16"}  # Accelerate's names


def images() -> Tensor:
    """All digits in [-1, 1]."""
    return torch.from_numpy(digits().images).float() / 127.5 - 1


def loader(batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(images()), batch_size, shuffle=True, drop_last=True)


def with_accelerate(steps: int, precision: str) -> Callable[[], None]:
    accelerate = importlib.import_module("accelerate")
    accelerate.state.AcceleratorState._reset_state()  # there is one for a process otherwise
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=MIXED[precision])
    network = new_model("vae", PRESET).train()
    optimizer = torch.optim.Adam(network.parameters(), RATE, fused=True)
    batches = loader(network.config.batch_size)
    model, optimizer, batches = accelerator.prepare(network, optimizer, batches)

    def train() -> Iterator[None]:
        while True:
            for (batch,) in batches:
                optimizer.zero_grad()
                loss, _ = model.loss(Batch(batch))
                accelerator.backward(loss)
                optimizer.step()
                yield

    return next_of(train(), steps)


class Paused:
    """A framework's own loop, in its own thread, which runs some steps at a time.

    Args:
        train: runs for ever and calls the function that it is given once a step.
    """

    def __init__(self, train: Callable[[Callable[[], None]], None], steps: int) -> None:
        self.left, self.steps = 0, steps
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, args=(train,), daemon=True).start()
        self.done.acquire()

    def _run(self, train: Callable[[Callable[[], None]], None]) -> None:
        torch.set_num_threads(1)
        train(self._step)

    def _step(self) -> None:
        if not self.left:
            self.done.release()
            self.go.acquire()
            self.left = self.steps
        self.left -= 1

    def __call__(self) -> None:
        self.go.release()
        self.done.acquire()


def with_lightning(steps: int, precision: str) -> Callable[[], None]:
    lightning = importlib.import_module("lightning")
    network = new_model("vae", PRESET).train()

    def train(step: Callable[[], None]) -> None:
        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def training_step(self, batch: list[Tensor], index: int) -> Tensor:
                step()
                return self.network.loss(Batch(batch[0]))[0]

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.Adam(self.parameters(), RATE, fused=True)

        trainer = lightning.Trainer(
            accelerator="cpu",
            precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision],
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), loader(network.config.batch_size))

    return Paused(train, steps)


def with_pythae(steps: int, precision: str) -> Callable[[], None]:
    """An epoch of pythae's trainer over `steps` batches as a turn."""
    importlib.import_module("pythae.trainers")
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    network = new_model("vae", PRESET).train()
    config = network.config
    assert precision == "fp32"

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.network = network.encoder

        def forward(self, white: Tensor) -> ModelOutput:
            mean, log_variance = self.network(white * 2 - 1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.network = network.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    sizes = VAEConfig(input_dim=(1, 28, 28), latent_dim=config.latent, reconstruction_loss="bce")
    white = (images()[: steps * config.batch_size] + 1) / 2
    folder = tempfile.TemporaryDirectory()
    options = BaseTrainerConfig(
        output_dir=folder.name,
        per_device_train_batch_size=config.batch_size,
        learning_rate=RATE,
        no_cuda=True,
    )
    trainer = BaseTrainer(
        VAE(sizes, Encoder(), Decoder()),
        BaseDataset(white, torch.zeros(len(white))),
        training_config=options,
    )
    trainer.prepare_training()

    def turn() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_step(1)

    turn.folder = folder  # there for as long as the trainer
    return turn


PEERS = {"pythae": with_pythae, "lightning": with_lightning, "accelerate": with_accelerate}


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (2, 1) if quick else (20, 7)
    variants = {
        f"genkit {precision}": steps_of(new_loop(new_model("vae", PRESET), precision), steps)
        for precision in PRECISIONS
    }
    absent, figures = [], []
    logging.disable(logging.WARNING)  # theirs, on what they could do better elsewhere
    warnings.simplefilter("ignore")
    for name, build in PEERS.items():
        for precision in ("fp32",) if name == "pythae" else PRECISIONS:
            try:
                variants[f"{name} {precision}"] = build(steps, precision)
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise
                absent.append(Figure(f"VAE training, {name}", note=f"skipped: no {name} here"))
                break
    turns = interleave(variants, rounds)
    for theirs in (variant for variant in variants if not variant.startswith("genkit")):
        name, precision = theirs.split()
        title = f"VAE training (`{PRESET}`), {name} to genkit, both in {precision}"
        ours = f"genkit {precision}"
        figures.append(compare(title, turns, theirs, ours, steps=steps, must=1, aim=1.2))
    return figures + absent


if __name__ == "__main__":
    main(measure, __doc__)
