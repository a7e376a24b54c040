"""Log lines: one event and a few allow-listed fields, for people or as JSON.

A field that is not on the list is a programming error, caught by the first test that logs it: so no header's value,
no member's name and no patient can reach a log by accident.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Final

LOGGER: Final = logging.getLogger("cxr")

#: What a log line may say. Numbers, hashes, closed sets, and addresses that the operator chose.
ALLOWED: Final = frozenset(
    "run chunk stage item items reason detail attempt ms count waiting error at exit worker service engine weights"
    " state seconds limit threads images rate pid".split()
)


def event(name: str, level: int = logging.INFO, **fields: object) -> None:
    """Log one event.

    Parameters
    ----------
    name
        What happened, as ``subject.verb``: ``instance.rejected``.
    fields
        From :data:`ALLOWED`.
    """
    unknown = fields.keys() - ALLOWED
    if unknown:
        raise ValueError(f"log fields that are not on the list: {sorted(unknown)}")
    LOGGER.log(level, name, extra={"fields": fields})


def where(error: BaseException) -> str:
    """Return an error's type and place, without its text: that may quote a header's value."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{error.__class__.__name__}{place}"


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        words = " ".join(f"{key}={_clean(str(value))}" for key, value in fields.items())
        return f"{_time(record)} {record.levelname.lower():7} {record.getMessage()} {words}".rstrip()


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(head | getattr(record, "fields", {}), default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _clean(text: str) -> str:
    """Keep a field on one line and free of control characters."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return f'"{shown}"' if " " in shown else shown


def set_up(form: str, level: int = logging.INFO) -> None:
    """Send our events to standard error; ``form`` is ``human`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Human())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level)
    LOGGER.propagate = False


def printable(text: str, most: int = 1000) -> str:
    """Return a text that came from elsewhere as one line that a terminal may show.

    Parameters
    ----------
    text
        Of another process, a server or a message: an escape sequence in it could rewrite the screen.
    most
        Characters that are left of it.
    """
    return "".join(c if c.isprintable() else "?" for c in text)[:most]
