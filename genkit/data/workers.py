"""Image files decoded in other processes, for `genkit.data.prepare`.

Each process has a pipe of its own to the parent, where a thread waits for results. If a process
ends, even in the middle of a result, its pipe closes and the thread knows. All processes watch
another pipe, which closes when the parent is done, interrupted or killed; then they exit.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import NamedTuple

from genkit.data.alpha import is_grey
from genkit.data.decode import decode_image
from genkit.data.image_file import BadImage, read_content
from genkit.data.prepared import PrepareOptions
from genkit.data.sources import SourceFile
from genkit.data.walk import ImageFile
from genkit.errors import GenkitError

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class DecodedFile(NamedTuple):
    """What became of a file, and its pixels: the bytes of uint8 (C, H, W), or none if the
    file was left out."""

    file: SourceFile
    pixels: bytes


Decode = Callable[[Path, Sequence[ImageFile], PrepareOptions], "Future[list[DecodedFile]]"]


@contextmanager
def decoders(workers: int) -> Iterator[Decode]:
    """A function that has `decode_files` run by one of that many processes; if one is enough, by
    this process, at once.

    Raises:
        GenkitError: a process came to an end.
    """
    if workers == 1:
        yield _decode_now
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    lifeline, held_open = context.Pipe(duplex=False)
    idle: SimpleQueue[Connection] = SimpleQueue()
    processes = []

    def decode_elsewhere(
        folder: Path, files: Sequence[ImageFile], options: PrepareOptions
    ) -> list[DecodedFile]:
        connection = idle.get()
        try:
            connection.send((folder, files, options))
            result: list[DecodedFile] | Exception = connection.recv()
        except (EOFError, OSError):
            raise GenkitError(
                "a process that decodes images was ended, perhaps for want of memory; the same "
                "command with --workers 1 continues from there"
            ) from None
        finally:
            idle.put(connection)
        if isinstance(result, Exception):
            raise result
        return result

    with ThreadPoolExecutor(workers) as threads:
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, lifeline), daemon=True)
                with _bare_start():
                    process.start()
                theirs.close()
                idle.put(ours)
                processes.append(process)
            yield lambda *work: threads.submit(decode_elsewhere, *work)
        finally:
            held_open.close()
            threads.shutdown(cancel_futures=True)
            for process in processes:
                process.join()
            lifeline.close()


def finished(future: Future[list[DecodedFile]]) -> list[DecodedFile]:
    """The result of a future. Unlike in its own `result()`, an interrupt while this waits cannot
    leave the future locked, which would keep the pool from ending."""
    done: SimpleQueue[object] = SimpleQueue()
    future.add_done_callback(done.put)
    done.get()
    return future.result()


def decode_files(
    folder: Path, files: Sequence[ImageFile], options: PrepareOptions
) -> list[DecodedFile]:
    """Each file decoded to uint8 (C, H, W), or the reason why it cannot be used."""
    decoded = []
    frame = options.frame
    for path, size_bytes, modified_ns in files:
        source = partial(SourceFile, path=str(path), size_bytes=size_bytes, modified_ns=modified_ns)
        try:
            content = read_content(folder / path)
            pixels, deep, transparent, nearest = decode_image(content, frame)
        except BadImage as error:
            decoded.append(DecodedFile(source(left_out=error.reason), b""))
            continue
        file = source(
            sha256=hashlib.sha256(content).hexdigest(),
            grey=is_grey(pixels),
            deep=deep,
            transparent=transparent,
            nearest=nearest and options.resample == "auto",
        )
        decoded.append(DecodedFile(file, pixels.tobytes()))
    return decoded


def _decode_now(
    folder: Path, files: Sequence[ImageFile], options: PrepareOptions
) -> Future[list[DecodedFile]]:
    future: Future[list[DecodedFile]] = Future()
    future.set_result(decode_files(folder, files, options))
    return future


@contextmanager
def _bare_start() -> Iterator[None]:
    """A process that starts within does not import `__main__`, which may be a user's long script,
    and leaves interrupts of the whole group to its parent from its first moment."""
    main = sys.modules["__main__"]
    can_hold = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS) if can_hold else None
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, lifeline: Connection) -> None:
    """Decode what is sent. It takes no interrupts: the parent does, and closes the lifeline."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_exit_when_closed, args=(lifeline,), daemon=True).start()
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            folder, files, options = connection.recv()
            result: list[DecodedFile] | Exception
            try:
                result = decode_files(folder, files, options)
            except Exception as error:
                result = error
            connection.send(result)


def _exit_when_closed(lifeline: Connection) -> None:
    wait([lifeline])  # nothing is ever sent: it becomes readable when the other end closes
    os._exit(1)
