"""Whether a PACS is the one that a run wrote to, though it calls itself otherwise.

The identifier of an Orthanc without ``DatabaseServerIdentifier`` in its configuration derives from its host name, MAC
address, application entity title and ports: a container that is created again has another one, over the same database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.pacs.base import Pacs
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.results.reported import state_in_pacs

if TYPE_CHECKING:
    from backlog.broker.claims import Claims

#: Reports or images that are looked for.
_SAMPLES: Final = 10

#: How often the identifier is asked for during a run, in seconds.
INTERVAL: Final = 5.0

_OWN: Final = (
    "SELECT sr_instance, sr_sha256 FROM item WHERE outcome = 'reported' AND sr_ours"
    " AND NOT EXISTS (SELECT 1 FROM retracted WHERE retracted.item = item.no AND found) ORDER BY no {order} LIMIT ?"
)
_IMAGES: Final = "SELECT instance FROM item WHERE instance <> '' ORDER BY no LIMIT ?"


class _OwnReport(NamedTuple):
    sr_instance: str
    sr_sha256: str


def is_run_pacs(ledger: Ledger, pacs: Pacs) -> bool:
    """Whether a PACS holds what a run stored there; true too of a run that has stored and listed nothing yet.

    Raises
    ------
    ServiceUnavailable, UsageError
        It doesn't answer, or refuses us.
    """
    reports = [
        row for order in ("", "DESC") for row in ledger.select(_OwnReport, _OWN.format(order=order), _SAMPLES)
    ]
    if reports:
        return any(state_in_pacs(pacs, row.sr_instance, row.sr_sha256) == "right" for row in reports)
    images = list(_images(ledger))
    return not images or any(holds(pacs, image) for image in images)


def _images(ledger: Ledger) -> Iterator[str]:
    yield from ledger.select(str, _IMAGES, _SAMPLES)
    for chunk in [*ledger.in_flight()[:1], *ledger.waiting(1)]:
        yield from (ref for _, ref in chunk.items[:_SAMPLES] if isinstance(ref, str))  # an Orthanc's own


def holds(pacs: Pacs, instance: str) -> bool:
    """Whether a PACS gives an instance."""
    try:
        pacs.header(instance)
    except InstanceRejected:
        return False
    return True


def another_pacs(address: str) -> UsageError:
    """Return the error of a run whose PACS is another one now."""
    return UsageError(
        f"the PACS at {address} is not the one that this run began with: it has another identifier, and nothing of what"
        " the run stored or listed. Put it, or the run's folder, back where it was, or begin a new run. (An Orthanc"
        " keeps its identifier when DatabaseServerIdentifier stands in its configuration.)"
    )


class IdentityWatch:
    """Follows the identifier of a run's PACS while the run is at work, and tells the workers."""

    def __init__(
        self,
        ledger: Ledger,
        claims: Claims,
        pacs: Pacs,
        address: str,
        job: RunJob,
        say: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._claims = claims
        self._pacs = pacs
        self._address = address
        self._job = job
        self._say = say
        self._next = 0.0

    def check(self) -> None:
        """Ask, now and then.

        Raises
        ------
        UsageError
            Another PACS is there.
        """
        job = self._job.now()
        if not job["pacs"] or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL
        with suppress(ServiceUnavailable):
            identity = self._pacs.identity()
            if identity != job["pacs"]:
                if not is_run_pacs(self._ledger, self._pacs):
                    raise another_pacs(self._address)
                self._say(RENAMED)
                self._job.learn({"pacs": identity})
            self._claims.set_pacs(job["run"], identity)


#: What the user is told.
RENAMED: Final = (
    "The PACS has another identifier than before and holds what this run stored: it counts as the same. An Orthanc"
    " keeps its identifier when DatabaseServerIdentifier stands in its configuration."
)
