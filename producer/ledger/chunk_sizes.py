"""How many images each message carries: few at a run's begin and end, many between.

A stage can begin when the first chunk has left the one before it, and the last chunk of a run has one worker
while the others wait. So chunks grow with what is listed already and shrink with what is left (guided
self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on Computers 36 (1987) 1425). A message costs a few
milliseconds, which is why those between are large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Images in a chunk, by the number of the run's images that were listed before it.
ChunkSizes = Callable[[int], int]

#: The size at both ends, where the run is long enough for it.
_LEAST: Final = 4


def even(size: int) -> ChunkSizes:
    """Return chunks of one size."""
    return lambda _: size


def guided(most: int, workers: int, total: int | None) -> ChunkSizes:
    """Return chunks that grow at a run's begin and shrink at its end.

    Parameters
    ----------
    most
        Images in a chunk at most, 1 to 64.
    workers
        Inference processes; where they are not known, 1.
    total
        The run's images; None where only the listing will tell, and then nothing shrinks.
    """
    workers = max(1, workers)
    least = _LEAST if total is None else max(1, min(_LEAST, total // (4 * workers)))

    def size(listed: int) -> int:
        room = listed // workers
        if total is not None:
            room = min(room, (total - listed) // (2 * workers))
        return min(most, max(least, room))

    return size
