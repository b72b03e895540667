"""Batches: what an epoch visits, what a batch depends on, bytes and seeds."""

import numpy as np
import pytest
import torch
from toys import make_stream, random_images

from genkit.compute.ranks import Ranks
from genkit.compute.seeds import derive_seed
from genkit.data import Split
from genkit.data.splits import Augmentation
from genkit.model import to_bytes, to_unit_range
from genkit.training.stream import Stream


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_every_epoch_visits_each_image_exactly_once(batch_size):
    stream = make_stream(random_images(20), batch_size)
    visited = torch.cat([stream.indices(i) for i in range(200 // batch_size + 1)])
    orders = [visited[20 * epoch : 20 * epoch + 20].tolist() for epoch in range(5)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_a_batch_straddles_the_ends_of_epochs():
    stream = make_stream(random_images(20), batch_size=8)
    third = stream.indices(2)  # the last four of epoch 0 and the first four of epoch 1
    rest = make_stream(random_images(20), batch_size=4)
    assert torch.equal(third, torch.cat([rest.indices(4), rest.indices(5)]))


def test_a_batch_follows_from_seed_and_number_alone():
    stream = make_stream(batch_size=8)
    in_order = [stream.batch(i).images for i in range(12)]
    for number in (11, 3, 7, 0, 3):
        assert torch.equal(stream.batch(number).images, in_order[number])
        assert torch.equal(make_stream(batch_size=8).batch(number).images, in_order[number])


def test_seeds_give_different_orders():
    orders = {tuple(make_stream(seed=seed).indices(0).tolist()) for seed in (0, 1, 2, 2**32)}
    assert len(orders) == 4


def test_a_batch_holds_the_images_and_labels_of_its_indices():
    images = random_images(20, (3, 4, 5))
    stream = make_stream(images, labels=np.arange(20))
    indices, batch = stream.indices(1), stream.batch(1)
    assert torch.equal(batch.labels, indices)
    wanted = torch.from_numpy(images)[indices].double() / 255 * 2 - 1
    torch.testing.assert_close(batch.images.double(), wanted, rtol=0, atol=1e-6)
    assert batch.images.dtype == torch.float32 and batch.images.shape == (8, 3, 4, 5)
    assert len(stream) == 20 and make_stream(images).batch(0).labels is None


def make_binary(seed=0, batch_size=16):
    """Four images of intensities 0 to 255 in steps of 17, in batches of four visits to each."""
    intensities = np.arange(0, 256, 17, dtype=np.uint8).reshape(1, 1, 4, 4).repeat(4, 0)
    images = np.where(intensities > 99, np.uint8(255), np.uint8(0))
    return make_stream(images, batch_size, seed, intensities=intensities)


def test_a_binarised_batch_follows_from_seed_and_number_alone():
    stream = make_binary()
    in_order = [stream.batch(i).images for i in range(12)]
    for number in (11, 7, 3, 7):
        assert torch.equal(stream.batch(number).images, in_order[number])
        assert torch.equal(make_binary().batch(number).images, in_order[number])
    assert not torch.equal(make_binary(seed=1).batch(7).images, in_order[7])


def test_each_visit_of_an_image_is_binarised_anew_and_in_the_mean_is_its_intensity():
    stream = make_binary(batch_size=4000)
    images = torch.cat([stream.batch(i).images for i in range(2)])  # 2,000 visits of each image
    assert set(images.unique().tolist()) == {-1, 1} and images.dtype == torch.float32
    visits = {tuple(image.flatten().tolist()) for image in images}
    assert len(visits) > 1500  # of 16 pixels, two of which are certain
    share = ((images + 1) / 2).mean(0).flatten()
    wanted = torch.arange(16) / 15
    torch.testing.assert_close(share, wanted, rtol=0, atol=0.03)  # five deviations at 1/2
    assert share[0] == 0 and share[-1] == 1
    first, second = (stream.batch(i).images for i in range(2))
    correlation = torch.corrcoef(torch.stack([first[:, 0, 1, 3], second[:, 0, 1, 3]]))[0, 1]
    assert abs(correlation) < 0.08


def test_few_images_are_the_same_ones_and_among_those_of_more():
    images = random_images(40)

    def learned(count):
        split = Split(images, np.arange(40), augmentation=Augmentation(images=count))
        stream = Stream(split, batch_size=40, seed=0, device=torch.device("cpu"))
        batches = [stream.batch(number) for number in range(3)]
        for batch in batches:
            assert np.array_equal(to_bytes(batch.images).numpy(), images[batch.labels.numpy()])
        assert len(stream) == (count or 40)
        return {int(label) for batch in batches for label in batch.labels}

    few, more = learned(5), learned(12)
    assert len(few) == 5 and len(more) == 12 and few < more
    assert learned(0) == set(range(40))


def make_augmented(images, *, flip=False, shift=0, rank=0, ranks=1, seed=0, intensities=None):
    augmentation = Augmentation(flip=flip, shift=shift)
    split = Split(images, np.arange(len(images)), intensities, augmentation)
    ranks = Ranks(rank, ranks)
    return Stream(split, batch_size=600, seed=seed, device=torch.device("cpu"), ranks=ranks)


def all_changes(image, flip, shift):
    """What an image, (C, H, W), can become, one loop inside another, by (mirrored, down, right)."""
    _, height, width = image.shape
    edges = ((0, 0), (shift, shift), (shift, shift))
    found = {}
    for mirrored in {False, flip}:
        padded = np.pad(image[:, :, ::-1] if mirrored else image, edges, mode="edge")
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                top, left = shift - down, shift - (-right if mirrored else right)
                change = padded[:, top : top + height, left : left + width]
                found[change.tobytes()] = (mirrored, down, right)
    return found


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 1), (True, 1)])
def test_all_changes_of_an_image_are_equally_likely_and_labels_stay(flip, shift):
    images = random_images(5, (3, 6, 7))
    stream = make_augmented(images, flip=flip, shift=shift)
    wanted = [all_changes(image, flip, shift) for image in images]
    counts = dict.fromkeys(wanted[0].values(), 0)
    assert len(counts) == (1 + flip) * (2 * shift + 1) ** 2
    for number in range(5):
        batch = stream.batch(number)
        assert torch.equal(batch.labels, stream.indices(number) % 5)
        for image, label in zip(to_bytes(batch.images).numpy(), batch.labels, strict=True):
            counts[wanted[label][image.tobytes()]] += 1
    share = 1 / len(counts)
    spread = 5 * (3000 * share * (1 - share)) ** 0.5  # five deviations
    assert all(abs(count - 3000 * share) < spread for count in counts.values()), counts


def test_an_augmented_batch_follows_from_seed_and_number_alone():
    images = random_images(20, (4, 6, 7))
    in_order = [make_augmented(images, flip=True, shift=2).batch(i).images for i in range(3)]
    stream = make_augmented(images, flip=True, shift=2)
    assert all(torch.equal(stream.batch(i).images, in_order[i]) for i in (2, 0, 1, 2))
    other = make_augmented(images, flip=True, shift=2, seed=1)
    assert not torch.equal(other.batch(0).images, in_order[0])
    assert in_order[0].is_contiguous()


@pytest.mark.parametrize("binary", [False, True])
def test_ranks_share_the_augmented_batch_of_one(binary):
    intensities = random_images(20)
    images = np.where(intensities > 99, np.uint8(255), np.uint8(0)) if binary else intensities
    more = {"flip": True, "shift": 2, "intensities": intensities if binary else None}
    whole = make_augmented(images, **more).batch(3)
    parts = [make_augmented(images, rank=i, ranks=3, **more).batch(3) for i in range(3)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_intensities_are_moved_before_they_become_black_and_white():
    intensities = np.zeros((1, 1, 8, 8), np.uint8)
    intensities[..., 3, 3] = 255
    stream = make_augmented(intensities, shift=1, intensities=intensities)
    images = stream.batch(0).images
    assert ((images == 1).sum((1, 2, 3)) == 1).all()
    places = {tuple(image[0].eq(1).nonzero()[0].tolist()) for image in images}
    assert places == {(row, column) for row in (2, 3, 4) for column in (2, 3, 4)}


def test_all_256_levels_survive_the_way_there_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_unit_range(levels)
    assert torch.equal(to_bytes(floats), levels)
    assert floats.min() == -1 and floats.max() == 1
    assert (floats.diff() > 0).all()
    half = floats.bfloat16().float()  # eight bits of mantissa are not enough, but nearly
    assert (to_bytes(half).int() - levels.int()).abs().max() <= 1


def test_floats_are_rounded_to_the_nearest_level_and_clipped():
    floats = torch.tensor([-9.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.0, 9.0])
    assert to_bytes(floats).tolist() == [0, 0, 0, 1, 255, 255]


def test_the_conversions_leave_their_input_as_it_was():
    levels, floats = torch.arange(256, dtype=torch.uint8), torch.linspace(-2, 2, 9)
    before = levels.clone(), floats.clone()
    to_unit_range(levels), to_bytes(floats)
    assert torch.equal(levels, before[0]) and torch.equal(floats, before[1])


def test_derived_seeds_are_63_bits_wide_and_differ_in_their_low_half():
    """torch's CPU generator looks at the low 32 bits of a seed only."""
    seeds = [derive_seed(seed, "step", i) for seed in (0, 1, 2**32, 2**33) for i in range(5000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62 and len(set(seeds)) == len(seeds)
    low = {seed & 0xFFFFFFFF for seed in seeds}
    assert len(low) > len(seeds) - 10  # of 20,000 random numbers, about 0.05 collide
    bits = torch.tensor(seeds)[:, None] >> torch.arange(63) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 0.02


def test_derived_seeds_tell_their_parts_apart():
    parts = [(0, "step", 1), (0, "step", 11), (0, "epoch", 1), (1, "step", 0), (0, 1), ("0", 1)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    assert derive_seed(0, "step", 1) == derive_seed(0, "step", 1) == 5470648096356392933
