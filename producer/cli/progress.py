"""What the user sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from backlog.broker.messages import TASKS, Stage, stages_from
from producer.dispatch.progress import RunProgress
from producer.translation import decimal, t, translated

#: Seconds between plain lines, while nothing but the counts changes.
_LINE_EVERY: Final = 60.0

#: Least seconds between plain lines, however much changes.
_LINE_LEAST: Final = 5.0

#: Below so many columns the bar is left out; below so many the time left too. Counts always stay.
_BAR_FROM: Final = 72
_TIME_FROM: Final = 54


class Bars(AbstractContextManager["Bars"]):
    """A live bar for each stage, with rate, time left and, below them, what is unusual."""

    def __init__(self, first: Stage, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.stages = StageBars(self.console)
        self._tasks: dict[str, TaskID] = {
            TASKS[stage]: self._add(TASKS[stage]) for stage in stages_from(first)
        }
        self._rate = _Rate()

    def _add(self, name: str) -> TaskID:
        return self.stages.add_task(t(name), total=None, rate="")

    def __enter__(self) -> Self:
        self.stages.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stages.end()

    def show(self, seen: RunProgress) -> None:
        """Update the bars."""
        done = {"upload": seen.uploaded, "infer": seen.inferred, "report": seen.tally.ended}
        done["retrieve"] = seen.uploaded
        for name, task in self._tasks.items():
            rate = self._rate.text(name, done[name])
            self.stages.update(task, completed=done[name], total=seen.total, rate=rate)
        listing = (
            ""
            if seen.all_listed or seen.following
            else t("listing: {count} so far").format(count=seen.listed)
        )
        self.stages.note = ", ".join(filter(None, (listing, note(seen))))
        self.stages.doing, self.stages.begun = None, True

    def doing(self, text: str) -> None:
        """Show what is being done, and for how long: there are no counts to look at."""
        self.stages.doing = (translated(text), time.monotonic())

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(escape(translated(text)), highlight=False)


class StageBars(Progress):
    """Bars that leave the counts their room on a narrow terminal, with a line of text below."""

    def __init__(self, console: Console) -> None:
        self.note = ""
        self.begun = False  #: whether there is anything to count
        self.doing: tuple[str, float] | None = None  #: what else is being done, and since when
        self._ended = False
        super().__init__(
            TextColumn("{task.description:<9}"),
            _Bar(console),
            _Count(),
            TextColumn("{task.fields[rate]:>8}"),
            _TimeLeft(console),
            console=console,
        )

    def end(self) -> None:
        """Leave on the screen what was counted, without what was done last."""
        self.doing, self._ended = None, True
        self.stop()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, and the note; before there is anything to count, what is being done alone."""
        if self.begun or (self.doing is None and not self._ended):
            yield self.make_tasks_table(self.tasks)
        if self.doing is not None:
            text, since = self.doing
            yield Text(f"{text} … {time.monotonic() - since:.0f} s", overflow="fold")
        elif self.note:
            yield Text(self.note, overflow="fold")


class _Bar(BarColumn):
    """A bar where there is room for one, and empty while the total is not known: a full one would look done."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Any:  # rich asks for its own bar
        if self._console.width < _BAR_FROM or task.total is None:
            return Text("")
        return super().render(task)


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{int(task.total)}"
        return Text(f"{int(task.completed):>{len(total)}}/{total}")


class _TimeLeft(TimeRemainingColumn):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        return Text("") if self._console.width < _TIME_FROM else super().render(task)


class Lines(AbstractContextManager["Lines"]):
    """A line when something changes but the counts, else every minute: for logs and pipes."""

    def __init__(self) -> None:
        self._last = -_LINE_EVERY
        self._state: tuple[object, ...] = ()
        self._rate = _Rate()

    def __exit__(self, *_: object) -> None:
        """Nothing to put right."""

    def show(self, seen: RunProgress) -> None:
        """Print a line when it is time, when something changes, and at the end."""
        state = (seen.waiting_reason, seen.paused, seen.done, seen.all_listed)
        since = time.monotonic() - self._last
        if not seen.done and since < (_LINE_LEAST if state != self._state else _LINE_EVERY):
            return
        if seen.done and state == self._state:
            return  # said already
        self._last, self._state = time.monotonic(), state
        of = f"/{seen.total}" if seen.total is not None else "/?"
        text = t("uploaded {uploaded}, inferred {inferred}, ended {ended}").format(
            uploaded=f"{seen.uploaded}{of}", inferred=f"{seen.inferred}{of}", ended=f"{seen.tally.ended}{of}"
        )
        self.say(" ".join(filter(None, (text, self._rate.text("report", seen.tally.ended), note(seen)))))

    def doing(self, text: str) -> None:
        """Print a line: what is being done takes seconds, and nothing else is printed meanwhile."""
        self.say(f"{translated(text)} …")

    def say(self, text: str) -> None:
        """Print a line."""
        sys.stdout.write(translated(text) + "\n")
        sys.stdout.flush()


class _Rate:
    """Items per second over the last half minute."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def text(self, name: str, count: int) -> str:
        now = time.monotonic()
        seen = self._seen.setdefault(name, [])
        if seen and count < seen[-1][1]:
            seen.clear()  # the next day of a followed source
        if not seen or now - seen[-1][0] > 0.5:
            seen.append((now, count))
        while len(seen) > 2 and now - seen[0][0] > 30:
            seen.pop(0)
        span = now - seen[0][0]
        return f"{decimal((count - seen[0][1]) / span, 1)}/s" if span > 1 else ""


def note(seen: RunProgress) -> str:
    """Return what is unusual about a run at this moment, in a line."""
    parts = [t("following: {count} so far").format(count=seen.listed)] if seen.following else []
    quarantined = sum(seen.tally.quarantined.values())
    if quarantined:
        parts.append(t("quarantined {count}").format(count=quarantined))
    if seen.resent:
        parts.append(t("sent again {count}").format(count=seen.resent))
    if seen.paused:
        parts.append(t("PAUSED"))
    if seen.waiting_reason:
        parts.append(t("waiting: {reason}").format(reason=translated(seen.waiting_reason)))
    return ", ".join(parts)


def display(first: Stage) -> Bars | Lines:
    """Return bars on a terminal, lines elsewhere."""
    return Bars(first) if sys.stdout.isatty() else Lines()
