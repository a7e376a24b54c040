"""Waiting for a server that is unavailable: an attempt has a budget of seconds for it, and no item pays for it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from backlog.broker.claim import Claim
from backlog.errors import BacklogError, ServiceUnavailable
from backlog.log import event
from worker.tasks.shutdown import Stopping, pause

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0

#: What is left to wait after an item that used the retry budget up, in seconds; after two in a row, nothing is.
_SECOND_RETRY_BUDGET: Final = 15.0


class RetryBudget:
    """How long one attempt still waits for servers.

    Parameters
    ----------
    claim
        The chunk, which is ours.
    seconds
        The budget, in all.
    slot_wait
        Returns how many seconds this process has ever waited for a slot at the PACS: no failure of it.
    """

    def __init__(self, claim: Claim, seconds: float, slot_wait: Callable[[], float]) -> None:
        self.left = seconds
        self._claim = claim
        self._slot_wait = slot_wait
        self._second = min(seconds, _SECOND_RETRY_BUDGET)

    def while_unavailable(self, effect: Callable[[], T], item: Any = None) -> T:
        """Do something, again and again while a server is unavailable, until the budget is used up.

        A refusal (a wrong password, another PACS, other weights) is not waited for.

        Parameters
        ----------
        effect
            What is done.
        item
            For which item, as the stage's message has it; None where it is for none.

        Raises
        ------
        ServiceUnavailable, UsageError
            Still unavailable; refused.
        ClaimLost, RunPaused, Stopping
            Another worker has the chunk, or the run is cancelled; it is paused; this process is to end.
        """
        seconds = _FIRST_PAUSE
        while True:
            started = self.clock()
            try:
                return effect()
            except ServiceUnavailable as error:
                if not self.wait_before_retry(error, self.clock() - started, seconds, item):
                    raise
            seconds = min(seconds * 2, _LONGEST_PAUSE)

    def clock(self) -> float:
        """Return the time in seconds, which stands still while this process waits for a slot at the PACS."""
        return time.monotonic() - self._slot_wait()

    def wait_before_retry(self, error: BacklogError, took: float, seconds: float, item: Any = None) -> bool:
        """Wait a little before something is tried again, where there is budget left; say what is waited for.

        Parameters
        ----------
        error
            What went wrong.
        took
            How long it took to fail, which counts as waiting.
        seconds
            How long to wait.
        item
            For which item, as the stage's message has it; None where it is for none.
        """
        self.left -= took
        if self.left <= 0:
            return False
        event(
            "service.waiting",
            logging.WARNING,
            run=self._claim.run,
            chunk=self._claim.chunk,
            **_named(item),
            error=str(error),
            seconds=round(seconds, 2),
        )
        with suppress(BacklogError):  # where it is Redis that is unavailable, the producer sees that itself
            self._claim.claims.tell(self._claim.run, str(error))
        self.wait(seconds)
        return True

    def wait(self, seconds: float) -> None:
        """Wait a little, with jitter; stopping interrupts it."""
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311  # not for secrets
        self.left -= seconds
        if pause(seconds):
            raise Stopping
        self._claim.check()

    def failed(self, in_a_row: int) -> None:
        """Note that so many items in a row used up what there was: the second waits less, the third not at all."""
        self.left = self._second if in_a_row == 1 else 0.0

    def served(self) -> None:
        """Note that a server works again after such items."""
        self.left = self._second


def _named(item: Any) -> dict[str, int]:
    """Return the numbers by which a log line names an item: what its source calls it may be a patient's name."""
    if item is None:
        return {}
    return {"item": item["i"]} | ({"number": item["no"]} if "no" in item else {})
