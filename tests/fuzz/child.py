"""One path under atheris: ``python -m tests.fuzz.child PATH FOLDER SECONDS RUNS``. Started by :mod:`tests.fuzz`.

A bug does not end the run: its input is saved once for each place that it comes from, and fuzzing goes on.
What ends the process (a codec's crash, a hang) is saved by libFuzzer, and the parent starts it again.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import traceback
from pathlib import Path
from random import Random
from typing import Final

import atheris
import numpy as np  # noqa: F401  # loaded before imports are looked at: it takes half as long
import pydicom  # noqa: F401

with atheris.instrument_imports(include=["backlog", "worker"]):
    from tests.fuzz.mutation import changed
    from tests.fuzz.paths import walk
    from tests.fuzz.seeds import MOST

#: Address space; what needs more ends as MemoryError.
_MEMORY: Final = 3 << 30
#: Seconds that one input may take.
_TIMEOUT: Final = 10
#: What share of the changes knows what it changes; the rest is libFuzzer's own.
_KNOWING: Final = 0.8


def place_of(error: BaseException) -> str:
    """Return where an exception comes from: its kind, and the deepest line that is ours."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not {"site-packages", "fuzz"} & set(Path(frame.filename).parts)
    ]
    return f"{type(error).__name__} at {frames[-1] if frames else 'the path itself'}"


class Harness:
    """Sends inputs down a path and keeps what fails."""

    def __init__(self, path: str, findings: Path) -> None:
        self._path = path
        self._findings = findings
        self._seen: set[str] = set()

    def test(self, file: bytes) -> None:
        """Try one input."""
        try:
            walk(self._path, file)
        except Exception as error:  # noqa: BLE001  # whatever is not an answer is what is looked for
            place = place_of(error)
            if place not in self._seen:
                self._seen.add(place)
                name = hashlib.sha256(place.encode()).hexdigest()[:12]
                (self._findings / f"bug-{name}").write_bytes(file)
                (self._findings / f"bug-{name}.txt").write_text(f"{place}\n\n{traceback.format_exc()}")

    def mutate(self, file: bytes, most: int, seed: int) -> bytes:
        """Change one input."""
        if Random(seed).random() < _KNOWING:
            new = changed(self._path, file, seed)
            if new is not None and len(new) <= most:
                return new
        return bytes(atheris.Mutate(file, most))


def main(path: str, folder: Path, seconds: int, runs: int) -> None:
    """Fuzz for some seconds.

    Parameters
    ----------
    path
        Of :data:`tests.fuzz.paths.PATHS`.
    folder
        Holds the corpus, which grows, and the findings.
    seconds
        How long, at most.
    runs
        Inputs, at most, those of the corpus included; 0 for as many as there is time for.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    findings = folder / "findings"
    harness = Harness(path, findings)
    atheris.Setup(
        [
            "fuzz",
            f"-max_total_time={seconds}",
            f"-runs={runs or -1}",
            "-len_control=0",  # else nothing grows beyond the largest input of the corpus for a thousand runs
            f"-max_len={MOST}",
            f"-timeout={_TIMEOUT}",
            "-rss_limit_mb=0",
            "-print_final_stats=1",
            "-report_slow_units=1000",
            f"-artifact_prefix={findings}/",
            str(folder / "corpus"),
        ],
        harness.test,
        custom_mutator=harness.mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
