"""`genkit data prepare` as a process: killed, interrupted, on a full disk, and trained on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import error_of
from pictures import open_named, result, save_images
from PIL import Image

from genkit.cli import main
from genkit.data.partial import PARTIAL_FILE
from genkit.data.prepare import prepare
from genkit.data.prepared import IMAGES_FILE, MANIFEST_FILE
from genkit.errors import UsageError

torch.set_num_threads(1)

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_{0}, ({1}, {1}))
from genkit.cli import main
sys.exit(main(sys.argv[1:]))
"""
PAUSED = """
import sys, time
from genkit.data.partial import PartialResult
from genkit.cli import main
def append_and_pause(partial, decoded, append=PartialResult.append):
    append(partial, decoded)
    if len(partial.files) > {}:
        time.sleep(600)
PartialResult.append = append_and_pause
sys.exit(main(sys.argv[1:]))
"""
LIMITED_LATE = """
import resource, sys
import genkit.data.prepare
from genkit.cli import main
def finish_on_a_full_disk(*arguments, finish=genkit.data.prepare._finish):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return finish(*arguments)
genkit.data.prepare._finish = finish_on_a_full_disk
sys.exit(main(sys.argv[1:]))
"""


def command(*words: object, code: str | None = None) -> list[str]:
    start = ["-c", code] if code else ["-m", "genkit"]
    return [sys.executable, "-W", "error", *start, *map(str, words)]


def run(*words: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, code=code), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images that take a second to decode at 256 pixels a side."""
    place = tmp_path_factory.mktemp("images") / "large"
    save_images(place, 10, side=400)
    for number in range(10, 150):
        os.link(place / f"{number % 10}.png", place / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, bytes]:
    """What an uninterrupted preparation gives."""
    prepare(folder, folder.parent / "whole", size=256, resample="auto")
    return result(folder.parent / "whole")


def decoded_files(out: Path) -> int:
    """Files in a partial result. Read from a copy, since it takes no locks; a copy that was made
    during a write may be torn, and counts as nothing."""
    with tempfile.TemporaryDirectory() as place, suppress(OSError, sqlite3.Error):
        for name in (PARTIAL_FILE, f"{PARTIAL_FILE}-journal"):
            if (out / name).exists():
                shutil.copy(out / name, place)
        with closing(sqlite3.connect(Path(place, PARTIAL_FILE))) as database:
            return int(database.execute("SELECT count(*) FROM files").fetchone()[0])
    return 0


def start(folder: Path, out: Path, more_than: int, *words: object) -> subprocess.Popen[str]:
    """A preparation in a process group of its own, which pauses when it has decoded more files than
    that; others are being decoded then."""
    words = ("data", "prepare", folder, "--out", out, "--size", 256, *words)
    return subprocess.Popen(
        command(*words, code=PAUSED.format(more_than)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], out: Path, more_than: int) -> None:
    """Return when more files than that are decoded, while others are not."""
    deadline = time.monotonic() + 120
    while decoded_files(out) <= more_than and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate(timeout=10)
        time.sleep(0.02)
    assert more_than < decoded_files(out) < 150


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    out, known = tmp_path / "out", 0
    for _ in range(3):
        process = start(folder, out, known, "--workers", workers)
        wait_for(process, out, known)
        started = children(process.pid) if sys.platform == "linux" else []
        if sys.platform == "linux":  # multiprocessing has one process of its own
            assert len(started) == (workers + 1 if workers > 1 else 0)
        process.kill()
        process.communicate(timeout=10)
        known = decoded_files(out)
        deadline = time.monotonic() + 10
        while any(map(is_running, started)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(is_running, started))  # none is left behind
    assert not (out / MANIFEST_FILE).exists()
    last = run("data", "prepare", folder, "--out", out, "--size", 256, "--workers", workers)
    assert last.returncode == 0, last.stderr
    assert f"continuing: {known} of 150 files were decoded before" in last.stderr
    assert f"decoded {150 - known} files" in last.stdout
    assert result(out) == whole


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, for which nobody may be left to wait."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_says_how_to_continue(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "out"
    process = start(folder, out, 0, "--workers", 2)
    wait_for(process, out, 0)
    os.killpg(process.pid, number)  # as a terminal does, to the processes that decode, too
    printed, said = process.communicate(timeout=30)
    assert (process.returncode, printed) == (code, ""), said
    assert "Traceback" not in said
    assert "interrupted; all is saved, the same command continues" in said
    assert decoded_files(out) > 0
    prepare(folder, out, size=256, resample="auto")
    assert result(out) == whole


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("megabytes", [10, 27])
def test_full_disk_is_reported_in_one_line_and_nothing_is_lost(
    folder: Path, whole: dict[str, bytes], tmp_path: Path, megabytes: int
) -> None:
    words = ("data", "prepare", folder, "--out", tmp_path / "out", "--size", 256)
    full = run(*words, code=LIMITED.format("FSIZE", megabytes * 10**6))
    assert full.returncode == 1 and "Traceback" not in full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and "could not be written: disk I/O error" in last
    assert "the same command continues from there" in last
    done = decoded_files(tmp_path / "out")
    assert 0 < done < 150 and f"{done} files are done" in last
    again = run(*words)
    assert again.returncode == 0 and f"continuing: {done} of 150" in again.stderr
    assert result(tmp_path / "out") == whole


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_full_disk_after_the_decoding_costs_no_decoding(tmp_path: Path, monkeypatch) -> None:
    save_images(tmp_path / "in", 600)
    words = ("data", "prepare", tmp_path / "in", "--out", tmp_path / "out", "--size", 16)
    full = run(*words, code=LIMITED_LATE)
    assert full.returncode == 1, full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and "images.npy could not be written" in last
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock"} == {PARTIAL_FILE}
    again = run(*words)
    assert again.returncode == 0 and "decoded 0 files" in again.stdout
    prepare(tmp_path / "in", tmp_path / "fresh", size=16, resample="auto")
    assert result(tmp_path / "out") == result(tmp_path / "fresh")


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_disk_that_is_full_from_the_start_is_reported_in_one_line(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 3)
    words = ("data", "prepare", tmp_path / "in", "--out", tmp_path / "out")
    full = run(*words, code=LIMITED.format("FSIZE", 10))
    assert full.returncode == 1 and full.stderr.startswith("Error: ")
    assert full.stderr.endswith("out could not be written: disk I/O error\n")
    assert run(*words).returncode == 0


def test_output_names_what_there_is_and_the_path_last(tmp_path: Path) -> None:
    save_images(tmp_path / "in" / "a\nb", 3)
    save_images(tmp_path / "in" / "c", 4)
    (tmp_path / "in" / "c" / os.fsdecode(b"\xff.png")).write_text("text")
    out = tmp_path / "out"
    first = run("data", "prepare", tmp_path / "in", "--out", out)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [
        "7 images of 3 x 32 x 32: 6 to train on, 1 held out for testing",
        "2 classes",
        "skipped c/\\udcff.png: is not a PNG, JPEG, WebP, BMP, GIF or TIFF image",
        "decoded 8 files",
        str(out),
    ]
    again = run("data", "prepare", tmp_path / "in", "--out", out, "--json", "-")
    facts = json.loads(again.stdout)
    assert facts.pop("fingerprint") == open_named(f"prepared:{out}").fingerprint
    assert facts == {
        "path": str(out),
        "data": f"prepared:{out}",
        "up_to_date": True,
        "decoded": 0,
        "shape": [3, 32, 32],
        "train_images": 6,
        "test_images": 1,
        "held_out": True,
        "classes": ["a\\nb", "c"],
        "left_out": {"c/\udcff.png": "is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"},
        "other_files": {},
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere", "--out", "out"], 2, "nowhere does not exist"),
        ([".", "--out", "out"], 2, "--out out lies in ."),
        (["loop", "--out", "out"], 2, "loop does not exist"),
        (["in", "--out", "loop"], 2, "--out loop cannot be made"),
        (["in", "--out", "x" * 5_000], 2, "cannot be made: File name too long"),
        (["in"], 2, "Missing option '--out'"),
        (["in", "--out", "out", "--size", "7"], 2, "of 8 to 256 pixels"),
        (["in", "--out", "out", "--channels", "5"], 2, "'5' is not one of"),
        (["in", "--out", "out", "--workers", "0"], 2, "greater than or equal to 1"),
    ],
)
def test_mistakes_end_with_code_2_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    code: int,
    message: str,
) -> None:
    from genkit.cli import main

    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "in", 3)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert main(["data", "prepare", *words]) == code
    captured = capsys.readouterr()
    assert message in error_of(captured) and captured.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"in", "loop"}


@pytest.mark.slow
def test_two_at_a_time_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(folder, out, 0)
    wait_for(process, out, 0)
    second = run("data", "prepare", folder, "--out", out, "--size", 256)
    process.kill()
    process.communicate(timeout=60)
    assert second.returncode == 2 and f"another process prepares {out}" in second.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Four times the images: 147 MB of pixels more, and hardly any more memory."""
    code = (
        "import sys; from genkit.cli import main; code = main(sys.argv[1:])\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))\n"
        "sys.exit(code)"
    )
    peaks = []
    for count in (1_000, 4_000):
        place = tmp_path / f"{count}"
        save_images(place, 1)
        for number in range(1, count):
            os.link(place / "0.png", place / f"{number}.png")
        words = ("data", "prepare", place, "--out", f"{place}.out", "--size", 128, "--workers", 1)
        done = run(*words, code=code)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)  # MiB
    assert (tmp_path / "4000.out" / IMAGES_FILE).stat().st_size > 190e6
    assert peaks[1] - peaks[0] < 40 and peaks[1] < 300


@pytest.mark.slow
def test_run_on_prepared_images_resumes_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import genkit

    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "in", 40)
    prepare(tmp_path / "in", tmp_path / "out", size=32, resample="auto")
    options = {"preset": "quick", "batch_size": 8, "grids": 0, "threads": 1, "precision": "fp32"}
    run = genkit.train("vae", data="prepared:out", budget="3steps", run_dir="a", **options)
    genkit.train("vae", data="prepared:out", budget="6steps", run_dir="b", **options)
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert run.record.run["data"] == f"prepared:{tmp_path / 'out'}"
    genkit.resume(tmp_path / "a", budget="6steps")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    flipped = bytearray((tmp_path / "out" / IMAGES_FILE).read_bytes())
    flipped[-1] ^= 1
    (tmp_path / "out" / IMAGES_FILE).write_bytes(flipped)
    with pytest.raises(UsageError, match="is damaged"):
        genkit.resume(tmp_path / "a", budget="9steps")


def test_opening_twenty_thousand_images_takes_less_than_a_second(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(place / "0.bmp")
    for number in range(1, 20_000):
        os.link(place / "0.bmp", place / f"{number}.bmp")
    prepare(place, tmp_path / "out", size=32, channels="3", resample="auto")
    begin = time.process_time()
    data = open_named(f"prepared:{tmp_path / 'out'}")
    assert len(data.train.images) == 18_000 and data.fingerprint
    assert time.process_time() - begin < 1


def test_prepared_images_have_the_window_and_the_splits_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("in/Train", "in/val"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(2):
            values = np.full((8, 8), 1000 * (number + 1), np.uint16)
            Image.fromarray(values).save(tmp_path / place / f"{number}.tif")
    words = ["data", "prepare", str(tmp_path / "in"), "--size", "8", "--window", "0-4000"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "training images are those in Train" in capsys.readouterr().out
    prepared = open_named(f"prepared:{tmp_path / 'out'}")
    folder = open_named(f"folder:{tmp_path / 'in'}", size=8, window="0-4000")
    assert prepared.fingerprint == folder.fingerprint and prepared.notes == folder.notes
    assert prepared.train.images[:, 0, 0, 0].tolist() == [64, 128]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "up to date" in capsys.readouterr().out
    words[-1] = "4000-0"
    assert main([*words, "--out", str(tmp_path / "new")]) == 2
