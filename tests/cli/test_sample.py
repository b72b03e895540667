"""`genkit sample`: grids, interpolations, completions, classes and films, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from toys import SHAPE, random_images, registry, train_tiny, write_npz

from genkit.cli import main
from genkit.errors import UsageError
from genkit.io.run_directory import RunDir
from genkit.report import film
from genkit.runs.run import Run, load_run
from genkit.sampling.completion import known_half
from genkit.sampling.draw import draw, draw_classes
from genkit.sampling.grids import make_grid, save_png

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, and an image of another size than theirs."""
    folder = tmp_path_factory.mktemp("made")
    labels = np.arange(120) % 3
    images = random_images(120)
    data = write_npz(folder / "data.npz", images, labels=labels)
    for name in ("vae", "pixelcnn"):
        train_tiny(name, data, folder / name, budget="4steps", grids=3 if name == "vae" else 1)
    Image.fromarray(random_images(1, (3, 30, 20))[0].transpose(1, 2, 0)).save(folder / "photo.png")
    Image.fromarray(random_images(1)[0, 0]).save(folder / "exact.png")
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, beside names for what was made."""
    for name in ("vae", "pixelcnn", "photo.png", "exact.png"):
        (tmp_path / name).symlink_to(made / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_has_a_row_for_each_value_as_sample_draws_it(folder: Path) -> None:
    line = ["sample", "pixelcnn", "-n", "3", "--sweep", "temperature=0.5, 2"]
    assert main([*line, "-o", "sweep.png"]) == 0
    rows = [
        draw(load_run(Path("pixelcnn"), registry(), "cpu", sampler={"temperature": t}).model, 3, 0)
        for t in (0.5, 2)
    ]
    names = ["temperature=0.5", "temperature=2"]
    expected = np.asarray(make_grid(torch.cat(rows), 3, names=names))
    assert np.array_equal(read("sweep.png"), expected)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("temperature", "--sweep 'temperature' cannot be read; write KEY=VALUE"),
        ("heat=1,2", "pixelcnn has no option 'heat'"),
        ("temperature=1,0", "temperature: input should be greater than 0"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_is_refused(
    sweep: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "pixelcnn", "--sweep", sweep]) == 2
    assert words in capsys.readouterr().err


def test_options_of_the_runs_sampler_are_options_of_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("sample --temperature 0.5 pixelcnn -n 3 -o typed.png".split()) == 0
    assert main("sample pixelcnn -n 3 --sampler temperature=0.5 -o named.png".split()) == 0
    assert np.array_equal(read("typed.png"), read("named.png"))
    capsys.readouterr()
    assert main("sample pixelcnn --help".split()) == 0
    assert "Sampler: pixelcnn" in (shown := capsys.readouterr().out) and "--temperature" in shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample pixelcnn --temperature 0", "Error: --temperature: input should be greater than 0"),
        ("sample pixelcnn --temperature hot", "'hot' is not a number"),
        ("sample pixelcnn --heat 1", "No such option: --heat"),
        ("sample vae --temperature 1", "No such option: --temperature"),
        ("sample nowhere --temperature 1", "No such option: --temperature"),
        pytest.param(
            f"sample {'n' * 5000} --temperature 1", "No such option: --temperature", id="long"
        ),
    ],
)
def test_options_that_the_runs_sampler_does_not_take_are_refused(
    line: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert words in capsys.readouterr().err


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def grid(images: torch.Tensor, columns: int) -> np.ndarray:
    return np.asarray(make_grid(images, columns))


def run_of(name: str) -> Run:
    return load_run(Path(name), registry(), "cpu")


# ---- pictures


def test_grid_is_columns_by_rows_of_the_seeds_first_samples(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("sample vae --grid 5x3 --seed 2 -o grid.png".split()) == 0
    assert capsys.readouterr().out == "grid.png\n"
    assert np.array_equal(read("grid.png"), grid(run_of("vae").sample(15, 2), 5))
    assert main("sample vae -n 6 --columns 2 --seed 2".split()) == 0
    assert np.array_equal(read("vae-samples.png"), grid(run_of("vae").sample(15, 2)[:6], 2))


def test_interpolation_is_a_row_for_each_pair_of_samples(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("sample vae --interpolate 5 --seed 1".split()) == 0
    assert capsys.readouterr().out == "vae-interpolation.png\n"
    rows = run_of("vae").interpolate(rows=8, steps=5, seed=1)
    assert np.array_equal(read("vae-interpolation.png"), grid(rows.flatten(0, 1), 5))
    assert main("sample vae --interpolate 5 --seed 1 -n 2 -o two.npz".split()) == 0
    with np.load("two.npz") as archive:
        assert np.array_equal(archive["images"][..., 0], rows[:2, :, 0].flatten(0, 1))


def test_completion_is_a_row_for_each_file_with_what_was_given_and_all_of_it(folder: Path) -> None:
    words = "sample pixelcnn --complete exact.png --complete photo.png -n 3 --seed 4 -o c.npz"
    assert main(words.split()) == 0
    with np.load("c.npz") as archive:
        cells = archive["images"][..., 0].reshape(2, 5, 8, 8)
    exact = read("exact.png")
    assert np.array_equal(cells[0, -1], exact)  # it fits already
    assert np.array_equal(cells[0, 0, :4], exact[:4]) and (cells[:, 0, 4:] == 128).all()
    with Image.open("photo.png") as photo:  # the centre square in grey
        middle = np.asarray(photo.convert("L").crop((0, 5, 20, 25)).resize((8, 8), 1)).astype(int)
    assert abs(cells[1, -1] - middle).mean() < 12
    images = torch.from_numpy(cells[:, -1:].copy())
    known = known_half(run_of("pixelcnn").model.image_shape)
    again = run_of("pixelcnn").complete(images, known, n=3, seed=4)
    assert np.array_equal(cells[:, 1:4], again[:, :, 0])
    assert main("sample pixelcnn --complete exact.png --hide left".split()) == 0
    assert read("pixelcnn-completion.png").shape == (12, 82)  # one row, six completions
    given = read("pixelcnn-completion.png")[2:10, 2:10]
    assert (given[:, :4] == 128).all() and np.array_equal(given[:, 4:], exact[:, 4:])


def test_image_is_cut_to_a_shape_that_is_no_square(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "data.npz", random_images(40, (3, 8, 12)))
    train_tiny("pixelcnn", data, tmp_path / "run", budget="1steps")
    photo = random_images(1, (3, 12, 12))[0]
    Image.fromarray(photo.transpose(1, 2, 0)).save(tmp_path / "photo.png")
    words = f"sample {tmp_path}/run --complete {tmp_path}/photo.png -n 1 -o {tmp_path}/c.npz"
    assert main(words.split()) == 0
    with np.load(tmp_path / "c.npz") as archive:
        assert np.array_equal(archive["images"][-1], photo[:, 2:10].transpose(1, 2, 0))


def conditional(model: torch.nn.Module) -> None:
    """Make a model's samples darker for higher classes."""
    plain = model.sample
    model.sample = lambda n, labels=None, *, generator: (
        plain(n, generator=generator) / (1 if labels is None else 1 + labels.view(-1, 1, 1, 1))
    )


@pytest.mark.parametrize(
    "text, classes", [("each", [0, 1, 2]), ("2,0", [2, 0]), ("1", [1]), ("two, 0", [2, 0])]
)
def test_labels_give_a_row_for_each_class(
    text: str, classes: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("vae", "named")
    config = json.loads(Path("named/config.json").read_text("utf-8"))
    config["data"]["classes"] = ["nought", "one", "two"]
    Path("named/config.json").write_text(json.dumps(config), "utf-8")
    import genkit.runs.run

    real = genkit.runs.run.load_run

    def load(*arguments: object, **more: object) -> Run:
        run = real(*arguments, **more)
        conditional(run.model)
        return run

    monkeypatch.setattr(genkit.runs.run, "load_run", load)
    assert main(["sample", "named", "--labels", text, "-n", "4", "--seed", "3"]) == 0
    model = load("named", registry()).model
    expected = draw_classes(model, [0, 1, 2], 4, seed=3)[classes]
    images, found = grid(expected.flatten(0, 1), 4), read("named-classes.png")
    assert np.array_equal(found[:, -images.shape[1] :], images)
    names = found[:, : -images.shape[1]]  # a name in each row, left of its images
    assert all((names[row * 10 : row * 10 + 10] > 200).any() for row in range(len(classes)))


@pytest.mark.parametrize("name", ["vae", "pixelcnn"])
def test_a_conditional_run_draws_the_classes_that_were_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_npz("data.npz", random_images(60), labels=np.arange(60) % 3)
    train_tiny(name, data, tmp_path / "run", budget="2steps", conditional=True)
    record = json.loads(Path("run/config.json").read_text("utf-8"))
    assert sum(record["data"]["class_shares"]) == pytest.approx(1)
    model = load_run("run", registry(), "cpu").model
    assert main("sample run --balanced -n 70 -o balanced.npz".split()) == 0
    with np.load("balanced.npz") as archive:
        assert np.array_equal(archive["labels"], np.arange(70) % 3)
        pixels = draw(model, 70, 0, labels="balanced").permute(0, 2, 3, 1)
        assert np.array_equal(archive["images"], pixels)
    assert main("sample run --labels 2,0 -n 2 -o folder".split()) == 0
    files = sorted(str(path) for path in Path("folder").rglob("*.png"))
    assert files == [
        f"folder/{file}.png" for file in ("0/000002", "0/000003", "2/000000", "2/000001")
    ]
    other = "--interpolate 3" if name == "vae" else "--complete exact.png -n 1"
    Image.fromarray(random_images(1)[0, 0]).save("exact.png")
    assert main(f"sample run {other} --labels 1,2 -o other.npz".split()) == 0
    with np.load("other.npz") as archive:
        assert len(archive["images"]) == (2 * 3 if name == "vae" else 3)


# ---- films


def test_film_shows_each_grid_once_in_the_order_of_steps_and_the_last_longest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("sample vae --film new/film.webp".split()) == 0
    assert capsys.readouterr().out == "new/film.webp\n"
    grids = sorted(Path("vae/samples").glob("step-*.png"))
    with Image.open("new/film.webp") as opened:
        frames, ends = [], []
        for frame in ImageSequence.Iterator(opened):
            frame.load()
            frames.append(np.asarray(frame.convert("L")))
            ends.append(frame.info["timestamp"] + frame.info["duration"])
    assert len(grids) == len(frames) == 3
    for path, frame in zip(grids, frames, strict=True):  # lossless, at twice their size
        assert np.array_equal(frame[film.TITLE :: 2, ::2], read(path))
        assert np.array_equal(frame[film.TITLE + 1 :: 2, 1::2], read(path))
    titles = [frame[: film.TITLE - film.BAR] for frame in frames]
    assert all(title.min() < 100 for title in titles)
    assert not np.array_equal(titles[0], titles[1])
    bars = [(frame[film.TITLE - 1] < 200).mean() for frame in frames]
    assert bars[0] < 0.02 and bars[1] == pytest.approx(0.5, abs=0.02) and bars[2] == 1
    assert ends == [500, 1000, 4000]


def folder_of_grids(path: Path, *grids: tuple[str, int]) -> RunDir:
    (path / "samples").mkdir(parents=True)
    for name, side in grids:
        save_png(make_grid(torch.zeros(4, *SHAPE[:1], side, side).byte()), path / "samples" / name)
    return RunDir(path)


def test_frames_of_a_long_training_are_shorter(tmp_path: Path) -> None:
    names = [(f"step-{i:09d}.png", 8) for i in range(61)]
    assert film.make_film(folder_of_grids(tmp_path / "run", *names), tmp_path / "f.webp") == 61
    with Image.open(tmp_path / "f.webp") as opened:
        opened.seek(1)
        opened.load()
        assert opened.info["duration"] == 200


def test_bad_grid_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    run = folder_of_grids(tmp_path / "a", ("step-000000000.png", 8), ("step-000000009.png", 9))
    with pytest.raises(UsageError, match=r"step-000000009.png is not of the size of the first"):
        film.make_film(run, tmp_path / "film.webp")
    (run.samples / "step-000000009.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"step-000000009.png is not a PNG, JPEG"):
        film.make_film(run, tmp_path / "film.webp")
    assert not list(tmp_path.glob("*.webp"))


# ---- what is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vae --grid 8", "--grid '8' is not COLUMNSxROWS"),
        ("vae --grid 0x3", "--grid '0x3' is not COLUMNSxROWS"),
        ("vae --grid 3x0", "--grid '3x0' is not COLUMNSxROWS"),
        ("vae --grid 8x8x8", "--grid '8x8x8' is not COLUMNSxROWS"),
        ("vae --grid 8x8 -n 3", "--grid and -n exclude one another"),
        ("vae --grid 8x8 --columns 3", "--grid and --columns exclude one another"),
        ("vae --interpolate 3 --grid 3x3", "--grid and --interpolate exclude one another"),
        ("vae --interpolate 3 --film a.webp", "--interpolate and --film exclude one another"),
        ("vae --interpolate 1", "'--interpolate'"),
        ("vae --film a.webp --seed 0", "--film and --seed exclude one another"),
        ("vae --film a.webp -o b.png", "--film and --output exclude one another"),
        ("vae --hide top", "--hide is for --complete"),
        ("vae --complete exact.png --hide middle", "'--hide'"),
        ("vae --complete exact.png", "vae cannot complete images; models that draw pixel by pixel"),
        ("pixelcnn --interpolate 3", "pixelcnn has no latents to interpolate between"),
        ("pixelcnn --complete nowhere.png", "nowhere.png cannot be read"),
        (
            "pixelcnn --complete vae/config.json",
            "vae/config.json is not a PNG, JPEG, WebP, BMP, GIF or TIFF",
        ),
        ("pixelcnn --labels 0", "PixelCNN is not class-conditional"),
        ("vae --labels 3", "--labels: there is no class '3'; give each, or some of 0, 1, 2"),
        ("vae --labels 0,,1", "--labels: there is no class ''"),
        ("vae --film film.gif", "--film film.gif: a film is an animated WebP"),
        ("vae --film there.webp", "--film there.webp exists; nothing was overwritten"),
        ("pixelcnn --film a.webp", "holds 1 grid of samples and a film needs two"),
        ("vae --interpolate 3 -o there.png", "--output there.png exists; nothing was overwritten"),
        ("nowhere --film a.webp", "nowhere does not exist"),
    ],
)
def test_bad_words_are_one_sentence_and_nothing_is_written(
    line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("there.png", "there.webp"):
        Path(name).write_bytes(b"precious")
    before = sorted(folder.rglob("*"))
    assert main(["sample", *line.split()]) == 2
    captured = capsys.readouterr()
    text = " ".join(captured.err.replace("│", " ").split())
    assert captured.out == "" and message in text and "Traceback" not in text
    assert text.count("Error") == 1
    assert sorted(folder.rglob("*")) == before
    assert Path("there.png").read_bytes() == Path("there.webp").read_bytes() == b"precious"


def test_labels_of_a_run_without_classes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny("vae", write_npz(tmp_path / "data.npz"), tmp_path / "run", budget="1steps")
    assert main(["sample", str(tmp_path / "run"), "--labels", "each"]) == 2
    assert "was trained on images without classes" in capsys.readouterr().err
