"""Error bars, sets of images with their features, and what is kept of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch_fidelity.metric_fid import fid_features_to_statistics

from genkit.errors import PluginError
from genkit.features import FeatureExtractor, ImageSet, extract, statistics_of
from genkit.metrics import BLOCKS, Reference, blocks_of, choice, jackknife
from genkit.specs import Config

torch.set_num_threads(1)


class Moments(FeatureExtractor):
    """Mean, deviation and largest value of an image's pixels; the first pixel as a logit."""

    identity = "moments-00000000"
    seen = 0

    def __init__(self):
        super().__init__(Config())

    def forward(self, images):
        type(self).seen += len(images)
        pixels = images.flatten(1).float()
        features = torch.stack([pixels.mean(1), pixels.std(1), pixels.amax(1)], 1)
        return features, pixels[:, :1]


@pytest.fixture
def moments(monkeypatch, tmp_path):
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Moments, "seen", 0)
    return Moments()


def noise(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)


# ---- the jackknife


def test_blocks_are_of_equal_size_and_each_sample_is_in_one():
    for count in (7, 20, 103, 2000):
        blocks, number = blocks_of(count)
        assert number == min(BLOCKS, count)
        sizes = torch.bincount(blocks, minlength=number)
        assert sizes.sum() == count and sizes.max() - sizes.min() <= 1


def test_blocks_mix_samples_that_are_sorted():
    blocks, _ = blocks_of(2000)
    first = torch.bincount(blocks[:1000], minlength=20)
    assert 30 < first.min() and first.max() < 70  # 50 expected


def test_jackknife_of_a_mean_is_its_standard_error():
    """For the mean with blocks of one sample it is so to the last digit (Efron and Tibshirani
    1993, equation 11.6)."""
    values = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left_out = torch.stack([values[torch.arange(20) != i].mean() for i in range(20)])
    assert jackknife(left_out) == pytest.approx(values.std().item() / 20**0.5, rel=1e-12)


def test_jackknife_with_blocks_tells_how_a_mean_scatters_over_other_samples():
    generator = torch.Generator().manual_seed(1)
    deviations = []
    for _ in range(200):
        values = torch.randn(400, dtype=torch.float64, generator=generator)
        blocks, number = blocks_of(400)
        left_out = torch.stack([values[blocks != b].mean() for b in range(number)])
        deviations.append(jackknife(left_out))
    assert np.mean(deviations) == pytest.approx(1 / 20, rel=0.05)


def test_scores_that_do_not_move_have_no_deviation():
    assert jackknife(torch.full((20,), 3.5)) == 0


# ---- features


def test_features_are_computed_once_and_when_they_are_asked_for(moments):
    images = ImageSet(noise(150), moments)
    assert Moments.seen == 0
    assert images.features.shape == (150, 3) and images.logits.shape == (150, 1)
    assert torch.equal(images.features, moments(images.images)[0])
    assert Moments.seen == 300


def test_a_part_of_a_set_has_the_features_of_its_images(moments):
    images = ImageSet(noise(90), moments, test_places=torch.arange(90) + 5)
    part = images.take(torch.tensor([4, 80, 3]))
    assert torch.equal(part.images, images.images[[4, 80, 3]])
    assert torch.equal(part.features, images.features[[4, 80, 3]])
    assert torch.equal(part.logits, images.logits[[4, 80, 3]])
    assert part.test_places.tolist() == [9, 85, 8]
    assert torch.equal(part.take(torch.tensor([2])).features, images.features[[3]])
    assert Moments.seen == 90


def test_features_are_kept_for_the_next_time(moments, tmp_path):
    first = ImageSet(noise(90), moments, keep="real")
    assert torch.equal(first.features, ImageSet(noise(90), moments, keep="real").features)
    assert Moments.seen == 90
    kept = load_file(tmp_path / "cache" / "features" / "real.safetensors")
    assert torch.equal(kept["features"], first.features)
    assert torch.equal(kept["logits"], first.logits)


def damage_a_number(content):
    content[-3] ^= 1  # safetensors reads it without a word


def damage_the_header(content):
    content[10] ^= 255


@pytest.mark.parametrize(
    "damage", [damage_a_number, damage_the_header, lambda content: content.clear()]
)
def test_damaged_features_are_computed_anew(moments, tmp_path, damage):
    first = ImageSet(noise(90), moments, keep="real").features
    path = tmp_path / "cache" / "features" / "real.safetensors"
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    assert torch.equal(ImageSet(noise(90), moments, keep="real").features, first)
    assert Moments.seen == 180
    assert torch.equal(ImageSet(noise(90), moments, keep="real").features, first)
    assert Moments.seen == 180


def test_a_cache_that_cannot_be_written_is_only_slower(moments, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "file"))
    for seen in (90, 180):
        assert len(ImageSet(noise(90), moments, keep="real").features) == 90
        assert Moments.seen == seen


def test_progress_counts_images(moments):
    seen = []
    extract(moments, noise(130), lambda *progress: seen.append(progress))
    assert seen == [(64, 130), (128, 130), (130, 130)]


def test_features_without_logits_are_features(moments):
    class Blind(Moments):
        def forward(self, images):
            return super().forward(images)[0], None

    images = ImageSet(noise(70), Blind(), keep="blind")
    assert images.logits is None and images.probabilities is None
    again = ImageSet(noise(70), Blind(), keep="blind")
    assert torch.equal(again.features, images.features) and again.logits is None


def test_an_extractor_that_breaks_its_contract_is_named(moments):
    class Wide(Moments):
        def forward(self, images):
            features, logits = super().forward(images)
            return features, logits.double()

    with pytest.raises(PluginError, match=r"logits of moments-00000000 are torch\.float64 \(20, 1"):
        extract(Wide(), noise(20))


def test_statistics_equal_torch_fidelitys_bit_for_bit():
    features = torch.randn(130, 6, generator=torch.Generator().manual_seed(0))
    found, expected = statistics_of(features), fid_features_to_statistics(features)
    assert (found.mean.dtype, found.covariance.dtype) == (torch.float32, torch.float64)
    np.testing.assert_array_equal(found.mean.numpy(), expected["mu"])
    np.testing.assert_array_equal(found.covariance.numpy(), expected["sigma"])
    assert found.count == 130


# ---- the reference


def test_fewer_reference_images_are_a_part_of_more(moments):
    train = ImageSet(noise(200), moments)
    reference = Reference("train", 200, train, train)
    few, more = reference.choose(20), reference.choose(50)
    assert torch.equal(more.images[:20], few.images)
    assert len(reference.choose(10_000)) == 200


def test_what_follows_from_the_reference_alone_is_computed_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path))
    calls = []

    def sums(features):
        calls.append(len(features))
        return features.double().sum(0)

    def scored(keep, count):
        train = ImageSet(noise(60), Moments(), keep=keep)
        reference = Reference("train", 60, train, train)
        found = reference.compute_once("sums", count, sums)
        assert reference.compute_once("sums", count, sums) is found
        assert torch.equal(found, reference.choose(count).features.double().sum(0))

    scored("kept", 20)
    scored("kept", 20)  # another process's: from the cache
    assert calls == [20]
    scored("kept", 30)
    scored("other", 20)
    scored(None, 20)
    scored(None, 20)
    assert calls == [20, 30, 20, 20, 20]
    path = tmp_path / "features" / "kept-sums-20.safetensors"
    path.write_bytes(path.read_bytes()[:-1])  # damaged: computed again
    scored("kept", 20)
    assert calls[5:] == [20]


def test_choice_takes_each_at_most_once_and_depends_on_the_seed():
    assert sorted(choice(50, 80, 0).tolist()) == list(range(50))
    assert choice(50, 10, 0).tolist() != choice(50, 10, 1).tolist()
