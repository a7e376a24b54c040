"""Do two files hold the same pixels, as the model is given them? Decoded in a process of its own: a codec may crash.

The upload stage asks this where a PACS keeps an image that it received in another transfer syntax. One process serves
many questions. Its memory is limited by the kernel, and so is its time: SIGPROF ends what computes too long, and
SIGALRM what hangs without computing.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import warnings
from contextlib import suppress
from typing import IO, Any, Final

from backlog.dicom.file import DicomFile
from backlog.errors import InstanceRejected, UsageError
from backlog.outcomes import Reason
from backlog.settings import Settings

_LENGTHS: Final = struct.Struct(">2Q")

#: How much longer than it may compute the process may take: it shares the cores with others.
_PATIENCE: Final = 3

#: What decoding takes, by the name it is imported by.
_DECODERS: Final = ("worker.pixels.greys", "numpy", "gdcm", "jpeg_ls", "openjpeg", "rle")


class PixelComparison:
    """A process that compares pixels; started when first asked, started again when it dies."""

    def __init__(self, settings: Settings) -> None:
        limits = (str(math.ceil(settings.decode_timeout_seconds)), str(settings.decode_memory_mb))
        self.command: tuple[str, ...] = (sys.executable, "-m", "worker.reader.same_pixels", *limits)
        self.process: subprocess.Popen[bytes] | None = None

    def same(self, ours: bytes, held: bytes) -> bool:
        """Whether two files' first frames have the same stored values, and give the model the same image.

        Raises
        ------
        InstanceRejected
            ``decoder_crashed``, ``decoder_timeout``, ``out_of_memory``; or why ``ours`` can't be decoded.
        UsageError
            This machine has no decoders.
        """
        line, code = self._ask(ours, held)
        if code not in (None, -signal.SIGPROF):
            # As the reader: the first death may be another program's SIGKILL, or a machine that swaps or pauses.
            line, code = self._ask(ours, held)
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            raise InstanceRejected(Reason.DECODER_TIMEOUT, "decoding it for comparison took too long")
        if code is not None:
            raise InstanceRejected(Reason.DECODER_CRASHED, f"the decoder's process ended with {code}")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise UsageError(
                "the PACS keeps images in another transfer syntax, and this upload worker has no decoders to compare"
                f" them ({answer['missing']} is missing): install cxr-backlog[codecs]"
            )
        if "reason" in answer:
            raise InstanceRejected(Reason(answer["reason"]), answer["detail"])
        return bool(answer["same"])

    def _ask(self, ours: bytes, held: bytes) -> tuple[bytes, int | None]:
        """Return the process's answer, or how it ended without one."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None  # noqa: S101  # it was opened with a pipe
        assert self.process.stdout is not None  # noqa: S101
        with suppress(BrokenPipeError):
            for part in (_LENGTHS.pack(len(ours), len(held)), ours, held):
                self.process.stdin.write(part)
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            if line.endswith(b"\n"):
                return line, None
        return b"", self.close()

    def close(self) -> int:
        """End the process, if there is one, and return how it ended."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        return code


def answer(ours: bytes, held: bytes) -> dict[str, object]:
    """Compare two files; return what is written to the one who asked."""
    found = []
    for name, content in (("held", held), ("ours", ours)):
        try:
            found.append(_seen(DicomFile(content)))
        except InstanceRejected as rejected:
            # What the PACS holds can't be scored: the inference stage says so, with this reason.
            if name == "held":
                return {"same": True}
            return {"reason": rejected.reason.value, "detail": f"to compare it: {rejected.detail}"}
        except MemoryError:
            return {
                "reason": Reason.OUT_OF_MEMORY.value,
                "detail": "decoding needs more memory than the limit",
            }
    return {"same": _equal(*found)}


def _seen(file: DicomFile) -> tuple[Any, ...]:
    """Return what is compared of a file: all that the model's input is made of, and the words of a colour image.

    Not the words of a grey one: encoders drop the bits above Bits Stored, which are copies of the sign or a retired
    overlay in one image, and pixels in the next. Which of them they are, the scoring path alone decides.
    """
    from worker.pixels.aspect import pixel_aspect
    from worker.pixels.attributes import declared
    from worker.pixels.decode import decode
    from worker.pixels.greys import greys
    from worker.pixels.orientation import turn_of

    promise = declared(file.header)
    frame = decode(file.parsed, promise)
    colours = (frame.words,) if frame.words.ndim == 3 else ()
    try:
        found = greys(frame, file.header, promise)
    except InstanceRejected:
        if not colours:
            raise
        return colours
    grey = found.grey
    return (
        *colours,
        found.stored.values,
        found.stored.padding,
        grey.image,
        grey.scale,
        grey.offset,
        turn_of(file.header),
        pixel_aspect(file.header),
    )


def _equal(held: tuple[Any, ...], ours: tuple[Any, ...]) -> bool:
    import numpy as np

    return len(held) == len(ours) and all(map(np.array_equal, held, ours))


def main() -> None:
    """Answer questions on standard input until it ends."""
    seconds, megabytes = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)  # what a codec prints may quote a header
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    _load_decoders()
    while len(lengths := questions.read(_LENGTHS.size)) == _LENGTHS.size:
        first, second = _LENGTHS.unpack(lengths)
        ours, held = questions.read(first), questions.read(second)
        _limit_time(2 * seconds)
        told = _guarded(ours, held)
        _limit_time(0)
        _write(answers, told)


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process after so many seconds of computing; 0 takes the limit back."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)


def _load_decoders() -> None:
    """Before any image's time runs: on a busy machine this takes longer than to decode one."""
    for name in _DECODERS:
        with suppress(ImportError, MemoryError):  # it is missing where it is needed too, and that is said
            importlib.import_module(name)


def _guarded(ours: bytes, held: bytes) -> dict[str, object]:
    try:
        return answer(ours, held)
    except ImportError as error:
        return {"missing": error.name or "a library"}
    except Exception as error:  # noqa: BLE001  # the edge of one item: a bug of ours costs it, not the run
        return {"reason": Reason.INTERNAL_ERROR.value, "detail": f"comparing pixels: {type(error).__name__}"}


def _write(answers: IO[bytes], told: dict[str, object]) -> None:
    answers.write(json.dumps(told).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
