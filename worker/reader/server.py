"""The reader's process: what it does, and the two ways to start it.

It fetches a file from the PACS, judges its header, decodes it and answers with the 224 × 224 picture, and a larger one
where somebody is to look at it. Its memory is limited by the kernel, its time by the one who asks.

On the pipe: a request is one line of JSON; an answer is two lengths (big-endian uint32), JSON, and the picture.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Protocol

from backlog.dicom.eligibility import Rules, flags
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.log import where
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs, connect
from backlog.pacs.concurrency_limit import politely
from backlog.settings import from_environment

LENGTHS: Final = struct.Struct(">2I")

#: What is started as the reader.
COMMAND: Final = (sys.executable, "-m", "worker.reader.server")


class Child(Protocol):
    """A process with two pipes: `subprocess.Popen`, or one that was forked."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """Where requests go."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """Where answers come from."""

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""

    def wait(self) -> int:
        """Wait for the end and return the exit status."""

    def kill(self) -> None:
        """Send SIGKILL."""


def spawn(command: Sequence[str]) -> Child:
    """Start a reader as a program of its own."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def preload() -> None:
    """Import what a reader needs, for those that are forked from here."""
    import worker.pixels.preprocess  # noqa: F401


def may_fork() -> bool:
    """Whether this process has preloaded and has no other threads, whose locks a copy would hold for ever."""
    return "worker.pixels.preprocess" in sys.modules and len([*Path("/proc/self/task").iterdir()]) == 1


def fork() -> Child:
    """Start a reader as a copy of this process, without its open files and signal handlers."""
    for_it, to_it = os.pipe()
    from_it, by_it = os.pipe()
    pid = os.fork()
    if pid:
        os.close(for_it)
        os.close(by_it)
        return _Forked(pid, os.fdopen(to_it, "wb"), os.fdopen(from_it, "rb", buffering=0))
    try:
        gc.freeze()  # what was inherited is never collected: it would close the numbers of files opened since
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(for_it, 0)
        os.dup2(by_it, 1)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        main()
    finally:
        os._exit(1)  # nothing of the process that was copied may run here, not even its cleaning up


class _Forked:
    """What `subprocess.Popen` would be."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._status: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        status = self._reap(0)
        assert status is not None  # noqa: S101  # it was waited for
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _reap(self, how: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process has spent (proc(5), fields 14 and 15 of ``stat``); 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(requests: IO[bytes], answers: IO[bytes], pacs: Pacs) -> None:
    """Answer requests until their end. The body of the reader's process."""
    from backlog.dicom.header import judged, read_header  # after the memory limit is set
    from worker.pixels.preprocess import model_input

    _write(answers, {"state": "ready"})
    rules, side = Rules(), 0
    for line in requests:
        request = json.loads(line)
        if "rules" in request:  # of all that follow
            rules, side = Rules.from_spec(request["rules"]), request["side"]
            continue
        answer = {"instance": request["instance"], "sop": "", "study": ""}
        try:
            dicom = pacs.fetch(request["instance"])
            _write(answers, answer | {"state": "fetched"})
            header = read_header(dicom)
            found = judged(header, rules)
            if found.identity is not None:
                answer["sop"] = found.identity.sop_instance_uid
                answer["study"] = found.identity.study_instance_uid
            if found.rejection is not None:
                raise found.rejection
            seen = model_input(dicom, side)
            names = sorted(flag.value for flag in seen.flags | flags(found.facts, rules))
            shown = b"" if seen.shown is None else seen.shown.tobytes()
            _write(
                answers,
                answer
                | {"state": "picture", "flags": names, "side": 0 if seen.shown is None else len(seen.shown)},
                seen.image.tobytes() + shown,
            )
        except InstanceRejected as rejected:
            _write(answers, answer | _rejected(rejected.reason, rejected.detail))
        except MemoryError:
            starved = _rejected(Reason.OUT_OF_MEMORY, "decoding needs more memory than the limit")
            _write(answers, answer | starved)
        except UsageError as error:
            _write(answers, answer | {"state": "refused", "detail": str(error)})
        except ServiceUnavailable as error:
            _write(answers, answer | {"state": "unavailable", "detail": str(error)})
        except Exception as error:  # noqa: BLE001  # the edge of one item: a bug of ours costs it, not the run
            _write(answers, answer | _rejected(Reason.INTERNAL_ERROR, where(error)))


def _rejected(reason: Reason, detail: str) -> dict[str, str]:
    return {"state": "rejected", "reason": reason.value, "detail": detail}


def _write(answers: IO[bytes], head: Mapping[str, object], blob: bytes = b"") -> None:
    text = json.dumps(head).encode()
    answers.write(LENGTHS.pack(len(text), len(blob)) + text + blob)
    answers.flush()


def main() -> None:
    """Run as a reader: requests on standard input, answers on standard output."""
    settings = from_environment()
    limit = settings.item_megabytes << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a codec or a library prints would break the frames, and may quote a header: it goes nowhere.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    serve(os.fdopen(os.dup(0), "rb"), answers, politely(connect(settings), settings))


if __name__ == "__main__":
    main()
