"""A classifier of the data's own classes as features: trained once, kept, checked, repeatable."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genkit.data import ImageData, Split
from genkit.errors import TrainingError, UsageError
from genkit.features import extract
from genkit.io.progress import Reporter
from genkit.specs import Config, ImageShape
from genkit_fidelity import ClassifierConfig, classifier
from genkit_fidelity.classifier import Classifier
from genkit_fidelity.network import ClassifierNetwork

torch.set_num_threads(1)


def stripes(count: int, seed: int, shape=(1, 12, 12), classes: int = 3, noise: float = 40.0):
    """Bright stripes in noise: the class says at what height; labels as int64."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    images = random.normal(90, noise, (count, *shape))
    rows = (2 * labels + 1) * shape[1] // (2 * classes)
    images[np.arange(count), :, rows] += 120
    return Split(images.clip(0, 255).round().astype(np.uint8), labels.astype(np.int64))


def data_of(train: Split, test: Split, classes: int = 3) -> ImageData:
    names = tuple(f"height {label}" for label in range(classes))
    return ImageData(
        name="npz:stripes",
        train=train,
        test=test,
        classes=names if train.labels is not None else (),
        notes=(),
        features="classifier",
        reference=None,
        held_out=False,
    )


@pytest.fixture(scope="module")
def striped() -> ImageData:
    return data_of(stripes(160, 1), stripes(90, 2))


class Recorder(Reporter):
    """Keeps what is reported to it."""

    def __init__(self) -> None:
        self.states, self.said = [], []

    def update(self, state) -> None:
        self.states.append(state)

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of the test's own, and trainings of a second."""
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "LEAST_IMAGES", 3_000)
    return tmp_path / "classifiers"


def test_learns_classes_and_tells_its_accuracy(striped):
    reporter = Recorder()
    extractor = Classifier.open(Config(), striped, reporter)
    features, logits = extract(extractor, torch.from_numpy(striped.test.images))
    guesses = logits.numpy().argmax(1)
    share = float((guesses == striped.test.labels).mean())
    assert share > 0.95
    assert features.shape == (90, 64)
    assert logits.shape == (90, 3) and extractor.classes == 3
    assert extractor.note == f"accuracy {share:.1%} of 90 held-out images of npz:stripes"
    assert [extractor.note in message for message in reporter.said] == [True]


def test_features_have_unit_scale_on_the_training_split(striped):
    features, _ = extract(
        Classifier.open(Config(), striped), torch.from_numpy(striped.train.images)
    )
    assert (features.double().square().sum(1).mean() / 64).item() == pytest.approx(1, rel=1e-5)


def test_is_trained_once_and_then_read_from_the_cache(striped, cache, monkeypatch):
    first = Classifier.open(Config(), striped)
    (path,) = cache.iterdir()
    assert path.name == f"{striped.fingerprint[:32]}.safetensors"
    monkeypatch.setattr(classifier, "train", lambda *_, **__: pytest.fail("trained again"))
    reporter = Recorder()
    second = Classifier.open(Config(), striped, reporter)
    images = torch.from_numpy(striped.test.images)
    assert second.identity == first.identity and second.note == first.note
    for one, other in zip(extract(first, images), extract(second, images), strict=True):
        assert torch.equal(one, other)
    assert not reporter.said and not reporter.states


def test_a_file_of_another_machine_gives_its_features(striped, cache, monkeypatch, tmp_path):
    first = Classifier.open(Config(), striped)
    taken = first.file.rename(tmp_path / "features.safetensors")
    monkeypatch.setattr(classifier, "train", lambda *_, **__: pytest.fail("trained again"))
    second = Classifier.open(ClassifierConfig(weights=str(taken)), striped)
    images = torch.from_numpy(striped.test.images)
    assert (second.identity, second.file) == (first.identity, taken)
    assert torch.equal(extract(first, images)[0], extract(second, images)[0])
    assert not list(cache.iterdir())


@pytest.mark.parametrize("fault", ["missing", "folder", "damaged", "other classes"])
def test_a_file_that_holds_no_such_classifier_is_refused(striped, cache, tmp_path, fault):
    path = tmp_path / "features.safetensors"
    data = striped
    if fault == "folder":
        path.mkdir()
    elif fault != "missing":
        content = bytearray(Classifier.open(Config(), striped).file.read_bytes())
        content[-50] ^= fault == "damaged"
        path.write_bytes(content)
    if fault == "other classes":
        data = data_of(stripes(40, 3, classes=4), stripes(40, 4, classes=4), classes=4)
    for use in (Classifier.check, Classifier.open):  # before anything is trained, and later
        with pytest.raises(UsageError, match=r"names .*features.safetensors, which holds no"):
            use(ClassifierConfig(weights=str(path)), data)


def test_weights_depend_on_the_data_alone(striped, cache, monkeypatch):
    identities = []
    for seed, threads in ((3, 1), (4, 2)):
        monkeypatch.setenv("GENKIT_CACHE", str(cache / str(seed)))
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        before = torch.get_rng_state()
        try:
            identities.append(Classifier.open(Config(), striped).identity)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        assert torch.equal(torch.get_rng_state(), before)
    assert identities[0] == identities[1]
    other = Classifier.open(Config(), data_of(stripes(160, 5), striped.test))
    assert other.identity != identities[0]


@pytest.mark.parametrize("damage", ["bit", "end", "text", "another network"])
def test_a_classifier_whose_cache_is_damaged_is_trained_again(striped, cache, damage):
    first = Classifier.open(Config(), striped)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "another network":
        deeper = data_of(stripes(60, 1, (1, 40, 40)), stripes(30, 2, (1, 40, 40)))
        Classifier.open(Config(), deeper)
        (strange,) = set(cache.iterdir()) - {path}
        strange.replace(path)
    else:
        flipped = bytearray(whole)
        flipped[-100] ^= 1
        path.write_bytes({"bit": flipped, "end": whole[:-10], "text": b"no weights"}[damage])
    assert path.read_bytes() != whole
    reporter = Recorder()
    assert Classifier.open(Config(), striped, reporter).identity == first.identity
    assert reporter.states and path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_only_slower(striped, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "file"))
    assert Classifier.open(Config(), striped).classes == 3


def test_progress_counts_images_to_the_end(striped):
    reporter = Recorder()
    Classifier.open(Config(), striped, reporter)
    passes = math.ceil(3_000 / 160) + 1
    counts = [state.images for state in reporter.states]
    assert counts == sorted(counts) and counts[-1] == passes * 160
    assert reporter.states[-1].fraction == 1
    assert {state.stage for state in reporter.states} == {"training the classifier"}


def test_a_poor_classifier_is_reported_each_time():
    random = np.random.default_rng(0)
    train, test = (
        Split(random.integers(256, size=(60, 1, 8, 8), dtype=np.uint8), random.integers(3, size=60))
        for _ in range(2)
    )
    for messages in (2, 1):  # the first time it also says that it trained
        reporter = Recorder()
        extractor = Classifier.open(Config(), data_of(train, test), reporter)
        assert len(reporter.said) == messages
        assert "classifies poorly" in reporter.said[-1] and extractor.note in reporter.said[-1]


def test_naming_the_commonest_class_counts_as_chance():
    test = stripes(100, 2)
    test.labels[:] = [0] * 90 + [1] * 5 + [2] * 5
    weights = ClassifierNetwork(ImageShape(1, 12, 12, 3)).state_dict()
    for reached, poor in ((0.94, True), (0.96, False)):
        tensors = {**weights, "test_accuracy": torch.tensor(reached, dtype=torch.float64)}
        assert Classifier(Config(), data_of(stripes(50, 1), test), tensors).poor is poor


def test_data_without_labels_or_with_one_class_is_refused_with_the_ways_out(striped):
    Classifier.check(Config(), striped)
    unlabelled = data_of(Split(striped.train.images), Split(striped.test.images))
    single = data_of(stripes(9, 1, classes=1), stripes(9, 2, classes=1), classes=1)
    for data, reason in ((unlabelled, "has no labels"), (single, "has one class")):
        with pytest.raises(UsageError, match=reason) as caught:
            Classifier.check(Config(), data)
        for way in ("sub-folder", "npz", "--features inception", "--features none", data.name):
            assert way in str(caught.value)


def test_images_of_another_shape_are_refused(striped):
    extractor = Classifier.open(Config(), striped)
    extractor.check_shape(ImageShape(1, 12, 12))
    with pytest.raises(UsageError, match="1 x 12 x 12, not 3 x 12 x 12"):
        extractor.check_shape(ImageShape(3, 12, 12))


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((1, 8, 8), 2),
        ((3, 9, 31), 1000),
        ((1, 28, 28), 10),
        ((3, 32, 32), 100),
        ((3, 33, 64), 5),
        ((3, 200, 100), 7),
        ((1, 256, 256), 2),
    ],
)
def test_networks_end_in_at_most_four_by_four_pixels_and_see_each_pixel(shape, classes):
    torch.manual_seed(0)
    network = ClassifierNetwork(ImageShape(*shape, classes)).eval()
    blocks = network.trunk[:-3]  # all before flatten, linear, ReLU
    images = torch.rand(2, *shape, requires_grad=True)
    pooled = blocks(images)
    assert max(pooled.shape[2:]) <= 4 and pooled.flatten(1).shape[1] >= 64
    # Max-pooling hides pixels of single images, so look at convolutions only.
    (gradient,) = torch.autograd.grad(blocks[0](images).square().sum(), images)
    assert (gradient != 0).all()
    features, logits = network(torch.randint(256, (2, *shape), dtype=torch.uint8))
    assert features.shape == (2, 64) and logits.shape == (2, classes)


def test_digits_network_has_the_documented_number_of_parameters():
    network = ClassifierNetwork(ImageShape(1, 28, 28, 10))
    assert sum(weights.numel() for weights in network.parameters()) == 61_354


def test_few_images_colours_and_large_sizes_can_be_trained(monkeypatch):
    monkeypatch.setattr(classifier, "LEAST_IMAGES", 200)
    for count, shape in ((50, (3, 64, 48)), (2, (1, 8, 8)), (129, (3, 8, 8))):
        data = data_of(stripes(count, 1, shape), stripes(5, 2, shape))
        features, logits = extract(
            Classifier.open(Config(), data), torch.from_numpy(data.test.images)
        )
        assert features.isfinite().all() and logits.isfinite().all()


def test_weights_that_are_not_finite_are_an_error(striped, cache, monkeypatch):
    monkeypatch.setattr(classifier.F, "cross_entropy", lambda logits, _: logits.sum() * math.nan)
    with pytest.raises(TrainingError, match="--features inception"):
        Classifier.open(Config(), striped)
    assert not cache.exists()


def test_shift_moves_whole_images_by_at_most_its_pixels():
    images = torch.randint(1, 256, (200, 3, 5, 7), dtype=torch.uint8)
    shifted = classifier.shift(images, 2, torch.Generator().manual_seed(0))
    offsets = set()
    for before, after in zip(images, shifted, strict=True):
        matches = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                moved = torch.zeros_like(before)
                for row in range(5):
                    for column in range(7):
                        if 0 <= row - down < 5 and 0 <= column - right < 7:
                            moved[:, row, column] = before[:, row - down, column - right]
                if torch.equal(moved, after):
                    matches.append((down, right))
        assert len(matches) == 1
        offsets.update(matches)
    assert len(offsets) == 25
