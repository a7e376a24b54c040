"""The runner's inbox: a run for each zip that is put there, once it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backlog.errors import BacklogError
from backlog.inputs.zip_archive import ZipArchive
from producer.runner.runs import RunInfo

#: A zip that has not changed for so many seconds is taken to be whole: a program that copies it writes all the time.
_SETTLED_SECONDS: Final = 15.0

#: What tells one content of a path from another: size and time of change.
_Stamp = tuple[int, int]


@dataclass
class Inbox:
    """The zips of one folder."""

    folder: Path
    settled: float = _SETTLED_SECONDS
    _seen: dict[Path, tuple[_Stamp, float]] = field(default_factory=dict, init=False)
    _unreadable: dict[Path, tuple[_Stamp, str]] = field(default_factory=dict, init=False)

    def new(self, runs: Iterable[RunInfo], now: float) -> Iterator[Path]:
        """Yield the zips that are whole and of which there is no run.

        Parameters
        ----------
        runs
            All runs of the runner's folder.
        now
            Seconds of a clock that only goes forward.
        """
        known = {
            (run.source["path"], run.source.get("fingerprint")) for run in runs if run.source is not None
        }
        for path in sorted(self.folder.glob("*.[zZ][iI][pP]")):
            try:
                stamp = (path.stat().st_size, path.stat().st_mtime_ns)
            except OSError:
                continue
            before = self._seen.get(path)
            if before is None or before[0] != stamp:
                self._seen[path] = (stamp, now)
                self._unreadable.pop(path, None)
                continue
            if now - before[1] < self.settled or self._unreadable.get(path, (None,))[0] == stamp:
                continue
            try:
                with ZipArchive(path) as archive:
                    fingerprint = archive.fingerprint
            except (BacklogError, OSError) as error:
                self._unreadable[path] = (stamp, str(error))
                continue
            if (str(path), fingerprint) not in known:
                yield path

    @property
    def unreadable(self) -> dict[Path, str]:
        """The zips that can't be read as they are, and why; one that changes is tried again."""
        return {path: why for path, (_, why) in self._unreadable.items() if path.exists()}
