"""The reader's process: what it does, and the two ways to start it.

It fetches a file from the PACS, judges its header, decodes it and answers with the image that the model sees, and a
larger one where a user is to look at it. Its memory is limited by the kernel, its time by the one who asks.

On the pipe: a request is one line of JSON; an answer is two lengths (big-endian uint32), JSON, and the picture.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import IO

from backlog.dicom.eligibility import Rules, flags
from backlog.dicom.file import DicomFile
from backlog.environment import from_environment
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.log import where
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs
from backlog.pacs.concurrency_limit import PacsConcurrencyLimit, Rank, Turn
from backlog.pacs.connect import connect
from backlog.pacs.limited_pacs import LimitedPacs, limited
from backlog.processes import die_with_parent
from worker.reader.protocol import LENGTHS


def serve(requests: IO[bytes], answers: IO[bytes], pacs: Pacs) -> None:
    """Answer requests until their end. The body of the reader's process.

    Parameters
    ----------
    requests
        Pipe that requests are read from.
    answers
        Pipe that answers are written to.
    pacs
        The PACS that images are fetched from.
    """
    from backlog.dicom.header import screen  # after the memory limit is set
    from worker.pixels.preprocess import model_input

    _write(answers, {"state": "ready"})
    if isinstance(pacs, LimitedPacs):
        pacs.limit.on_wait = _say_that_it_waits(answers, pacs.limit)
    rules, side, input_side, display_side = Rules(), 0, 0, 0
    for line in requests:
        request = json.loads(line)
        if "rules" in request:  # of all that follow
            rules, side, input_side, display_side = (
                Rules.from_spec(request["rules"]),
                request["side"],
                request["input_side"],
                request["display_side"],
            )
            if isinstance(pacs, LimitedPacs):
                rank, begun = request["turn"]
                pacs.limit.turn = Turn(Rank(rank), begun)
            continue
        answer: dict[str, object] = {"instance": request["instance"], "sop": "", "study": ""}
        try:
            file = DicomFile(pacs.fetch(request["instance"]))
            _write(answers, answer | {"state": "fetched"})
            found = screen(file.header, rules)
            if found.identity is not None:
                answer["sop"] = found.identity.sop_instance_uid
                answer["study"] = found.identity.study_instance_uid
            if found.rejection is not None:
                raise found.rejection
            seen = model_input(file, side, input_side=input_side, display_side=display_side)
            names = sorted(flag.value for flag in seen.flags | flags(found.attributes, rules))
            shown = b"" if seen.shown is None else seen.shown.tobytes()
            answer |= {"flags": names, "side": 0 if seen.shown is None else len(seen.shown)}
            answer["square"] = asdict(seen.square)
            displayed = b""
            if seen.displayed is not None:
                displayed = seen.displayed.image.tobytes()
                answer |= {
                    "display": seen.displayed.image.shape,
                    "contrast": seen.displayed.contrast.value,
                }
            _write(answers, answer | {"state": "picture"}, seen.image.tobytes() + shown + displayed)
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


def _say_that_it_waits(answers: IO[bytes], limit: PacsConcurrencyLimit) -> Callable[[], None]:
    told = [limit.waited]

    def say() -> None:
        _write(answers, {"state": "waiting", "seconds": limit.waited - told[0]})
        told[0] = limit.waited

    return say


def _rejected(reason: Reason, detail: str) -> dict[str, str]:
    return {"state": "rejected", "reason": reason.value, "detail": detail}


def _write(answers: IO[bytes], head: Mapping[str, object], blob: bytes = b"") -> None:
    text = json.dumps(head).encode()
    answers.write(LENGTHS.pack(len(text), len(blob)) + text + blob)
    answers.flush()


def main() -> None:
    """Run as a reader: requests on standard input, answers on standard output."""
    die_with_parent(
        signal.SIGKILL
    )  # with a codec that hangs it would never read that its requests have ended
    settings = from_environment()
    limit = settings.decode_memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a codec or a library prints would break the frames, and may quote a header: it goes nowhere.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    serve(os.fdopen(os.dup(0), "rb"), answers, limited(connect(settings), settings))


if __name__ == "__main__":
    main()
