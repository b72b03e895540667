"""Image files decoded in other processes, for `data.prepare`; run as a module, it is such a one.

They speak JSON lines and bytes through pipes: one that loses its parent reads an end, and ends.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from genkit.data.decode import BadImage, decode_image, read_content
from genkit.data.walk import ImageFile
from genkit.errors import GenkitError

Decoded = tuple[dict[str, Any], bytes]  # what is known of a file, and its row of pixels
Decode = Callable[[Path, Sequence[ImageFile], int, int], list[Decoded]]
Submit = Callable[[Path, Sequence[ImageFile], int, int], "Future[list[Decoded]]"]


@contextmanager
def decoders(workers: int) -> Iterator[Submit]:
    """A function that has `decode_files` done by one of that many processes; by this one, at once,
    if one is enough."""
    if workers == 1:
        yield _decode_now
        return
    processes: list[_Process] = []
    idle: SimpleQueue[_Process] = SimpleQueue()

    def decode(folder: Path, files: Sequence[ImageFile], size: int, channels: int) -> list[Decoded]:
        process = idle.get()
        try:
            return process.decode(folder, files, size, channels)
        finally:
            idle.put(process)

    threads = ThreadPoolExecutor(workers)
    try:
        for _ in range(workers):
            processes.append(_Process())
            idle.put(processes[-1])
        yield lambda *job: threads.submit(decode, *job)
    finally:
        for process in processes:
            process.end()
        threads.shutdown(cancel_futures=True)


def decode_files(
    folder: Path, files: Sequence[ImageFile], size: int, channels: int
) -> list[Decoded]:
    """Entry and row of each file; of one that cannot be used, why, and no row."""
    decoded: list[Decoded] = []
    for path, size_bytes, modified_ns in files:
        entry = {"path": str(path), "size_bytes": size_bytes, "modified_ns": modified_ns}
        try:
            content = read_content(folder / path)
            pixels, deep = decode_image(content, size, channels)
        except BadImage as error:
            decoded.append(({**entry, "left_out": error.reason}, b""))
            continue
        row = pixels.tobytes()
        facts = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "grey": bool((pixels == pixels[:1]).all()),
            "deep": deep,
            "crc32": zlib.crc32(row),
        }
        decoded.append((entry | facts, row))
    return decoded


def _decode_now(
    folder: Path, files: Sequence[ImageFile], size: int, channels: int
) -> Future[list[Decoded]]:
    future: Future[list[Decoded]] = Future()
    future.set_result(decode_files(folder, files, size, channels))
    return future


class _Process:
    """A process that decodes what it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "genkit.data.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def decode(
        self, folder: Path, files: Sequence[ImageFile], size: int, channels: int
    ) -> list[Decoded]:
        """What `decode_files` gives there.

        Raises:
            GenkitError: the process came to an end.
        """
        request, answer = self.process.stdin, self.process.stdout
        assert request is not None and answer is not None
        job = [str(folder), [(str(file.path), *file[1:]) for file in files], size, channels]
        try:
            request.write(json.dumps(job).encode() + b"\n")
            request.flush()
            entries = json.loads(answer.readline())
            row_bytes = channels * size**2
            rows = [answer.read(row_bytes if "crc32" in entry else 0) for entry in entries]
        except (OSError, ValueError):
            raise GenkitError(
                "a process that decodes images was ended, perhaps for want of memory; the same "
                "command with --workers 1 goes on from there"
            ) from None
        return list(zip(entries, rows, strict=True))

    def end(self) -> None:
        """End it, whatever it does; only reading and computing can be under way."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # a request that was not sent in full
                pipe.close()  # type: ignore[union-attr]


def main() -> None:
    """Decode what stdin asks for until it ends. Signals to the whole group are the parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        folder, files, size, channels = json.loads(line)
        images = [ImageFile(Path(path), *facts) for path, *facts in files]
        decoded = decode_files(Path(folder), images, size, channels)
        sys.stdout.buffer.write(json.dumps([entry for entry, _ in decoded]).encode() + b"\n")
        sys.stdout.buffer.writelines(row for _, row in decoded)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
