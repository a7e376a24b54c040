"""A cancelled run ends: workers release its chunks, and what they finished is kept."""

from __future__ import annotations

import time
from typing import Final

from backlog.broker.claims import Claims
from backlog.errors import ServiceUnavailable
from backlog.log import event
from producer.ledger.ledger import Ledger

_ASK_EVERY: Final = 0.1

#: A worker that holds a chunk longer than so many leases after the run was cancelled is at work on one slow image.
_MAX_LEASES: Final = 6


def settle(ledger: Ledger, claims: Claims, run: str) -> bool:
    """Cancel a run on all workers, wait until none has a chunk of it, and keep how items ended that nobody harvested.

    Parameters
    ----------
    ledger
        Of the run; this process is its only writer.
    claims
        Of the run's Redis.
    run
        The run's name.

    Returns
    -------
    bool
        Whether no worker is at work on the run any more.
    """
    deadline = time.monotonic() + _MAX_LEASES * claims.lease_ms / 1000
    chunks = {chunk.no: chunk for chunk in ledger.in_flight()}
    leased = True
    while leased and time.monotonic() < deadline:
        try:
            claims.set_state(run, "cancelled")
            states = claims.progress(run, chunks)
        except ServiceUnavailable as error:
            event("settle.waiting", error=str(error))
            time.sleep(_ASK_EVERY)
            continue
        leased = any(state.leased for state in states.values())
        if leased:
            time.sleep(_ASK_EVERY)
    if leased:
        return False
    for number, result in claims.results(run, chunks).items():
        if result.finished and len(result.records) >= len(chunks[number].items):
            ledger.harvest([(chunks[number], result.records)], {number: result.times})
            claims.forget(run, [number])
        elif result.records:
            ledger.keep_partial(chunks[number], result.records)
    return True
