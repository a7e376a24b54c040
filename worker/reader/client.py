"""Reading images in a process of its own, so that a codec that crashes, hangs or swells costs one image.

The inference process asks for images by the PACS's id; the reader (`worker.reader.server`) answers with what the
model sees, and runs ahead while the model works on the image before. It is started again when it dies.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from backlog.dicom.eligibility import Rules
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.model import MODELS
from backlog.outcomes import Flag, Reason
from backlog.pacs.concurrency_limit import Turn
from backlog.settings import Settings
from worker.pixels.seen import SeenSquare
from worker.reader.protocol import LENGTHS, PreprocessedImage, RejectedImage
from worker.reader.spawn import COMMAND, Child, cpu_seconds, fork, may_fork, spawn

#: Deaths of a reader at one image before the image is to blame; the first may be another program's SIGKILL, or a stall.
_MAX_READER_CRASHES: Final = 2


class Reader:
    """A reader process and its pipe. Started when first asked, started again when it dies.

    Parameters
    ----------
    settings
        Time and memory limits, and the PACS, of the reader.
    rules
        Which images are eligible.
    command
        The program that is started.
    """

    def __init__(self, settings: Settings, rules: Rules, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._seconds = settings.decode_timeout_seconds
        self._fetch_seconds = settings.pacs_seconds * 2 + 10
        self._input_side = MODELS[settings.model].side
        self.rules = rules
        self.waited = 0.0  #: seconds that it has waited for slots at the PACS
        #: Called meanwhile; what it raises ends the waiting.
        self.on_wait: Callable[[], object] = lambda: None
        self.turn = Turn()  #: of its requests, in the queue for slots
        self.process: Child | None = None
        self._ready = False
        self._buffer = bytearray()

    def read(
        self, instances: Sequence[str], side: int = 0, display_side: int = 0
    ) -> Iterator[PreprocessedImage | RejectedImage]:
        """Ask for images at once; return an iterator over one answer for each, in order, while the reader works ahead.

        Parameters
        ----------
        instances
            The PACS's own ids of the images.
        side, display_side
            As in `worker.pixels.preprocess.model_input`.

        Raises
        ------
        ServiceUnavailable, UsageError
            Here or while iterating: the PACS is unavailable or refuses us. Ask again from this instance on.
        """
        answers = self._answers(instances, side, display_side)
        next(answers, None)
        # Begun: an iterator that is dropped now knows that its answers are on their way, and stops the reader.
        return cast("Iterator[PreprocessedImage | RejectedImage]", answers)

    def _answers(
        self, instances: Sequence[str], side: int, display_side: int
    ) -> Iterator[PreprocessedImage | RejectedImage | None]:
        """Yield None when the images have been asked for, then the answers."""
        asked = False
        deaths = 0
        done = 0
        while done < len(instances):
            waiting = deque(instances[done:])
            try:
                self._ask(waiting, side, display_side)
                if not asked:
                    asked = True
                    yield None
                while waiting:
                    answer = self._answer(waiting[0])
                    deaths = 0
                    waiting.popleft()
                    done += 1
                    yield answer
            except _Died as died:
                self.stop()
                deaths += 1
                if died.at_work or deaths >= _MAX_READER_CRASHES:
                    deaths = 0
                    done += 1
                    if not asked:
                        asked = True
                        yield None
                    yield RejectedImage(InstanceRejected(died.reason, died.detail))
            except GeneratorExit:
                if waiting:
                    self.stop()  # nobody will take the answers that are on their way
                raise
            except BaseException:
                self.stop()  # answers to the rest are still on their way: a fresh pipe is simpler than counting them
                raise

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
        self.process = None
        self._ready = False
        self._buffer.clear()

    def start(self) -> None:
        """Start the process, if there is none.

        Raises
        ------
        ServiceUnavailable
            It doesn't come up.
        """
        self.launch()
        if not self._ready:
            self._wait_until_ready()
            self._ready = True

    def launch(self) -> None:
        """Start the process, if there is none, without waiting until it is ready.

        A process that has no other threads yet, as a worker's before it loads its model, forks it: everything is
        imported already, which otherwise takes a second of CPU.
        """
        if self.process is None or self.process.poll() is not None:
            self.stop()
            forks = self._command is COMMAND and may_fork()
            self.process = fork() if forks else spawn(self._command)

    def _ask(self, instances: deque[str], side: int, display_side: int) -> None:
        self.start()
        # The rules once: requests longer than a pipe, and answers that nobody reads yet, would wait for each other.
        told: list[dict[str, Any]] = [
            {
                "rules": self.rules.spec(),
                "side": side,
                "input_side": self._input_side,
                "display_side": display_side,
                "turn": self.turn,
            }
        ]
        told += [{"instance": instance} for instance in instances]
        request = "".join(json.dumps(one) + "\n" for one in told)
        assert self.process is not None  # noqa: S101  # it was started
        assert self.process.stdin is not None  # noqa: S101  # it was opened with a pipe
        try:
            self.process.stdin.write(request.encode())
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise _Died(Reason.DECODER_CRASHED, "the reader died before it was asked") from error

    def _wait_until_ready(self) -> None:
        """Tell a reader that can't start (its memory limit is too low, a library is missing) from one that died."""
        try:
            self._frame(self._fetch_seconds, timed=False)
        except _Died as died:
            raise ServiceUnavailable(f"the reader's process doesn't start: {died.detail}") from died

    def _answer(self, instance: str) -> PreprocessedImage | RejectedImage:
        head, _ = self._frame(self._fetch_seconds, timed=False)
        while head["state"] == "waiting":  # for a slot at the PACS: no failure, and it says so while it lasts
            self.waited += head["seconds"]
            self.on_wait()
            head, _ = self._frame(self._fetch_seconds, timed=False)
        if head["state"] == "fetched":
            assert self.process is not None  # noqa: S101  # it has just answered
            began = cpu_seconds(self.process.pid)
            try:
                head, blob = self._frame(self._seconds, timed=True)
            except _Died as died:
                # A machine that swaps or pauses isn't the image's fault: then the codec has hardly worked.
                spent = cpu_seconds(self.process.pid) - began
                died.at_work = died.reason is Reason.DECODER_TIMEOUT and spent > self._seconds / 2
                raise
        else:
            blob = b""
        if head["instance"] != instance:  # never one image's scores under another's name
            raise ServiceUnavailable("the reader answered for another image")
        match head["state"]:
            case "picture":
                import numpy as np  # the upload worker has none

                edge = self._input_side
                image = np.frombuffer(blob, dtype=np.float32, count=edge * edge).reshape(edge, edge)
                found = frozenset(Flag(name) for name in head["flags"])
                rest = np.frombuffer(blob, dtype=np.uint8, offset=image.nbytes)
                side = head["side"]
                displayed = rest[side * side :]
                return PreprocessedImage(
                    image,
                    found,
                    head["sop"],
                    head["study"],
                    SeenSquare(**head["square"]),
                    rest[: side * side].reshape(side, side) if side else None,
                    displayed.reshape(head["display"]) if displayed.size else None,
                    head.get("contrast", ""),
                )
            case "rejected":
                rejection = InstanceRejected(Reason(head["reason"]), head["detail"])
                return RejectedImage(rejection, head["sop"], head["study"])
            case "refused":
                raise UsageError(head["detail"])
            case _:
                raise ServiceUnavailable(head["detail"])

    def _frame(self, seconds: float, *, timed: bool) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + seconds
        lengths = self._take(LENGTHS.size, deadline, timed=timed)
        head_length, blob_length = LENGTHS.unpack(lengths)
        head = self._take(head_length, deadline, timed=timed)
        return json.loads(head), self._take(blob_length, deadline, timed=timed)

    def _take(self, size: int, deadline: float, *, timed: bool) -> bytes:
        assert self.process is not None  # noqa: S101  # _ask started it
        assert self.process.stdout is not None  # noqa: S101
        handle = self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while len(self._buffer) < size:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    if timed:
                        raise _Died(Reason.DECODER_TIMEOUT, f"decoding took longer than {self._seconds:g} s")
                    raise ServiceUnavailable("the PACS took too long over one image")
                step = os.read(handle, 1 << 20)
                if not step:
                    code = self.process.wait()
                    raise _Died(Reason.DECODER_CRASHED, f"the decoder's process ended with {code}")
                self._buffer += step
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


class _Died(Exception):  # private: it never leaves this module
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.at_work = False  #: it was at work all the time: it would do the same again
