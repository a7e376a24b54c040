"""What is told to people who don't watch: by mail, a webhook, a chat, whatever apprise reaches.

A message holds the run's name, counts and what happens to it: no path, no name of a file or server, nothing of a
patient.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from backlog.errors import UsageError
from backlog.log import silenced
from producer.dispatch.context import Silent
from producer.translation import t

if TYPE_CHECKING:
    from producer.dispatch.progress import RunProgress
from producer.results.exports import Summary

#: Without any progress for so long, in seconds, somebody is told.
_LONG: Final = 600.0

#: How long the end of a run waits for its last message, in seconds.
_LAST_WORD: Final = 15.0


class Notifier(Silent):
    """Tells people what happens to a run. A message that can't be sent is said, and costs the run nothing.

    Parameters
    ----------
    addresses
        apprise's addresses, one a line or between spaces. They may hold passwords, and are never shown.
    run
        The run's name.
    say
        Called with a line for the user.
    long
        Seconds without progress after which somebody is told.

    Raises
    ------
    UsageError
        apprise isn't installed, or knows no such address.
    """

    def __init__(
        self, addresses: str, run: str, say: Callable[[str], object], *, long: float = _LONG
    ) -> None:
        with silenced("apprise"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            try:
                import apprise  # an extra's library
            except ImportError as error:
                raise UsageError(
                    "notifications need the library apprise: pip install 'cxr-backlog[notify]'"
                ) from error
            self._receivers = apprise.Apprise()
            for number, address in enumerate(addresses.split(), 1):
                if not self._receivers.add(address):
                    raise UsageError(f"address {number} of CXR_NOTIFY or --notify is none that apprise knows")
        self._run, self._say, self._long = run, say, long
        self._sending: list[threading.Thread] = []
        self._failed = threading.Event()
        self._seen: tuple[int, ...] = ()
        self._moved = time.monotonic()
        self._told = False

    def on_progress(self, progress: RunProgress) -> None:
        """Notice that nothing moves for long, and say where a message could not be sent."""
        if self._failed.is_set():
            self._failed.clear()
            self._say(t("A notification could not be sent: see CXR_NOTIFY. The run goes on."))
        seen = (progress.uploaded, progress.inferred, progress.tally.ended)
        idle = progress.paused or progress.outside_hours or progress.done
        if seen != self._seen or idle:
            if self._told and seen != self._seen and not progress.done:
                self.tell(t("It moves again."), progress)
            self._seen, self._moved, self._told = seen, time.monotonic(), False
        elif not self._told and time.monotonic() - self._moved >= self._long:
            self._told = True
            minutes = round(self._long / 60)
            if not progress.waiting_reason or progress.standing_still:
                what = t("Nothing has moved for {minutes} minutes: are workers running?")
            else:
                what = t("A server or a disk has been unavailable for {minutes} minutes.")
            self.tell(what.format(minutes=minutes), progress)

    def on_pause(self, progress: RunProgress) -> None:
        """Tell that the run has paused by itself."""
        self.tell(t("It has paused by itself: too many of its items are quarantined."), progress)

    def ended(self, summary: Summary) -> None:
        """Tell that the run is complete, and wait a little until that is sent.

        Parameters
        ----------
        summary
            What summary.json says.
        """
        counts = {
            t("total"): int(summary["total"]),
            t("reported"): int(summary["reported"]),
            t("skipped"): sum(summary["skipped"].values()),
            t("quarantined"): sum(summary["quarantined"].values()),
        }
        if follows := summary.get("follows"):
            complete = t("The day {day} is complete, and the next one begins.").format(day=follows["day"])
        else:
            complete = t("It is complete.")
        self._send(complete, counts)
        self.wait_until_sent()

    def failed(self) -> None:
        """Tell that the run can't go on by itself, and wait a little until that is sent."""
        self._send(t("It can't go on until somebody looks at it."), {})
        self.wait_until_sent()

    def wait_until_sent(self) -> None:
        """Wait a little for what is being sent; say where it could not be."""
        deadline = time.monotonic() + _LAST_WORD
        for thread in self._sending:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._failed.is_set() or any(thread.is_alive() for thread in self._sending):
            self._say(t("A notification could not be sent: see CXR_NOTIFY."))

    def tell(self, what: str, progress: RunProgress) -> None:
        """Send what happens, with the counts."""
        tally = progress.tally
        counts = {
            t("total"): progress.listed,
            t("reported"): tally.reported,
            t("skipped"): sum(tally.skipped.values()),
            t("quarantined"): sum(tally.quarantined.values()),
        }
        self._send(what, counts)

    def _send(self, what: str, counts: dict[str, int]) -> None:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        body = f"{what} {text}." if text else what
        title = f"cxr-backlog {self._run}"
        thread = threading.Thread(target=self._deliver, args=(title, body), name="notify", daemon=True)
        self._sending = [one for one in self._sending if one.is_alive()] + [thread]
        thread.start()

    def _deliver(self, title: str, body: str) -> None:
        try:
            with silenced("apprise"):
                sent = bool(self._receivers.notify(body=body, title=title))
        except Exception:  # noqa: BLE001  # a hundred services' plug-ins: none may cost the run anything
            sent = False
        if not sent:
            self._failed.set()
