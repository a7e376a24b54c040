"""What was stored and can't stay is taken back, where the PACS lets us."""

from __future__ import annotations

from collections.abc import Callable

from backlog.errors import DeletionUnsupported
from backlog.pacs.base import Pacs


def withdraw(pacs: Pacs, instance: str, deleted: Callable[[], object] = lambda: None) -> str:
    """Delete an object that was just stored; return what became of it, for the record of its item.

    Parameters
    ----------
    pacs
        Where it was stored.
    instance
        The PACS's id of the object.
    deleted
        Called once it is gone.
    """
    try:
        pacs.delete(instance)
    except DeletionUnsupported:
        return (
            "it is still there, since this PACS deletes nothing for us: delete it with the PACS's own tools"
        )
    deleted()
    return "it was deleted"
