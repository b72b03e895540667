"""One process at a time in a folder, by a lock that the system frees when its holder ends."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from genkit.errors import UsageError, WriteError, reason_of

# What a file system answers that has no locks.
NOT_OFFERED = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
LOCK_FILES = (".lock", ".holder")


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes from doing the same in a folder.

    The system frees the lock when its process ends, whatever ends it; where the file system has no
    locks, as on some clusters, a file names the process, and others take over once it has ended.

    Raises:
        UsageError: another process does it; `doing` says what, such as "trains in".
        WriteError: the folder cannot be written to.
    """
    lock_name, holder_name = LOCK_FILES
    lock: BaseFileLock = FileLock(folder / lock_name, blocking=False)
    try:
        with warnings.catch_warnings():
            # FileLock would fall back to a file itself, but to ".lock", which is always there.
            warnings.filterwarnings("error", "flock not supported")
            try:
                lock.acquire()
            except (OSError, NotImplementedError, UserWarning) as error:
                if getattr(error, "errno", errno.ENOSYS) not in NOT_OFFERED:
                    raise
                lock = SoftFileLock(folder / holder_name, blocking=False)
                lock.acquire()
    except Timeout:
        raise UsageError(
            f"another process {doing} {folder} now; wait until it ends, or stop it"
        ) from None
    except OSError as error:
        raise WriteError(f"{folder} cannot be locked: {reason_of(error)}") from error
    try:
        yield
    finally:
        lock.release()
