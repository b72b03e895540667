"""Inception with batch normalisation folded and channels last against torch-fidelity's own.

Random weights of the same structure: times and rounding, no scores. One thread.
"""

import tempfile
from pathlib import Path
from unittest import mock

import torch
from timing import Figure, compare, interleave, main
from torch_fidelity import feature_extractor_inceptionv3 as stock

from genkit_fidelity.pretrained import FusedInception


def draw(count: int) -> torch.Tensor:
    """Images of coarse random colours, (count, 3, 32, 32): their features differ, as photos' do."""
    coarse = torch.rand(count, 3, 4, 4) * torch.rand(count, 3, 1, 1) * 255
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear").byte()


def build_random() -> stock.FeatureExtractorInceptionV3:
    """torch-fidelity's Inception with random weights and the batch statistics that go with them:
    activations then keep their scale from layer to layer, as in a trained network."""
    with (
        mock.patch.object(stock, "load_state_dict_from_url", lambda *_, **__: None),
        mock.patch.object(stock.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None),
    ):
        network = stock.FeatureExtractorInceptionV3("stock", ["2048", "logits_unbiased"])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one batch that follows
    with torch.no_grad():
        network.train()(draw(16))
    return network.eval()


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    count, rounds = (2, 1) if quick else (16, 5)
    original = build_random()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "random.pth")
        torch.save(original.state_dict(), path)
        networks = {"torch-fidelity": original, "genkit": FusedInception(path)}
    images, features = draw(count), {}

    def extract(name: str) -> None:
        with torch.inference_mode():
            features[name] = networks[name](images)[0]

    turns = interleave({name: lambda name=name: extract(name) for name in networks}, rounds)
    theirs, ours = features.values()
    apart = float((theirs - ours).abs().max() / theirs.abs().max())
    assert apart < 1e-3, apart
    note = f"Features differ by at most {apart:.0e} of the largest."
    title = "Inception features, torch-fidelity to genkit"
    return [compare(title, turns, "torch-fidelity", "genkit", steps=count, note=note)]


if __name__ == "__main__":
    main(measure, __doc__)
