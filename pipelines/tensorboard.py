"""TensorBoard's event files of a run, written from its journal."""

import importlib
import json
import struct
from pathlib import Path
from typing import Any

from pipelines.journal import Event
from pipelines.points import Points

FOLDER = "tensorboard"
PARTS = 1000
"""A writer started in the same second as another must not take its file; the number is part of the name."""


class Board:
    """Event files that are written anew from the journal's first event: nothing in them can be doubled.

    Steps that a run takes again after a restart or a roll back replace what TensorBoard showed for them.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any]) -> None:
        """Begins a file in the run's folder, and removes those of an earlier recorder once it is begun."""
        from tensorboardX.event_file_writer import EventsWriter

        folder = run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        old = list(folder.glob("events.out.tfevents.*"))
        number = 1 + max((int(path.suffix[1:]) for path in old if path.suffix[1:].isdigit()), default=0)
        self._run_dir = run_dir
        self._writer = EventsWriter(str(folder / "events"), f".{number % PARTS:03d}")
        for path in old:
            path.unlink()
        self._settings = settings
        self._points = Points()
        self._has_settings = False

    def take(self, events: list[Event]) -> None:
        """Writes the points of events, and has them reach the file."""
        for event in events:
            before = self._points.step
            points = self._points.take(event)
            if event["event"] in ("start", "steps"):
                at = event.get("first", event.get("step", 0))
                if at < before:
                    self._purge(at, event["time"])
            for point in points:
                self._scalar(point.name, point.value, point.step, point.time)
            if event["event"] == "epoch" and not self._has_settings:
                self._describe([f"{split}/{name}" for split in ("valid", "test") for name in event["metrics"]])
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Adds the plots that lie in the run's folder, and ends the file."""
        for path in sorted((self._run_dir / "plots").glob("*.png")):
            self._picture(f"plots/{path.stem}", path.read_bytes())
        if self._has_settings and not failed:
            from tensorboardX import summary

            self._summary(summary.hparams({}, {})[2])
        self._writer.close()

    def _scalar(self, name: str, value: float, step: int, time: float) -> None:
        summary = _messages("summary").Summary
        self._summary(summary(value=[summary.Value(tag=name, simple_value=value)]), step, time)

    def _describe(self, metrics: list[str]) -> None:
        from tensorboardX import summary

        settings = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in self._settings.items()
        }
        experiment, start, _ = summary.hparams(settings, dict.fromkeys(metrics, 0.0))
        self._summary(experiment)
        self._summary(start)
        self._has_settings = True

    def _picture(self, name: str, png: bytes) -> None:
        summary = _messages("summary").Summary
        width, height = struct.unpack(">II", png[16:24])  # of the PNG's first chunk
        image = summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._summary(summary(value=[summary.Value(tag=name, image=image)]), self._points.step)

    def _purge(self, step: int, time: float) -> None:
        """Tells TensorBoard that the run starts again from a step: what it has from there on is void."""
        events = _messages("event")
        start = events.SessionLog(status=events.SessionLog.START)
        self._writer.write_event(events.Event(step=step, wall_time=time, session_log=start))

    def _summary(self, summary: Any, step: int = 0, time: float = 0.0) -> None:
        self._writer.write_event(_messages("event").Event(step=step, wall_time=time, summary=summary))


def _messages(name: str) -> Any:
    """Gives a module of TensorBoard's messages, which are made when it is imported."""
    return importlib.import_module(f"tensorboardX.proto.{name}_pb2")
