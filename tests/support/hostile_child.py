"""Files through header, eligibility and pixels, each within limits: ``python -m tests.support.hostile_child``.

Takes their paths on standard input, and prints how each ends as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from tests.support.dicom_images import chest, dicom

#: What one file may take.
MEMORY = 2 << 30


def ended(file: bytes) -> dict[str, object]:
    """Return how a file ends."""
    from backlog.dicom.eligibility import Rules, rejection_reason
    from backlog.dicom.file import DicomFile
    from backlog.dicom.header import eligibility_attributes
    from backlog.errors import InstanceRejected
    from worker.pixels.preprocess import model_input

    try:
        read = DicomFile(file)
        reason = rejection_reason(eligibility_attributes(read.header), Rules())
        if reason is not None:
            return {"outcome": reason.outcome.value, "reason": reason.value}
        _ = read.identity
        seen = model_input(read)
    except InstanceRejected as rejected:
        outcome = rejected.reason.outcome.value
        return {"outcome": outcome, "reason": rejected.reason.value, "detail": rejected.detail}
    return {"outcome": "reported", "flags": sorted(flag.value for flag in seen.flags)}


def main() -> None:
    """Answer each line, a path, with a line: how its file ends in a process of its own, or that process's status."""
    ended(dicom(chest(64, 64)))  # imports what decoding takes, once for all of them
    print("ready", flush=True)
    for line in sys.stdin:
        if not (pid := os.fork()):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            print(json.dumps(ended(Path(line.rstrip("\n")).read_bytes())), flush=True)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()
