"""Inception with batch normalisation folded and channels last against torch-fidelity's own.

Random weights of the same structure: times and rounding, no scores. Batches are interleaved and
compared by their medians: other work on the machine then weighs on all alike.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from torch_fidelity import feature_extractor_inceptionv3 as stock
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="batches for each network")
    options = parser.parse_args()
    torch.manual_seed(0)
    original = build_random()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "random.pth")
        torch.save(original.state_dict(), path)
        networks = {"stock": original, "fused": FusedInception(path)}

    seconds = {name: [] for name in networks}
    features = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(options.rounds):
            images = draw(options.images)
            for name, network in networks.items():
                start = time.perf_counter()
                outputs = network(images)[0]
                seconds[name].append(time.perf_counter() - start)
                features[name].append(outputs)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    found = {name: torch.cat(values) for name, values in features.items()}
    apart = (found["stock"] - found["fused"]).abs().max() / found["stock"].abs().max()
    half = len(found["stock"]) // 2
    fid = {
        name: fid_statistics_to_metric(
            fid_features_to_statistics(values[:half, :256]),  # a few images allow few dimensions
            fid_features_to_statistics(values[half:, :256]),
            False,
        )["frechet_inception_distance"]
        for name, values in found.items()
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, random weights")
    for name, median in medians.items():
        print(f"{name}: {1000 * median / options.images:.1f} ms an image")
    print(f"fused is {medians['stock'] / medians['fused']:.2f} times as fast")
    print(f"greatest difference of features: {apart:.1e} of the greatest feature")
    print(f"difference of an FD over 256 of them: {abs(fid['fused'] / fid['stock'] - 1):.1e}")


if __name__ == "__main__":
    main()
