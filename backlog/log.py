"""Log lines: one event and a few allow-listed fields, for people or as JSON.

A field that is not on the list is a programming error, caught by the first test that logs it: so no header's value,
no member's name and no patient can reach a log by accident. No other module asks for a logger.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

LOGGER: Final = logging.getLogger("cxr")

#: What a log line may say. Numbers, hashes, closed sets, and addresses that the operator chose.
ALLOWED: Final = frozenset(
    "run chunk stage item items reason detail attempt ms count waiting error at exit worker service engine weights"
    " state seconds limit threads images rate pid choice difference url version number".split()
)


def event(name: str, level: int = logging.INFO, **fields: object) -> None:
    """Log one event.

    Parameters
    ----------
    name
        What happened, as ``subject.verb``: ``instance.rejected``.
    level
        As in :mod:`logging`.
    **fields
        From :data:`ALLOWED`.

    Raises
    ------
    ValueError
        A field is not on the list.
    """
    LOGGER.log(level, name, extra={"fields": _allowed(fields)})


def warn(name: str, text: str, **fields: object) -> None:
    """Warn the producer's user: a sentence for the terminal, an event for a log.

    The sentence may name files and folders, which may be named after patients. So a JSON line holds the event and
    its fields without the sentence.

    Parameters
    ----------
    name
        What happened, as in :func:`event`.
    text
        The same as an English sentence.
    **fields
        From :data:`ALLOWED`.

    Raises
    ------
    ValueError
        A field is not on the list.
    """
    LOGGER.warning("%s", text, extra={"event": name, "fields": _allowed(fields)})


def _allowed(fields: dict[str, object]) -> dict[str, object]:
    unknown = fields.keys() - ALLOWED
    if unknown:
        raise ValueError(f"log fields that are not on the list: {sorted(unknown)}")
    return fields


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
        name = getattr(record, "event", None) or record.getMessage()
        head = {"time": _time(record), "level": record.levelname.lower(), "event": name}
        return json.dumps(head | getattr(record, "fields", {}), default=str)


class _Shown(logging.Handler):
    """Hands what :func:`warn` says to the code that speaks with the user."""

    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage() if hasattr(record, "event") else _Human().format(record))


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
    _use(handler, level)


def set_up_terminal(show: Callable[[str], object]) -> None:
    """Hand each warning to ``show`` as a sentence in English, and log nothing less."""
    _use(_Shown(show), logging.WARNING)


def _use(handler: logging.Handler, level: int) -> None:
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level)
    LOGGER.propagate = False


@contextmanager
def silenced(library: str) -> Iterator[None]:
    """Keep a library from logging for a while: it may quote values, which are a patient's."""
    logger = logging.getLogger(library)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def errors_alone(library: str) -> None:
    """Let a library log nothing below an error from now on."""
    logging.getLogger(library).setLevel(logging.ERROR)


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
