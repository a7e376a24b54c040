"""A run's first chunks go one by one to a PACS that may delete for each image that it stores."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from backlog.broker.messages import Stage

if TYPE_CHECKING:
    from backlog.broker.claims import ChunkProgress

#: Chunks that go one by one: of 1, 2, 4, 8, 16, 32 images. What a listing skips is in no chunk.
_CHUNKS: Final = 6


class SlowStart:
    """Holds a run's next chunk back until the images of the one before are stored, and the PACS was looked at since.

    In each step the PACS is looked at between :meth:`note` and :attr:`room`, where ``stored`` has changed since it was
    looked at last.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.on = wanted  #: whether chunks go one by one
        self._not_stored = 0
        self.stored = 0  #: chunks whose images the PACS has, as of this step

    def note(self, ended: int, in_flight: Iterable[int], states: Mapping[int, ChunkProgress]) -> None:
        """Count the chunks whose images are stored.

        Parameters
        ----------
        ended
            How many chunks of the run are over.
        in_flight
            The numbers of those that are not.
        states
            What Redis knows of them.
        """
        if not self.on:
            return
        stored = [
            (state := states.get(number)) is not None and state.stage >= Stage.INFER for number in in_flight
        ]
        self.stored = ended + sum(stored)
        self._not_stored = len(stored) - sum(stored)
        self.on = self.stored < _CHUNKS

    @property
    def room(self) -> int:
        """How many chunks may be sent: 0 or 1 while it is on, else as many as one likes."""
        return max(0, 1 - self._not_stored) if self.on else sys.maxsize
