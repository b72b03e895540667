"""The statistics of BatchNorm that belong to averaged weights: no batch of a training had them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from genkit.model import GenerativeModel
from genkit.sampling.draw import CHUNK, chunk_generator, evaluating, label_chunks
from genkit.sampling.labels import choose_labels

BATCHES = 8  # of CHUNK samples


@torch.no_grad()
def recompute_statistics(model: GenerativeModel, seed: int = 0) -> None:
    """Give each BatchNorm the mean and the variance that its inputs have while the model samples:
    the means over some batches. A layer that no sample passes keeps what it has; all do if the
    model cannot sample in this way, one image at a time for instance.

    (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", section 3.2, over training
    images; here over samples, since they are what the weights are for.)
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
        and not isinstance(layer, nn.SyncBatchNorm)  # would wait for other processes
        and layer.running_mean is not None
    ]
    if not layers:
        return
    before = [{name: value.clone() for name, value in b.named_buffers()} for b in layers]
    momenta = [layer.momentum for layer in layers]
    labels = label_chunks(model, choose_labels(model, BATCHES * CHUNK, seed))
    sampled = False
    with evaluating(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a mean over all batches
            layer.train()
        try:
            for batch in range(BATCHES):
                generator = chunk_generator(model, seed, batch)
                model.sample(CHUNK, labels(batch), generator=generator)
            sampled = True
        except Exception:
            pass  # samples that somebody asks for will fail with a message, if they do
        finally:
            for layer, momentum, kept in zip(layers, momenta, before, strict=True):
                layer.momentum = momentum
                passed = sampled and bool(layer.num_batches_tracked)
                for name, value in layer.named_buffers():
                    if not passed or name == "num_batches_tracked":
                        value.copy_(kept[name])
