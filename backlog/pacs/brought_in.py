"""What runs brought into an Orthanc: each such instance carries the runs' names as metadata, and is deleted after them.

So it can be told from what was there before, which is never deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from backlog.pacs.orthanc_rest import checked_id

if TYPE_CHECKING:
    from backlog.pacs.orthanc import Orthanc

#: Orthanc's metadata with the runs that brought an instance in; of the numbers that users have (1024 to 65535).
_RUNS: Final = "4207"

#: Keeps other processes out of a block of a name: :meth:`backlog.broker.connection.Broker.exclusive`. A mark is read
#: and written in two requests, and read once more before an image is deleted; runs beside each other do so at once.
Exclusive = Callable[[str], AbstractContextManager[None]]


def mark_brought_in(orthanc: Orthanc, instance: str, run: str, exclusive: Exclusive, *, is_new: bool) -> bool:
    """Keep with an instance in Orthanc that a run needs it, where a run brought it in.

    Parameters
    ----------
    orthanc
        Where it lies.
    instance
        Orthanc's id.
    run
        The run's name.
    exclusive
        Keeps others from marking or deleting it meanwhile.
    is_new
        It was not there before this run asked for it. Where it was, it stays another's: only what runs have brought in
        carries their names, and only that is ever deleted.

    Returns
    -------
    bool
        Whether it is there still: another run may have deleted it that brought it in.
    """
    with exclusive(instance):
        runs = _metadata(orthanc, instance, _RUNS).split()
        ours = (
            run in runs
            or bool(runs)
            or (
                is_new
                and _metadata(orthanc, instance, "Origin")
                == "DicomProtocol"  # else somebody uploaded it meanwhile
            )
        )
        try:
            if ours and run not in runs:
                _set_runs(orthanc, instance, [*runs, run])
            elif not ours:
                orthanc.rest.call("GET", f"/instances/{checked_id(instance)}")
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return False
            raise
    return True


def evict(orthanc: Orthanc, instance: str, run: str, exclusive: Exclusive) -> bool:
    """Delete an instance that a run brought in, where no other run needs it; return whether it was deleted.

    Parameters
    ----------
    orthanc
        Where it lies.
    instance
        Orthanc's id of it.
    run
        The id of the run that brought it in.
    exclusive
        Keeps others from marking or deleting it meanwhile.
    """
    with exclusive(instance):
        runs = _metadata(orthanc, instance, _RUNS).split()
        if run not in runs:
            return False
        others = [one for one in runs if one != run]
        if others:
            _set_runs(orthanc, instance, others)
            return False
        return orthanc.delete(instance)


def _metadata(orthanc: Orthanc, instance: str, name: str) -> str:
    """Return one of an instance's metadata, which are Orthanc's own; empty where it has none, or is gone."""
    try:
        return str(orthanc.rest.call("GET", f"/instances/{checked_id(instance)}/metadata/{name}").text)
    except InstanceRejected as rejected:
        if rejected.reason is Reason.NOT_IN_PACS:
            return ""
        raise


def _set_runs(orthanc: Orthanc, instance: str, runs: Sequence[str]) -> None:
    path = f"/instances/{checked_id(instance)}/metadata/{_RUNS}"
    orthanc.rest.call("PUT", path, data=" ".join(runs).encode())
