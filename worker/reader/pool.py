"""Several readers of one inference process: a GPU scores faster than one process reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backlog.dicom.eligibility import Rules
from backlog.pacs.concurrency_limit import PacsConcurrencyLimit
from backlog.processes import cores
from backlog.settings import Settings
from worker.model.engine import may_use_gpu
from worker.reader.client import Reader
from worker.reader.protocol import PreprocessedImage, RejectedImage
from worker.reader.spawn import COMMAND

#: Most readers of one process, where the settings don't say how many: at 5 to 10 ms an image they read 2,000 a second.
_MAX: Final = 16


def how_many(settings: Settings) -> int:
    """Return how many readers an inference process has: one for a CPU, one for each core for a GPU."""
    if settings.readers:
        return settings.readers
    return min(_MAX, cores()) if may_use_gpu(settings.engine) else 1


class Readers:
    """Readers that share each chunk: the first image goes to the first, the second to the second, and so on.

    Parameters
    ----------
    settings
        Time and memory limits, and the PACS, of the readers.
    rules
        Which images are eligible.
    count
        Number of reader processes, at least 1.
    command
        The program that is started.
    """

    def __init__(
        self, settings: Settings, rules: Rules, count: int, command: Sequence[str] = COMMAND
    ) -> None:
        self._readers = [Reader(settings, rules, command) for _ in range(count)]

    @property
    def waited(self) -> float:
        """Seconds that the processes have waited for slots at the PACS, one after the other."""
        return max(reader.waited for reader in self._readers)

    def follow(self, limit: PacsConcurrencyLimit) -> None:
        """Let images wait for a slot at the PACS as this process does: in the same turn, and for as long."""
        for reader in self._readers:
            reader.turn, reader.on_wait = limit.turn, limit.on_wait

    @property
    def rules(self) -> Rules:
        """What may be scored."""
        return self._readers[0].rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        for reader in self._readers:
            reader.rules = rules

    def read(
        self, instances: Sequence[str], side: int = 0, display_side: int = 0
    ) -> Iterator[PreprocessedImage | RejectedImage]:
        """Yield one answer for each instance, in order; all readers work ahead (`worker.reader.client.Reader.read`).

        Parameters
        ----------
        instances
            The PACS's ids.
        side
            Where it isn't 0, the square is returned too for people's eyes, at least so many pixels a side.
        display_side
            Where it isn't 0, the whole image too, as a viewer shows it.
        """
        count = len(self._readers)
        shares: list[Iterator[PreprocessedImage | RejectedImage]] = []
        try:
            for place, reader in enumerate(self._readers):
                shares.append(reader.read(instances[place::count], side, display_side))
            for place in range(len(instances)):
                yield next(shares[place % count])
        finally:
            for share in shares:
                share.close()  # type: ignore[attr-defined]  # they are generators

    def launch(self) -> None:
        """Start all processes without waiting until they are ready."""
        for reader in self._readers:
            reader.launch()

    def start(self) -> None:
        """Start all processes.

        Raises
        ------
        ServiceUnavailable
            One doesn't come up.
        """
        self.launch()
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """Kill all processes."""
        for reader in self._readers:
            reader.stop()
