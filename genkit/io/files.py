"""Files that are whole or not there: atomic writes, bounded reads, strict JSON, new folders."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, UsageError, WriteError, reason_of
from genkit.io.locks import NOT_OFFERED

MOST_JSON_BYTES = 64 * 2**20
JsonObject = dict[str, Any]  # of JSON whose fields other code knows


def user_cache() -> Path:
    """The user's cache folder for genkit. A user without a home, as in a container with an unknown
    user id, has one among the temporary files."""
    from platformdirs import user_cache_path  # for nothing else

    try:
        return user_cache_path("genkit", appauthor=False)
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"genkit-{os.getuid()}"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part of it.

    Raises:
        WriteError: it could not be written; the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise WriteError(f"{path} could not be written: {reason_of(error)}") from error
    finally:
        with suppress(OSError):  # it is gone already if all went well
            temporary.unlink()


def sync_directory(path: Path) -> None:
    """Make renames in a directory survive a power cut, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in NOT_OFFERED:
                raise
        finally:
            os.close(descriptor)


def saved(save: Callable[[BytesIO], object]) -> bytes:
    """The bytes that `save` writes into the file it is given."""
    buffer = BytesIO()
    save(buffer)
    return buffer.getvalue()


def is_free(folder: Path) -> bool:
    """Whether a folder can be filled without touching anything: it is not there, or empty."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def check_free(folder: Path, option: str) -> None:
    """Raise UsageError, which names the option, unless a folder is new or empty."""
    try:
        free = is_free(folder)
    except OSError as error:
        raise UsageError(f"{option} {folder} cannot be read: {reason_of(error)}") from None
    if not free:
        raise UsageError(f"{option} {folder} exists and is not empty; choose another folder")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused, since JSON has none."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
    except ValueError as error:
        raise WriteError(f"{path} could not be written: {error}") from error
    write_atomic(path, (text + "\n").encode())


def read_file(path: Path, most_bytes: int | None = None) -> bytes:
    """All of a regular file; OSError for anything else, for instance a pipe, which would block."""

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        if most_bytes is not None and status.st_size > most_bytes:
            raise OSError(f"it has {status.st_size:,} bytes, the most are {most_bytes:,}")
        return file.read()


def parse_json(content: bytes | str) -> Any:
    """UTF-8 JSON by the letter; ValueError for NaN and infinities, also such as 1e999, for a key
    that is there twice, and for what is nested too deeply to be read."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"the key {key!r:.80} is there twice")
        return found

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text:.20} is not a number that can be used")
        return value

    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Read JSON; GenkitError if the file is missing, damaged or larger than any that is written."""
    try:
        return parse_json(read_file(path, MOST_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise GenkitError(f"{path} cannot be read: {reason_of(error)}") from error
