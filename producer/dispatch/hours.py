"""The hours of the day at which a run sends work: ``--between 20:00-06:00``, in a time zone that has a name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from backlog.errors import UsageError

_SPAN: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*[-–]\s*([0-9]{1,2}):([0-9]{2})")

#: What Unix systems keep of their time zone: a link into the zones, or a text.
_LOCALTIME: Final = Path("/etc/localtime")
_TIMEZONE: Final = Path("/etc/timezone")


@dataclass(frozen=True)
class Hours:
    """A span of each day by the clock on the wall; it may cross midnight.

    Where clocks are changed it is by the new time at once: an hour that is left out shortens the span, one that comes
    twice counts both times.
    """

    begin: time
    end: time
    zone: str  #: IANA name, as America/Sao_Paulo

    @classmethod
    def parse(cls, span: str, zone: str) -> Hours:
        """Read a span.

        Parameters
        ----------
        span
            ``20:00-06:00``.
        zone
            The IANA name of its time zone; empty for this machine's.

        Raises
        ------
        UsageError
            It is no span of hours, or no time zone of this name is known.
        """
        found = _SPAN.fullmatch(span.strip())
        begin, end = (_time(found[1], found[2]), _time(found[3], found[4])) if found else (None, None)
        if begin is None or end is None or begin == end:
            raise UsageError(f"{span!r} is no span of hours: write it as 20:00-06:00")
        zone = zone.strip() or local_zone()
        check_zone(zone)
        return cls(begin, end, zone)

    def is_open(self, now: datetime) -> bool:
        """Whether a moment lies in the span; its beginning does, its end doesn't."""
        clock = now.astimezone(ZoneInfo(self.zone)).time()
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def __str__(self) -> str:
        """As a user writes it, with its zone."""
        return f"{self.begin:%H:%M}-{self.end:%H:%M} {self.zone}"


def check_zone(zone: str) -> None:
    """Refuse a time zone whose name is not known here. Raises UsageError."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"{zone!r} is no time zone that is known here: write it as America/Sao_Paulo"
        ) from error


def _time(hour: str, minute: str) -> time | None:
    """Return a time of the day, 24:00 for midnight; None where there is none such."""
    if int(hour) > 24 or int(minute) > 59 or (int(hour) == 24 and int(minute)):
        return None
    return time(int(hour) % 24, int(minute))


def local_zone(localtime: Path = _LOCALTIME, timezone: Path = _TIMEZONE) -> str:
    """Return the IANA name of this machine's time zone.

    Raises
    ------
    UsageError
        It has none that can be told.
    """
    target = str(localtime.resolve())
    if "/zoneinfo/" in target:
        return target.partition("/zoneinfo/")[2].removeprefix("posix/").removeprefix("right/")
    try:
        named = timezone.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        named = ""
    if named:
        return named
    raise UsageError("this machine's time zone has no name: give one, as --time-zone America/Sao_Paulo")


def utc_now() -> datetime:
    """Return this moment."""
    return datetime.now(UTC)


Clock = Callable[[], datetime]
