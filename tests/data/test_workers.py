"""Processes that decode: what they import, and what happens when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from pictures import save_images

from genkit.data.prepared import PrepareOptions
from genkit.data.walk import find_images
from genkit.data.workers import decode_files, decoders
from genkit.errors import GenkitError

OPTIONS = PrepareOptions(size=16, channels="auto")
HEAVY_SCRIPT = """
print("imported", flush=True)
import sys
from pathlib import Path
import torch
from genkit.data.walk import find_images
from genkit.data.prepared import PrepareOptions
from genkit.data.workers import decoders
OPTIONS = PrepareOptions(size=16, channels="auto")
folder = Path(sys.argv[1])
images = find_images(folder).images
with decoders(2) as decode:
    futures = [decode(folder, images, OPTIONS) for _ in range(2)]
    assert all(len(future.result()) == 4 for future in futures)
    import multiprocessing
    processes = multiprocessing.active_children()
    maps = [Path(f"/proc/{process.pid}/maps").read_text() for process in processes]
print(len(maps), *("libtorch" in text for text in maps))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_processes_import_neither_the_users_script_nor_torch(tmp_path: Path) -> None:
    """The script has no `if __name__ == "__main__"`."""
    save_images(tmp_path / "in")
    (tmp_path / "script.py").write_text(HEAVY_SCRIPT)
    words = [sys.executable, tmp_path / "script.py", tmp_path / "in"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("imported\n2 False False\n", "")


def test_decoded_elsewhere_is_as_decoded_here(tmp_path: Path) -> None:
    save_images(tmp_path, 5)
    (tmp_path / "2.png").write_text("text")
    images = find_images(tmp_path).images
    with decoders(2) as decode:
        assert decode(tmp_path, images, OPTIONS).result() == decode_files(tmp_path, images, OPTIONS)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_process_ends_the_work_in_one_sentence_and_leaves_no_other(tmp_path: Path) -> None:
    save_images(tmp_path)
    images = find_images(tmp_path).images
    before = {process.pid for process in multiprocessing.active_children()}
    started = time.monotonic()
    with (
        pytest.raises(GenkitError, match=r"was ended, .* with --workers 1 continues from there"),
        decoders(2) as decode,
    ):
        for future in [decode(tmp_path, images, OPTIONS) for _ in range(2)]:
            future.result()
        victim = next(p for p in multiprocessing.active_children() if p.pid not in before)
        os.kill(victim.pid, signal.SIGKILL)
        for future in [decode(tmp_path, images * 100, OPTIONS) for _ in range(8)]:
            future.result()
    assert {process.pid for process in multiprocessing.active_children()} == before
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_process_killed_in_the_middle_of_a_result_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_images(tmp_path)
    images = find_images(tmp_path).images * 50
    large = PrepareOptions(size=256, channels="auto")  # a result is larger than a pipe holds
    before = {process.pid for process in multiprocessing.active_children()}
    receive = Connection.recv

    def receive_from_the_dead(connection: Connection) -> object:
        connection.poll(60)  # until the first bytes of a result are there
        for process in multiprocessing.active_children():
            if process.pid not in before:
                process.kill()
                process.join(60)
        return receive(connection)

    monkeypatch.setattr(Connection, "recv", receive_from_the_dead)
    with pytest.raises(GenkitError, match=r"was ended"), decoders(2) as decode:
        decode(tmp_path, images, large).result(timeout=60)
    assert {process.pid for process in multiprocessing.active_children()} == before
