"""Event files of one run: its metrics.jsonl and sample grids as TensorBoard reads them.

The events follow metrics.jsonl. A run that resumes drops the lines that it will write again, so all
events are written again from that file: no point is there twice, and those are there that were
logged before TensorBoard was turned on.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

FOLDER = "tensorboard"
COUNTS = ("step", "images", "seconds")  # in each line: when it was logged, not a curve
GRID = re.compile(r"(step|reconstructions)-(\d{9})\.png")
TAGS = {"step": "samples", "reconstructions": "reconstructions"}


class Events:
    """Writes a run's events into its folder "tensorboard". Nothing is written before the first
    event, since the log is cut only after a training has started.

    Raises OSError where a file cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._file: Any = None
        self._writer: RecordWriter | None = None
        self._read = 0  # bytes of metrics.jsonl
        self._step = 0
        self._seconds = 0.0  # of training, which is the clock of all events
        self._origin = 0.0  # when that clock showed 0
        self._shown: set[str] = set()  # names of grids

    def follow(self, step: int) -> None:
        """Add what is new in the log, and the grids that are new up to a step."""
        rows = self._new_rows()
        self._step = max(step, self._step)
        if self._writer is None:
            self._start(rows)
        for row in rows:
            self._seconds = row.get("seconds", self._seconds)
            if values := list(_values(row)):
                self._add(row.get("step", 0), values)
        for path in sorted((self.run / "samples").glob("*.png")):
            match = GRID.fullmatch(path.name)
            # Later grids are of an interrupted training, which will write them again.
            if match and path.name not in self._shown and int(match[2]) <= self._step:
                self._shown.add(path.name)
                self._add(int(match[2]), [_image(TAGS[match[1]], path.read_bytes())])
        self._file.flush()

    def _start(self, rows: list[dict[str, Any]]) -> None:
        """Open a new event file and empty those of earlier trainings of this run."""
        past = [row["seconds"] for row in rows if "seconds" in row]
        self._origin = time.time() - max(past, default=0.0)
        folder = self.run / FOLDER
        folder.mkdir(exist_ok=True)
        old = list(folder.glob("events.out.tfevents.*"))
        self._file = open(folder / f"events.out.tfevents.{time.time_ns()}", "wb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # So that a TensorBoard that has read the old file drops its points.
        self._write(step=0, session_log=SessionLog(status=SessionLog.START))
        for path in old:
            if path.stat().st_size:  # a TensorBoard that reads it would be stuck if it were gone
                os.truncate(path, 0)
            else:
                path.unlink()

    def _new_rows(self) -> list[dict[str, Any]]:
        """The complete lines of the log that were not read yet."""
        with open(self.run / "metrics.jsonl", "rb") as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        return [json.loads(line) for line in lines]

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        assert self._writer is not None
        event = Event(wall_time=self._origin + self._seconds, **content)
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Add what is left, up to the step that was saved last, and close the file."""
        saved = self.run / "summary.json"
        self.follow(json.loads(saved.read_bytes())["step"] if saved.exists() else 0)
        self._file.close()


def _values(row: dict[str, Any]) -> Iterator[Summary.Value]:
    """A line's numbers as points of curves, and its warning as text."""
    for name, value in row.items():
        if name in COUNTS or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield Summary.Value(tag=name, simple_value=value)
        elif name == "warning":
            plugin = SummaryMetadata.PluginData(plugin_name="text")
            yield Summary.Value(
                tag=name,
                metadata=SummaryMetadata(plugin_data=plugin),
                tensor=TensorProto(
                    dtype=DT_STRING,
                    string_val=[str(value).encode()],
                    tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
                ),
            )


def _image(tag: str, png: bytes) -> Summary.Value:
    """A PNG file as an image; its header says how large it is."""
    width, height = (int.from_bytes(png[place : place + 4], "big") for place in (16, 20))
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
    return Summary.Value(tag=tag, image=image)
