"""`files.jsonl` of a prepared folder: which file each image came from. Only `prepare` reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from genkit.data.walk import ImageFile
from genkit.errors import UsageError
from genkit.io.files import parse_json, read_file

LIST_FILE = "files.jsonl"
REMEDY = "prepare it again: genkit data prepare FOLDER --out"


class SourceFile(NamedTuple):
    """What became of a file that is an image by its name. There may be a million: hence a tuple.

    Args:
        path: relative to the folder.
        size_bytes, modified_ns: as the file system gave them.
        sha256: of the file's content.
        grey: its channels are alike.
        deep: it has 16 bits a channel.
        row: of the array, once that is written.
        left_out: why the file could not be used; then the facts about its image are None.
        transparent: it has pixels that are.
        nearest: it was scaled to the nearest pixel since it looks like pixel art.
    """

    path: str
    size_bytes: int
    modified_ns: int
    sha256: str | None = None
    grey: bool | None = None
    deep: bool | None = None
    row: int | None = None
    left_out: str | None = None
    transparent: bool | None = None
    nearest: bool | None = None

    def is_of(self, image: ImageFile) -> bool:
        """Whether this is about that file, unchanged by its size and time."""
        return (self.path, self.size_bytes, self.modified_ns) == (str(image.path), *image[1:])

    def is_worth_another_try(self) -> bool:
        """Whether the file could not be read, which may pass though the file stays as it is."""
        return (self.left_out or "").startswith("cannot be read")


def list_to_bytes(files: Sequence[SourceFile]) -> bytes:
    """The content of `files.jsonl`: a line for each file, without what is None."""
    known = ({k: v for k, v in file._asdict().items() if v is not None} for file in files)
    return "".join(f"{json.dumps(facts)}\n" for facts in known).encode()


def read_list(folder: Path, sha256: str) -> tuple[SourceFile, ...]:
    """The files that a folder was prepared from, sorted by path; `sha256` is the list's.

    Raises:
        UsageError: the list is not there, or is another one.
    """
    path = folder / LIST_FILE
    try:
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("it was changed since genkit wrote it")
        return tuple(SourceFile(**parse_json(line)) for line in content.splitlines())
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be used: {error}; {REMEDY} {folder}") from None
