"""Items that end without the workers: given up by the operator, or left when nothing else is.

An item that a server fails on ends by what the run's other items tell (:mod:`backlog.fault_attribution`). Of the last
items of a run nothing tells any more. They end where the PACS took others of this run, answers still, and has failed
on them alone for long; never where more than a few are left, as in an outage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from backlog.broker.claims import ChunkProgress
from backlog.fault_attribution import Operation, Verdict
from producer.dispatch.context import RunContext, RunObserver
from producer.ledger.chunks import ChunkRow

#: Items that may be left at most, and for how long, in seconds: shorter where others were served since it failed first.
_MAX_LEFT: Final = 3
LEFT_SECONDS: Final = 300.0
_LEFT_AGAIN_SECONDS: Final = 60.0


def give_up(
    context: RunContext,
    observer: RunObserver,
    in_flight: Mapping[int, ChunkRow],
    states: Mapping[int, ChunkProgress],
) -> Iterator[int]:
    """End the items that the operator gives up, and those that nothing is left to be compared with.

    Parameters
    ----------
    context
        The run.
    observer
        Is told of each item.
    in_flight
        The run's chunks that are not harvested, by number.
    states
        What Redis knows of them.

    Yields
    ------
    int
        A chunk in flight that is over with its item.
    """
    numbers, detail = _requested(context), "given up by the operator"
    if not numbers:
        numbers, detail = (
            _left_alone(context, in_flight, states),
            "the PACS fails on it whenever it comes, works otherwise, and nothing else of the run is left",
        )
    for item in numbers:
        chunk = context.ledger.give_up(item, detail)
        if chunk is None:
            observer.notify(f"Item {item} was not given up: it has ended, or is not listed.")
            continue
        context.claims.forget(context.run, [chunk])
        yield chunk
        observer.notify(f"Item {item} is given up: {detail}.")


def _requested(context: RunContext) -> list[int]:
    """Return the items that the operator gave up since the last look, and forget the request."""
    try:
        text = context.give_up_file.read_text(encoding="ascii")
    except OSError:
        return []
    context.give_up_file.unlink(missing_ok=True)
    return [int(line) for line in text.split() if line.isdecimal()]


def _left_alone(
    context: RunContext, in_flight: Mapping[int, ChunkRow], states: Mapping[int, ChunkProgress]
) -> list[int]:
    """Return the last items of a run that the PACS fails on, once nothing is left to compare them with."""
    ledger = context.ledger
    if not in_flight or not ledger.get("all_listed", False) or len(in_flight) > _MAX_LEFT:
        return []
    served = context.claims.served(context.run)
    for number in in_flight:
        state = states.get(number)
        if state is None or state.back_operation not in (Operation.READ.value, Operation.WRITE.value):
            return []
        history = ledger.history(number)
        history.served(served.get(Operation(state.back_operation), 0))
        again = history.verdict is not Verdict.OUTAGE
        if state.back_seconds < (_LEFT_AGAIN_SECONDS if again else LEFT_SECONDS):
            return []
    left = [item for chunk in in_flight.values() for item, _ in chunk.items if ledger.item(item) is None]
    tally = ledger.tally()
    if len(left) > _MAX_LEFT or not tally.reported or int(ledger.get("listed", 0)) - tally.ended != len(left):
        return []
    return left if context.pacs_answers() else []
