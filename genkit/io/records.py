"""Records: what genkit writes to disk and reads again, each a frozen pydantic model.

A record is written and read only through its class, so that its fields are its documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genkit.errors import GenkitError, printable
from genkit.io.files import JsonObject, read_json, write_json

_LONE = re.compile("[\ud800-\udfff]")  # half a pair, for a byte of a file name that is not UTF-8


class Record(BaseModel):
    """Base of all records: frozen, strictly typed, finite.

    Unknown keys are ignored, so that an older genkit reads what a newer one wrote; a field that
    is new needs a default, so that a newer one reads what an older one wrote.
    """

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,
        protected_namespaces=(),
    )

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The record in parsed JSON; ValueError, which names the field, if it is not one."""
        if not isinstance(content, Mapping):
            raise ValueError(f"it is not a table but {content!r:.80}")
        try:
            text = json.dumps(content, ensure_ascii=False)
            # pydantic reads no lone halves: they are kept as the escapes that people are shown.
            return cls.model_validate_json(_LONE.sub(lambda half: rf"\\u{ord(half[0]):x}", text))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise ValueError(f"{where!r} is missing") from None
            found = printable(f"{first['input']!r:.80}")
            raise ValueError(f"{where!r} cannot be {found}: {first['msg']}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record; GenkitError, which names file and field, if it is damaged."""
        content = read_json(path)
        try:
            return cls.from_json(content)
        except ValueError as error:
            raise GenkitError(f"{path}: {error}") from None

    def to_json(self) -> JsonObject:
        """The record as JSON holds it."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write the record atomically; WriteError if that is not possible."""
        write_json(path, self.to_json())


class BestPointer(Record):
    """`checkpoints/best.json`: which weights scored best so far, and by what."""

    step: int = Field(description="iterations done when these weights were drawn from")
    file: str = Field(description="name of the file of weights beside it")
    sha256: str = Field(description="of that file, in hex")
    column: str = Field(description="name of the score")
    value: float = Field(description="what it was")
