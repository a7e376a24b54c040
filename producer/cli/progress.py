"""What the user sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from backlog.broker.messages import Stage
from producer.dispatch.progress import RunProgress as Seen

#: Seconds between plain lines.
_LINE_EVERY = 10.0


class Bars(AbstractContextManager["Bars"]):
    """A live bar for each stage, with rate, time left and the count of quarantined items."""

    def __init__(self, first: Stage) -> None:
        self.console = Console()
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        names = ["upload", "infer", "report"][first:]
        self._tasks: dict[str, TaskID] = {name: self._add(name) for name in names}
        self._rate = _Rate()

    def _add(self, name: str) -> TaskID:
        return self._progress.add_task(name, total=None, rate="", note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, seen: Seen) -> None:
        """Update the bars."""
        done = {"upload": seen.uploaded, "infer": seen.inferred, "report": seen.tally.ended}
        for name, task in self._tasks.items():
            fields: dict[str, Any] = {"rate": self._rate.text(name, done[name])}
            if name == "report":
                fields["note"] = _note(seen)
            self._progress.update(task, completed=done[name], total=seen.total, **fields)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(escape(text), highlight=False)


class Lines(AbstractContextManager["Lines"]):
    """A line every few seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._last = 0.0
        self._trouble = ""
        self._rate = _Rate()

    def __exit__(self, *_: object) -> None:
        """Nothing to put right."""

    def show(self, seen: Seen) -> None:
        """Print a line when it is time, when there is trouble, and at the end."""
        now = time.monotonic()
        if now - self._last < _LINE_EVERY and not seen.done and seen.waiting_reason == self._trouble:
            return
        self._last, self._trouble = now, seen.waiting_reason
        of = f"/{seen.total}" if seen.total is not None else ""
        rate = self._rate.text("report", seen.tally.ended)
        self.say(
            f"uploaded {seen.uploaded}{of}, inferred {seen.inferred}{of}, ended {seen.tally.ended}{of}"
            f" {rate} {_note(seen)}".rstrip()
        )

    def say(self, text: str) -> None:
        """Print a line."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class _Rate:
    """Items per second over the last half minute."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def text(self, name: str, count: int) -> str:
        now = time.monotonic()
        seen = self._seen.setdefault(name, [])
        if not seen or now - seen[-1][0] > 0.5:
            seen.append((now, count))
        while len(seen) > 2 and now - seen[0][0] > 30:
            seen.pop(0)
        span = now - seen[0][0]
        return f"{(count - seen[0][1]) / span:.1f}/s" if span > 1 else ""


def _note(seen: Seen) -> str:
    parts = []
    quarantined = sum(seen.tally.quarantined.values())
    if quarantined:
        parts.append(f"quarantined {quarantined}")
    if seen.resent:
        parts.append(f"sent again {seen.resent}")
    if seen.paused:
        parts.append("PAUSED")
    if seen.waiting_reason:
        parts.append(f"waiting: {seen.waiting_reason}")
    return ", ".join(parts)


def display(first: Stage) -> Bars | Lines:
    """Return bars on a terminal, lines elsewhere."""
    return Bars(first) if sys.stdout.isatty() else Lines()
